"""The processes of a service: each is started again when it dies, and all end in time when asked to."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog

from app.observability.exposition import forget_process
from app.observability.metrics import MULTIPROCESS_DIRECTORY
from app.runtime.child import ended, ended_within
from app.runtime.parent_death import ending_with_parent
from app.storage.embedded import EmbeddedServer, EmbeddedServerError

RESTART_SECONDS = 0.1, 10.0
"""First and longest pause before a child is started again; doubled each time, full jitter."""

STEADY_SECONDS = 30.0
"""A child that lived this long had nothing wrong with it from the start: its pauses begin anew."""

EARLY_DEATHS = 3
"""How often a child may die before the service was ever ready."""

SUCCESSOR_SECONDS = 60.0
"""What a process that is to replace another has until it takes requests."""

log = structlog.stdlib.get_logger(__name__)


class Processes:
    """`stopping` set: none is started any more. `end_now` set: `end` waits for nothing. `on_failure` is
    called with why, when a process keeps dying before `ready` was set."""

    def __init__(
        self, stopping: asyncio.Event, end_now: asyncio.Event, on_failure: Callable[[str], None]
    ) -> None:
        self._stopping = stopping
        self._end_now = end_now
        self._on_failure = on_failure
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._starting: dict[str, Callable[[int | None], subprocess.Popen[bytes]]] = {}
        self._retiring: list[tuple[str, subprocess.Popen[bytes]]] = []
        self.ready = False
        """Whether the service was ever ready."""

    async def keep(
        self, name: str, arguments: list[str], environment: Mapping[str, str], descriptors: tuple[int, ...]
    ) -> None:
        """Run `moeplace ARGUMENTS` again and again until we are stopping."""
        # -P: a directory named app below the working directory must not hide ours.
        command = [sys.executable, "-P", "-m", "app", *arguments]

        def spawn(ready: int | None) -> subprocess.Popen[bytes]:
            telling = () if ready is None else (ready,)
            told = [] if ready is None else ["--ready-fd", str(ready)]
            return subprocess.Popen(
                ending_with_parent([*command, *told], parent_death_signal=signal.SIGKILL),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                start_new_session=True,
                pass_fds=(*descriptors, *telling),
            )

        async def start() -> None:
            self._running[name] = spawn(None)

        async def wait() -> int:
            while True:
                process = self._running[name]
                status = await ended(process)
                forget_process(environment[MULTIPROCESS_DIRECTORY], process.pid)
                if self._running[name] is process:
                    return status

        self._starting[name] = spawn
        await start()
        await self._restart(name, start, wait)

    async def replace(self, kind: str, seconds: float) -> bool:
        """Give every process whose name begins with `kind` a successor, one after another: the next is only
        begun once the one before takes requests and its predecessor, which has `seconds` for that, has ended.
        False where one did not start: those there are stay then."""
        for name in [name for name in self._running if name.startswith(kind)]:
            successor = await self._start_successor(name)
            if successor is None:
                return False
            replaced, self._running[name] = self._running[name], successor
            await self._retire(name, replaced, seconds)
        return True

    async def _start_successor(self, name: str) -> subprocess.Popen[bytes] | None:
        """Running, and taking requests; None where it ended, or took too long."""
        telling, told = os.pipe()
        try:
            process = self._starting[name](told)
        finally:
            os.close(told)
        try:
            if await _says_something(telling, SUCCESSOR_SECONDS):
                log.info("a process takes requests in place of another", name=name, pid=process.pid)
                return process
        except BaseException:
            _kill(process)
            raise
        finally:
            os.close(telling)
        _kill(process)
        return None

    async def _retire(self, name: str, process: subprocess.Popen[bytes], seconds: float) -> None:
        """Have it end once it has answered all that it was asked."""
        retiring = name, process
        self._retiring.append(retiring)
        try:
            if process.poll() is None:
                process.send_signal(signal.SIGHUP)
            if not await ended_within(process, seconds):
                log.warning("a process that was replaced is killed", name=name, pid=process.pid)
                _kill(process)
        finally:
            self._retiring.remove(retiring)

    async def keep_server(self, server: EmbeddedServer) -> None:
        """The same of the embedded server, which runs already."""

        async def start() -> None:
            server.spawn()
            await server.ready()

        await self._restart("embedded server", start, server.ended)

    async def end(self, kind: str, deadline: float) -> None:
        """Have those end whose name begins with `kind`, by `deadline` of the monotonic clock; kill what is
        left then."""
        known = [*self._running.items(), *self._retiring]
        processes = [process for name, process in known if name.startswith(kind)]
        for process in processes:
            if process.poll() is None:
                process.terminate()
        waits = [
            asyncio.create_task(ended_within(process, deadline - time.monotonic())) for process in processes
        ]
        end_now = asyncio.create_task(_wait(self._end_now))
        while any(not task.done() for task in waits) and not end_now.done():
            await asyncio.wait([end_now, *waits], return_when=asyncio.FIRST_COMPLETED)
            waits = [task for task in waits if not task.done()]
        for task in (end_now, *waits):
            task.cancel()
        await asyncio.gather(end_now, *waits, return_exceptions=True)
        for process in processes:
            if process.poll() is None:
                log.warning("a process is killed", pid=process.pid)
                _kill(process)

    async def _restart(
        self, name: str, start: Callable[[], Awaitable[None]], wait: Callable[[], Awaitable[int]]
    ) -> None:
        first, longest = RESTART_SECONDS
        pause, deaths = first, 0
        while True:
            began = time.monotonic()
            status = await wait()
            if self._stopping.is_set():
                return
            if time.monotonic() - began >= STEADY_SECONDS:
                pause = first
            deaths += 1
            if deaths >= EARLY_DEATHS and not self.ready:
                self._on_failure(f"the {name} process ended {deaths} times while starting, see above")
                return
            while True:
                delay = random.uniform(0, pause)
                pause = min(2 * pause, longest)
                log.warning(
                    "a process ended unexpectedly and is started again",
                    name=name,
                    status=_status_words(status),
                    in_seconds=round(delay, 2),
                )
                await asyncio.sleep(delay)
                if self._stopping.is_set():
                    return
                try:
                    await start()
                    break
                except (EmbeddedServerError, OSError) as error:
                    log.error("a process cannot be started again", name=name, error=str(error))


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def _says_something(descriptor: int, seconds: float) -> bool:
    """Whether a byte comes out of the pipe in time; its end is none."""
    readable = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, readable.set)
    try:
        async with asyncio.timeout(seconds):
            await readable.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, 1) != b""


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _status_words(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
