"""The worker: it takes the leases it can get and works on their clusters until it is asked to end."""

import asyncio
import functools
import os
import secrets
import socket
import time
from contextlib import suppress
from typing import cast

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.config import Settings
from app.metrics import (
    CLUSTER_COUNT,
    LEASE_CHANGES,
    LEASE_TAKEOVERS,
    WORKER_CLUSTERS,
    WORKERS,
    forget_cluster,
)
from app.recurring import Recurring
from app.solving.cancellation import end
from app.solving.controller import ClusterController
from app.solving.solver_process import SolverClosed, SolverProcess
from app.solving.tasks import warm_task
from app.storage import topics, workers
from app.storage.keys import CLUSTERS, WAKE_PATTERN, ClusterKeys
from app.storage.lease import Lease, LeaseLost, acquire, release, renew

RENEWALS_PER_LEASE = 4.0
LOOK_SECONDS = 0.5
"""How often leases that may be free are looked for."""

RELEASE_SECONDS = 1.0
"""What giving the leases up may take when the worker ends."""

log = structlog.stdlib.get_logger(__name__)


class Worker:
    """One worker process's work. `run` once."""

    def __init__(self, settings: Settings, redis: Redis, stop: asyncio.Event) -> None:
        self._settings = settings
        self._redis = redis
        self._stop = stop
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._solver = SolverProcess("solver", warm_task)
        self._planner = SolverProcess("planner", warm_task)
        self._working: dict[str, asyncio.Task[None]] = {}
        self._leases: dict[str, Lease] = {}
        self._wakes: dict[str, asyncio.Event] = {}

    async def run(self) -> None:
        listening: asyncio.Task[None] | None = None
        unreached = Recurring(log, "server not reached")
        stopping = asyncio.create_task(self._stop.wait())
        try:
            starting = asyncio.create_task(self._start())
            await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                await end(starting)
                return
            await starting
            listening = asyncio.create_task(self._listen())
            WORKERS.set(1)
            log.info("worker ready", worker=self.worker_id)
            while not self._stop.is_set():
                try:
                    await workers.beat(self._redis, self.worker_id, self._settings.worker_lease_seconds)
                    await self._take_leases()
                    unreached.over()
                except (RedisError, OSError) as error:
                    unreached.warn(reason=f"{type(error).__name__}: {error}")
                await asyncio.wait([stopping], timeout=LOOK_SECONDS)
        finally:
            WORKERS.set(0)
            stopping.cancel()
            if listening is not None:
                await end(listening)
            await self._close()

    async def _start(self) -> None:
        await asyncio.gather(self._solver.start(), self._planner.start())

    # --- leases
    async def _take_leases(self) -> None:
        known = {name.decode() for name in cast("set[bytes]", await self._redis.smembers(CLUSTERS))}
        CLUSTER_COUNT.set(len(known))
        for cluster_id in sorted(known - self._working.keys()):
            keys = ClusterKeys(cluster_id)
            if not await self._redis.exists(keys.cluster):
                continue
            asked = time.monotonic()
            lease = await acquire(self._redis, keys, self.worker_id, self._settings.worker_lease_seconds)
            if lease is None:
                continue
            LEASE_CHANGES.labels("acquired").inc()
            if lease.token > 1:  # whoever is first draws 1
                LEASE_TAKEOVERS.inc()
            log.info("lease acquired", cluster_id=cluster_id, token=lease.token)
            self._leases[cluster_id] = lease
            self._wakes[cluster_id] = asyncio.Event()
            task = asyncio.create_task(self._work(lease, asked), name=f"cluster {cluster_id}")
            self._working[cluster_id] = task
            task.add_done_callback(functools.partial(self._ended, cluster_id))
            WORKER_CLUSTERS.set(len(self._working))

    def _ended(self, cluster_id: str, _: object) -> None:
        self._working.pop(cluster_id, None)
        self._wakes.pop(cluster_id, None)
        WORKER_CLUSTERS.set(len(self._working))

    async def _work(self, lease: Lease, asked: float) -> None:
        """Work on the cluster while the lease lasts; renewing is a task of its own, so that slow work does
        not lose the lease, and losing the lease ends the work at once."""
        controller = ClusterController(
            self._redis, lease, self._settings, self._solver, self._planner, self._wakes[lease.cluster_id]
        )
        work = asyncio.create_task(controller.run())
        keep = asyncio.create_task(self._keep(lease, asked))
        try:
            await asyncio.wait([work, keep], return_when=asyncio.FIRST_COMPLETED)
        finally:
            renewing = not keep.done()
            await end(work, keep)
        forget_cluster(lease.cluster_id)
        failed = None if work.cancelled() else work.exception()
        lost = not renewing or isinstance(failed, LeaseLost)
        if lost:
            LEASE_CHANGES.labels("lost").inc()
            log.warning("lease lost", cluster_id=lease.cluster_id, token=lease.token)
            self._leases.pop(lease.cluster_id, None)
            return
        if failed is not None and not isinstance(failed, SolverClosed):
            log.error(
                "work on the cluster failed, beginning anew", cluster_id=lease.cluster_id, exc_info=failed
            )
        await self._give_up(lease)

    async def _keep(self, lease: Lease, asked: float) -> None:
        """Renew until the lease is lost, or may be: nobody renewed it for as long as it lasts."""
        lasts = lease.ttl_milliseconds / 1000.0
        renewed = asked
        unrenewed = Recurring(log, "lease not renewed")
        while True:
            await asyncio.sleep(lasts / RENEWALS_PER_LEASE)
            asked = time.monotonic()
            if asked - renewed > lasts:
                return
            try:
                async with asyncio.timeout(max(0.05, lasts - (asked - renewed))):
                    if not await renew(self._redis, lease):
                        return
            except (RedisError, OSError) as error:  # TimeoutError is an OSError
                unrenewed.warn(cluster_id=lease.cluster_id, reason=f"{type(error).__name__}: {error}")
                continue
            unrenewed.over()
            renewed = asked

    async def _give_up(self, lease: Lease) -> None:
        self._leases.pop(lease.cluster_id, None)
        with suppress(RedisError, OSError):
            async with asyncio.timeout(RELEASE_SECONDS):
                if await release(self._redis, lease):
                    LEASE_CHANGES.labels("released").inc()

    # --- waking
    async def _listen(self) -> None:
        """Wake the cluster that something happened in. Messages may be lost: looks are periodic anyway."""
        while True:
            try:
                async with self._redis.pubsub() as channel:
                    await channel.psubscribe(WAKE_PATTERN)
                    while True:
                        message = await channel.get_message(ignore_subscribe_messages=True, timeout=1.0)
                        if message is None or message["data"] != topics.WORK.encode():
                            continue
                        name: bytes = message["channel"]
                        start, end = name.index(b"{") + 1, name.rindex(b"}")
                        wake = self._wakes.get(name[start:end].decode())
                        if wake is not None:
                            wake.set()
            except (RedisError, OSError):
                await asyncio.sleep(0.5)

    async def _close(self) -> None:
        """Abandon what is being done; nothing half done is ever visible, since writes are transactions."""
        working = list(self._working.values())
        for task in working:
            task.cancel()
        await asyncio.gather(self._solver.close(), self._planner.close())
        await end(*working)
        for lease in list(self._leases.values()):
            await self._give_up(lease)
        with suppress(RedisError, OSError):
            async with asyncio.timeout(RELEASE_SECONDS):
                await workers.leave(self._redis, self.worker_id)
        log.info("worker ended", worker=self.worker_id)


async def run(settings: Settings, redis: Redis, stop: asyncio.Event) -> None:
    """Work until `stop` is set; then end within seconds, giving all leases up."""
    await Worker(settings, redis, stop).run()
