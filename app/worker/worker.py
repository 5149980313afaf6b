"""The worker: it takes the leases it can get and works on their clusters until it is asked to end."""

import asyncio
import functools
import os
import secrets
import socket
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.config import Settings
from app.observability.metrics import (
    CLUSTER_COUNT,
    LEASE_CHANGES,
    LEASE_TAKEOVERS,
    WORKER_CLUSTERS,
    WORKERS,
    forget_cluster,
)
from app.runtime.cancellation import end
from app.runtime.recurring import Recurring
from app.solver_process.process import SolverClosed, SolverProcess
from app.solver_process.tasks import warm_planner_task, warm_solver_task
from app.statistics.warm import warm as warm_instance
from app.storage import clock, topics, workers
from app.storage.keys import CLUSTERS, WAKE_PATTERN, ClusterKeys
from app.storage.lease import Lease, LeaseLost, acquire, release, renew
from app.worker.controller import ClusterController
from app.worker.pace import Wake
from app.worker.sharing import in_own_order, share, surrendered

RENEWALS_PER_LEASE = 4.0
LOOK_SECONDS = 0.5
"""How often leases that may be free are looked for."""

STARTING_BEAT_SECONDS = 2.0

ALIVE_PART = 0.75
"""Of a lease, for which a worker counts as alive: the others have forgotten it when its leases run out, which
it last renewed at most a quarter of their time ago."""

SETTLED_PART = 0.25
"""Of a lease, for which the same workers have to live before one gives clusters up to the others: one that
missed a beat or is about to end would have them for a moment."""

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 30.0
"""Before a cluster is worked on again whose work failed in a way that nobody foresaw."""

FORGIVEN_SECONDS = 300.0
"""Of work without such a failure: the next pause is the first again."""

RELEASE_SECONDS = 1.0
"""What giving the leases up may take when the worker ends."""

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, eq=False, slots=True)
class _Work:
    """What is done on one cluster. `leaving`: set to give its lease up."""

    lease: Lease
    controller: ClusterController
    wake: Wake
    leaving: asyncio.Event


