"""`moeplace serve`: one process that starts the others, again when they die, and ends them in order.

It does nothing else, so it is the one process that hardly can die. All children end with it
(`app.runtime.parent_death`).
"""

import asyncio
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

import structlog
from redis.asyncio import Redis

from app.access.mode import operator_secret, require_operator
from app.config import Settings
from app.observability.metrics import MULTIPROCESS_DIRECTORY
from app.server.tls import check_certificate, scheme_of, warn_of_plain_http
from app.storage import workers
from app.storage.client import connect, open_client
from app.storage.durable import require_durability
from app.storage.embedded import EmbeddedServer, private_runtime_base
from app.supervisor.processes import Processes
from app.supervisor.readiness import what_is_missing
from app.supervisor.sighup import SighupPolicy
from moeplace_agent.serving.listening import ListeningError, open_listener, url_of

PATIENCE_SECONDS = 10.0
"""How often an operator who waits for the service is told what it is waiting for."""

WORKER_SECONDS = 1.0
SERVER_SECONDS = 0.8
"""What the worker and then the server have to end, after `drain_seconds`; all within 10 s by default."""

log = structlog.stdlib.get_logger(__name__)


class SupervisorError(Exception):
    """The service cannot start; the message is one line for an operator."""


class Supervisor:
    """The processes of one service. `api_only` leaves the worker to others and needs a configured Redis."""

    def __init__(self, settings: Settings, *, api_only: bool = False) -> None:
        self._settings = settings
        self._api_only = api_only
        self._stopping = asyncio.Event()
        self._end_now = asyncio.Event()
        self._renewing = asyncio.Event()
        self._processes = Processes(self._stopping, self._end_now, self._give_up)
        self._failure: asyncio.Future[None] | None = None

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT; the exit status."""
        settings = self._settings
        operator_secret(settings)
        check_certificate(settings)
        listener = open_listener(settings.host, settings.port)
        loop = asyncio.get_running_loop()
        self._failure = loop.create_future()
        sighup = SighupPolicy()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_end)
        loop.add_signal_handler(
            signal.SIGHUP, lambda: self._asked_to_end() if sighup.ends() else self._renewing.set()
        )
        server: EmbeddedServer | None = None
        own_runtime: Path | None = None
        keepers: list[asyncio.Task[None]] = []

        def keep(work: Coroutine[Any, Any, None]) -> None:
            task = asyncio.create_task(work)
            task.add_done_callback(self._keeper_ended)
            keepers.append(task)

        try:
            if settings.redis_url is None:
                server = EmbeddedServer(settings.data_dir, binary=settings.embedded_server)
                server.lock()
                server.spawn()
                if not await self._unless_asked_to_end(server.ready()):
                    return self._status()
                redis_url, runtime = server.url, server.runtime_dir
                async with open_client(redis_url) as redis:
                    await self._check(redis)
                    await workers.forget_all(redis)
                keep(self._processes.keep_server(server))
            else:
                redis_url = settings.redis_url
                async with await connect(redis_url) as redis:
                    await self._check(redis)
                runtime = own_runtime = Path(tempfile.mkdtemp(prefix="moeplace-", dir=private_runtime_base()))
            environment = self._environment(redis_url, runtime)
            for index in range(settings.api_workers):
                name = "api" if settings.api_workers == 1 else f"api {index + 1}"
                arguments = ["api", "--listen-fd", str(listener.fileno())]
                keep(self._processes.keep(name, arguments, environment, (listener.fileno(),)))
            if not self._api_only:
                keep(self._processes.keep("worker", ["worker"], environment, ()))
            keep(self._renew())
            await self._serve(url_of(listener, scheme_of(settings)))
        finally:
            self._stopping.set()
            await self._end(server, listener, keepers)
            if own_runtime is not None:
                shutil.rmtree(own_runtime, ignore_errors=True)
        return self._status()

    async def _check(self, redis: Redis) -> None:
        """Here too, although each API process does: a line for the operator, before anything starts."""
        await require_operator(self._settings, redis)
        if self._settings.durable:
            await require_durability(redis)

    def _status(self) -> int:
        return 1 if self._end_now.is_set() else 0

    def _keeper_ended(self, task: asyncio.Task[None]) -> None:
        """A keeper that fails would leave its process unwatched: better to end than to pretend."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the supervisor failed", exc_info=error)
            self._give_up("the supervisor failed, see above")

    async def _unless_asked_to_end(self, work: Coroutine[Any, Any, None]) -> bool:
        """Whether `work` was done before we were asked to end; raises what made it, or the service, fail."""
        assert self._failure is not None
        task = asyncio.create_task(work)
        asked = asyncio.create_task(_wait(self._stopping))
        try:
            await asyncio.wait([task, asked, self._failure], return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                self._failure.result()
            if task.done():
                task.result()
            return task.done()
        finally:
            task.cancel()
            asked.cancel()
            await asyncio.gather(task, asked, return_exceptions=True)

    async def _serve(self, url: str) -> None:
        """Announce the service once it is ready; return when asked to end, raise what ends it."""

        async def announce_and_wait() -> None:
            await self._wait_until_ready(url)
            self._processes.ready = True
            warn_of_plain_http(self._settings)
            verb = "api is listening" if self._api_only else "is serving"
            print(f"moeplace {verb} on {url}", flush=True)
            await asyncio.Event().wait()

        await self._unless_asked_to_end(announce_and_wait())

    async def _wait_until_ready(self, url: str) -> None:
        path = "/healthz" if self._api_only else "/readyz"
        said_at = time.monotonic()
        while (missing := await asyncio.to_thread(what_is_missing, url, path)) is not None:
            await asyncio.sleep(0.05)
            if time.monotonic() - said_at >= PATIENCE_SECONDS:
                said_at = time.monotonic()
                log.info("waiting for the service to become ready", url=url, missing=missing)

    async def _renew(self) -> None:
        """A rolling restart for each SIGHUP: the API processes are replaced one after another, with today's
        certificate, operator's token and program, and no request fails."""
        while True:
            await self._renewing.wait()
            self._renewing.clear()
            log.info("the API processes are replaced one after another")
            try:
                operator_secret(self._settings)
                check_certificate(self._settings)
            except ListeningError as error:
                log.error("nothing is replaced", error=str(error))
                continue
            if await self._processes.replace("api", 2 * self._settings.drain_seconds):
                log.info("all API processes are replaced")
            else:
                log.error("an API process could not be replaced, see above: those there are go on")

    def _asked_to_end(self) -> None:
        if self._stopping.is_set():
            self._end_now.set()
        else:
            log.info("ending in order; a second signal ends at once")
        self._stopping.set()

    def _environment(self, redis_url: str, runtime: Path) -> Mapping[str, str]:
        """What children are told: our settings, and where all of them keep their metrics."""
        shared = runtime / "metrics"
        shared.mkdir(mode=0o700)
        settings = self._settings.model_copy(update={"redis_url": redis_url})
        return dict(os.environ) | variables_of(settings) | {MULTIPROCESS_DIRECTORY: str(shared)}

    def _give_up(self, reason: str) -> None:
        assert self._failure is not None
        if not self._failure.done():
            self._failure.set_exception(SupervisorError(reason))

    async def _end(
        self,
        server: EmbeddedServer | None,
        listener: socket.socket,
        keepers: list[asyncio.Task[None]],
    ) -> None:
        """API first, so that nothing comes in any more; then the worker; then the server under both."""
        end = time.monotonic() + self._settings.drain_seconds
        # Ours is closed too, or connections made from now on would wait for somebody to accept them.
        listener.close()
        await self._processes.end("api", end)
        await self._processes.end("worker", max(end, time.monotonic() + WORKER_SECONDS))
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        if server is not None:
            if self._end_now.is_set():
                server.kill()
            await server.stop(SERVER_SECONDS)


def variables_of(settings: Settings) -> dict[str, str]:
    """The environment in which `Settings()` is equal to `settings`."""
    told = settings.model_dump(mode="json", exclude_none=True)
    if settings.operator_token is not None:
        told["operator_token"] = settings.operator_token.get_secret_value()
    return {f"MOEPLACE_{name.upper()}": str(value) for name, value in told.items()}


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
