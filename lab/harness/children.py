"""Child processes of a command that runs a whole fleet: a service and its nodes, which never outlive it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from app.runtime.parent_death import ending_with_parent
from lab.harness.failures import RunFailed

_SERVING = re.compile(r"^moeplace is serving on (http://\S+)$")
_SERVICE_START_SECONDS = 80.0
"""A machine that has never run the service compiles its kernels first."""

_SERVICE_END_SECONDS = 11.0
_LINES_END_SECONDS = 3.0
_MAX_LINE_BYTES = 1 << 24
_LAST_WORDS = 12

_Told = TypeVar("_Told", bound=msgspec.Struct)


class Child:
    """A child process whose standard error goes to a file, for when it fails."""

    def __init__(self, name: str, process: Process, log: Path) -> None:
        self.name = name
        self.process = process
        self._log = log
        self._ending = False

    @property
    def pid(self) -> int:
        return self.process.pid

    async def failed(self) -> RunFailed:
        """Wait until the process has ended by itself; what is to be said then."""
        status = await self.process.wait()
        if self._ending:
            await asyncio.Event().wait()
        return RunFailed(f"{self.name} ended with status {status}{self.last_words()}")

    def last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()[-_LAST_WORDS:]
        return ":\n  " + "\n  ".join(lines) if lines else ""

    async def end(self, seconds: float) -> None:
        """Ask the process to end, and make it when it does not."""
        self._ending = True
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            try:
                async with asyncio.timeout(seconds):
                    await self.process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    self.process.kill()
                await self.process.wait()


async def _spawn(
    name: str,
    arguments: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    *,
    reads: bool,
    niceness: int = 0,
) -> Child:
    # In sessions of their own: Ctrl-C is for the command, which ends them in order. -P: a directory named app
    # below the working directory must not hide ours.
    command = ending_with_parent([sys.executable, "-P", "-m", *arguments], parent_death_signal=signal.SIGTERM)
    with log.open("w") as stderr:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE if reads else DEVNULL,
            stdout=PIPE,
            stderr=stderr,
            env=environment,
            start_new_session=True,
            limit=_MAX_LINE_BYTES,
        )
    if niceness:
        os.setpriority(os.PRIO_PROCESS, process.pid, niceness)
    return Child(name, process, log)


class ServiceProcess(NamedTuple):
    """`moeplace serve` with a data directory of its own."""

    child: Child
    base_url: str


@contextlib.asynccontextmanager
async def started_service(
    directory: Path, port: int, settings: Mapping[str, str], *, niceness: int = 0
) -> AsyncIterator[ServiceProcess]:
    """Start the service, wait until it is ready, and end it. Raises `RunFailed` in the service's words.
    `niceness`: by how much other processes come before it."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MOEPLACE_")}
    child = await _spawn(
        "the service",
        ["app", "serve", "--port", str(port), "--data-dir", str(directory / "data")],
        directory / "service.log",
        {**own, **settings},
        reads=False,
        niceness=niceness,
    )
    try:
        yield ServiceProcess(child, await _url(child))
    finally:
        await child.end(_SERVICE_END_SECONDS)


async def _url(child: Child) -> str:
    stdout = child.process.stdout
    assert stdout is not None
    try:
        async with asyncio.timeout(_SERVICE_START_SECONDS):
            while line := (await stdout.readline()).decode():
                if match := _SERVING.match(line.strip()):
                    return match[1]
            raise await child.failed()
    except TimeoutError:
        raise RunFailed(
            f"the service was not ready after {_SERVICE_START_SECONDS:.0f} s{child.last_words()}"
        ) from None


class LineProcess:
    """A process that is told things, and tells things, in lines of JSON."""

    def __init__(self, child: Child) -> None:
        self.child = child

    async def say(self, message: msgspec.Struct) -> None:
        """Raises `RunFailed` where the process has ended."""
        stdin = self.child.process.stdin
        assert stdin is not None
        try:
            stdin.write(msgspec.json.encode(message) + b"\n")
            await stdin.drain()
        except ConnectionError as error:
            raise RunFailed(f"{self.child.name} has ended{self.child.last_words()}") from error

    async def hear(self, told: Callable[[_Told], None], kind: type[_Told] | Any) -> None:
        """Pass on every line, a `kind` or one of a union, until the process closes its output."""
        stdout = self.child.process.stdout
        assert stdout is not None
        while line := await stdout.readline():
            told(msgspec.json.decode(line, type=kind))


@contextlib.asynccontextmanager
async def started_lines(
    name: str,
    module: str,
    log: Path,
    first: msgspec.Struct,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[LineProcess]:
    """Run `module` as a process, say `first` to it, and end it. `environment` is added to ours."""
    child = await _spawn(name, [module], log, {**os.environ, **(environment or {})}, reads=True)
    process = LineProcess(child)
    try:
        await process.say(first)
        yield process
    finally:
        await child.end(_LINES_END_SECONDS)