class Worker:
    """One worker process's work. `run` once."""

    def __init__(self, settings: Settings, redis: Redis, stop: asyncio.Event) -> None:
        self._settings = settings
        self._redis = redis
        self._stop = stop
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._solver = SolverProcess("solver", warm_solver_task)
        self._planner = SolverProcess("planner", warm_planner_task)
        self._working: dict[str, _Work] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, tuple[int, float]] = {}
        self._alive: Sequence[str] = ()
        self._alive_since = 0.0

    async def run(self) -> None:
        listening: list[asyncio.Task[None]] = []
        unreached = Recurring(log, "server not reached")
        stopping = asyncio.create_task(self._stop.wait())
        alive_seconds = ALIVE_PART * self._settings.worker_lease_seconds
        try:
            log.info("worker starts; the first start compiles kernels, for a minute or more")
            starting = asyncio.create_task(self._start())
            announcing = asyncio.create_task(self._announce_start())
            await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
            await end(announcing)
            if self._stop.is_set():
                await end(starting)
                return
            await starting
            await clock.first_measure(self._redis)
            listening = [
                asyncio.create_task(self._listen()),
                asyncio.create_task(self._watch_streams()),
                asyncio.create_task(clock.keep_clock(self._redis, clock.process_name("worker"))),
            ]
            WORKERS.set(1)
            log.info("worker ready", worker=self.worker_id)
            while not self._stop.is_set():
                try:
                    alive = await workers.beat(self._redis, self.worker_id, alive_seconds)
                    await self._share(alive)
                    unreached.over()
                except (RedisError, OSError) as error:
                    unreached.warn(reason=f"{type(error).__name__}: {error}")
                await asyncio.wait([stopping], timeout=LOOK_SECONDS)
        finally:
            WORKERS.set(0)
            stopping.cancel()
            await end(*listening)
            await self._close()

    async def _start(self) -> None:
        await asyncio.gather(self._solver.start(), self._planner.start(), asyncio.to_thread(warm_instance))

    async def _announce_start(self) -> None:
        """Say every STARTING_BEAT_SECONDS that this worker starts, so that readiness can."""
        while True:
            with suppress(RedisError, OSError):
                await workers.beat_starting(self._redis, self.worker_id, 4 * STARTING_BEAT_SECONDS)
            await asyncio.sleep(STARTING_BEAT_SECONDS)

    # --- leases
    async def _share(self, alive: Sequence[str]) -> None:
        """Take clusters that nobody has, up to this worker's share, or give some up where it has more."""
        now = time.monotonic()
        if alive != self._alive:
            self._alive, self._alive_since = alive, now
        known = {name.decode() for name in cast("set[bytes]", await self._redis.smembers(CLUSTERS))}
        self._failures = {name: found for name, found in self._failures.items() if name in known}
        CLUSTER_COUNT.set(len(known))
        fair = share(self.worker_id, alive, len(known))
        held = len(self._working)
        if held < fair:
            now = time.monotonic()
            resting = {name for name, (_, until) in self._failures.items() if until > now}
            await self._take(known - self._working.keys() - resting, fair - held)
        leaving = sum(work.leaving.is_set() for work in self._working.values())
        settled = now - self._alive_since >= SETTLED_PART * self._settings.worker_lease_seconds
        if held - leaving > fair and settled:
            self._leave(surrendered(held - leaving, fair))

    async def _take(self, candidates: Collection[str], count: int) -> None:
        """Up to `count` of the candidates, those of them that are free."""
        ordered = in_own_order(self.worker_id, candidates)
        async with self._redis.pipeline(transaction=False) as pipe:
            for cluster_id in ordered:
                pipe.exists(ClusterKeys(cluster_id).cluster)
                pipe.exists(ClusterKeys(cluster_id).lease)
            # Of those whose server does not answer we know nothing: they are not free.
            found = await pipe.execute(raise_on_error=False)
        free = [
            cluster_id
            for cluster_id, exists, leased in zip(ordered, found[::2], found[1::2], strict=True)
            if exists == 1 and leased == 0
        ]
        asked = time.monotonic()
        # All before work begins on any: what a dead worker had is not left to itself while that is read in.
        lease_seconds = self._settings.worker_lease_seconds
        leases = await asyncio.gather(
            *(acquire(self._redis, ClusterKeys(it), self.worker_id, lease_seconds) for it in free[:count]),
            return_exceptions=True,
        )
        for lease in leases:
            if isinstance(lease, Lease):
                self._begin(lease, asked)
        for failure in leases:
            if isinstance(failure, BaseException):
                raise failure

    def _begin(self, lease: Lease, asked: float) -> None:
        cluster_id = lease.cluster_id
        LEASE_CHANGES.labels("acquired").inc()
        if lease.token > 1:  # whoever is first draws 1
            LEASE_TAKEOVERS.inc()
        log.info("lease acquired", cluster_id=cluster_id, token=lease.token)
        wake = Wake()
        controller = ClusterController(self._redis, lease, self._settings, self._solver, self._planner, wake)
        work = _Work(lease, controller, wake, asyncio.Event())
        self._working[cluster_id] = work
        self._tasks[cluster_id] = task = asyncio.create_task(
            self._work(work, asked), name=f"cluster {cluster_id}"
        )
        task.add_done_callback(functools.partial(self._ended, cluster_id))
        WORKER_CLUSTERS.set(len(self._working))

    def _leave(self, count: int) -> None:
        """Those at rest first: a solve that is given up has to be begun anew by whoever takes over."""
        staying = [work for work in self._working.values() if not work.leaving.is_set()]
        for work in sorted(staying, key=lambda work: work.controller.busy)[:count]:
            log.info("lease given up, others have fewer", cluster_id=work.lease.cluster_id)
            work.leaving.set()

    def _ended(self, cluster_id: str, _: object) -> None:
        self._working.pop(cluster_id, None)
        self._tasks.pop(cluster_id, None)
        WORKER_CLUSTERS.set(len(self._working))

    async def _work(self, own: "_Work", asked: float) -> None:
        """Work on the cluster while the lease lasts; renewing is a task of its own, so that slow work does
        not lose the lease, and losing the lease ends the work at once."""
        lease = own.lease
        work = asyncio.create_task(own.controller.run())
        keep = asyncio.create_task(self._keep(lease, asked))
        leaving = asyncio.create_task(own.leaving.wait())
        try:
            await asyncio.wait([work, keep, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            renewing = not keep.done()
            await end(work, keep, leaving)
        forget_cluster(lease.cluster_id)
        failed = None if work.cancelled() else work.exception()
        lost = not renewing or isinstance(failed, LeaseLost)
        if lost:
            LEASE_CHANGES.labels("lost").inc()
            log.warning("lease lost", cluster_id=lease.cluster_id, token=lease.token)
            return
        if failed is not None and not isinstance(failed, SolverClosed):
            log.error(
                "work on the cluster failed, starting again", cluster_id=lease.cluster_id, exc_info=failed
            )
            self._failed(lease.cluster_id)
        await self._give_up(lease)

    def _failed(self, cluster_id: str) -> None:
        """Leave the cluster alone for a while, the longer the more often its work failed: what spoils one
        cluster's work must not take the others' time."""
        before, until = self._failures.get(cluster_id, (0, 0.0))
        count = 1 if time.monotonic() - until > FORGIVEN_SECONDS else before + 1
        pause = min(FIRST_PAUSE_SECONDS * 2 ** min(count - 1, 10), MAX_PAUSE_SECONDS)
        self._failures[cluster_id] = count, time.monotonic() + pause

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
                    for missed in self._working.values():  # announcements may have passed meanwhile
                        missed.wake.set()
                    while True:
                        message = await channel.get_message(ignore_subscribe_messages=True, timeout=1.0)
                        if message is None or message["data"] != topics.WORK.encode():
                            continue
                        name: bytes = message["channel"]
                        start, end = name.index(b"{") + 1, name.rindex(b"}")
                        work = self._working.get(name[start:end].decode())
                        if work is not None:
                            work.wake.set()
            except (RedisError, OSError):
                await asyncio.sleep(0.5)

    async def _watch_streams(self) -> None:
        """Wake the clusters that have telemetry to fold. One request for all of them, rather than a look at
        each: nobody announces windows."""
        while True:
            await asyncio.sleep(self._settings.worker_tick_seconds)
            clusters = list(self._working.values())
            with suppress(RedisError, OSError):
                async with self._redis.pipeline(transaction=False) as pipe:
                    for work in clusters:
                        pipe.xlen(ClusterKeys(work.lease.cluster_id).telemetry)
                    waiting = await pipe.execute(raise_on_error=False)
                for work, length in zip(clusters, waiting, strict=True):
                    if isinstance(length, int) and length > 0:
                        work.wake.notify_of_telemetry()

    async def _close(self) -> None:
        """Abandon what is being done; nothing half done is ever visible, since writes are transactions."""
        leases = [work.lease for work in self._working.values()]
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(self._solver.close(), self._planner.close())
        await end(*tasks)
        await asyncio.gather(*map(self._give_up, leases))
        with suppress(RedisError, OSError):
            async with asyncio.timeout(RELEASE_SECONDS):
                await workers.leave(self._redis, self.worker_id)
        log.info("worker ended", worker=self.worker_id)


async def run(settings: Settings, redis: Redis, stop: asyncio.Event) -> None:
    """Work until `stop` is set; then end within seconds, giving all leases up."""
    await Worker(settings, redis, stop).run()
