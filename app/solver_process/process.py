"""A process beside the worker's that solves and plans, so that the worker's event loop never does.

It takes one task at a time: a picklable pure function of a module and its arguments. A task that outlives its
deadline, and one that is no longer wanted, end with the process; the next task starts a new one.
"""

import asyncio
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar, cast

import structlog

NICENESS = 5
"""The solver yields to the processes that answer requests."""

START_SECONDS = 600.0
"""How long a new process may take to import and compile what it needs."""

STARTS = 3
"""How many processes `start` tries. The kernel ends one where memory is short, and the next may fit."""

log = structlog.stdlib.get_logger(__name__)

R = TypeVar("R")


class TaskError(Exception):
    """The task has no result; the message says why, in words for an operator."""


class TaskFailed(TaskError):
    """The task raised."""


class TaskOverran(TaskError):
    """The task took longer than its deadline; its process was ended."""


class SolverCrashed(TaskError):
    """The process ended in the middle of the task."""


class SolverClosed(TaskError):
    """The worker stops."""


class SolverProcess:
    """One process, started when first needed. Belongs to one event loop."""

    def __init__(self, name: str, warm: Callable[[], object]) -> None:
        self.name = name
        self._warm = warm
        self._turn = asyncio.Lock()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-exchange")
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._closed = False

    @property
    def busy(self) -> bool:
        """Somebody has the process, or waits for it."""
        return self._turn.locked()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Have a process ready that has run `warm`. One that ends meanwhile is started again, `STARTS` times
        in all. Raises `TaskError` when it cannot."""
        async with self._turn:
            for started in range(1, STARTS + 1):
                try:
                    await self._ensure()
                    return
                except SolverCrashed as error:
                    if started == STARTS:
                        raise
                    log.warning("a solver process is started again", solver=self.name, error=str(error))

    async def run(self, task: Callable[..., R], *arguments: Any, deadline_seconds: float) -> R:
        """The task's result; it waits its turn, and the deadline counts from then on.

        Cancelling ends the task. Raises `TaskFailed`, `TaskOverran`, `SolverCrashed` or `SolverClosed`.
        """
        async with self._turn:
            await self._ensure()
            return cast("R", await self._exchange(task, arguments, deadline_seconds))

    async def close(self) -> None:
        """End the process and whatever it does; `run` raises `SolverClosed` from now on."""
        self._closed = True
        self._end()
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)

    async def _ensure(self) -> None:
        if self._closed:
            raise SolverClosed("the worker stops")
        if self._process is not None and self._process.is_alive():
            return
        self._end()
        begun = time.monotonic()
        loop = asyncio.get_running_loop()
        starting = loop.run_in_executor(self._threads, self._spawn)
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await starting
            self._end()
            raise
        await self._exchange(self._warm, (), START_SECONDS)
        log.info("solver process ready", solver=self.name, pid=self.pid, seconds=time.monotonic() - begun)

    def _spawn(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), name=self.name, daemon=True)
        process.start()
        theirs.close()
        self._process, self._pipe = process, ours

    async def _exchange(
        self, task: Callable[..., object], arguments: tuple[Any, ...], deadline_seconds: float
    ) -> object:
        assert self._pipe is not None
        name = getattr(task, "__name__", str(task))
        answer = asyncio.get_running_loop().run_in_executor(self._threads, _ask, self._pipe, task, arguments)
        # Whoever waits may be cancelled again while it is being abandoned; then nobody else looks at it.
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            async with asyncio.timeout(deadline_seconds):
                succeeded, value = await asyncio.shield(answer)
        except TimeoutError:
            await self._abandon(answer)
            raise TaskOverran(f"{name} took longer than {deadline_seconds:g} s and was ended") from None
        except asyncio.CancelledError:
            await self._abandon(answer)
            raise
        except (EOFError, OSError):
            self._end()
            if self._closed:
                raise SolverClosed("the worker stops") from None
            raise SolverCrashed(f"the solver process ended in the middle of {name}") from None
        if not succeeded:
            words, trace = cast("tuple[str, str]", value)
            log.error("task failed", solver=self.name, task=name, trace=trace)
            raise TaskFailed(f"{name} failed: {words}")
        return value

    async def _abandon(self, answer: asyncio.Future[tuple[bool, object]]) -> None:
        """End the process and wait until the thread that talks to it has noticed."""
        self._end()
        await asyncio.wait([answer])

    def _end(self) -> None:
        process, pipe = self._process, self._pipe
        self._process = self._pipe = None
        if process is None or pipe is None:
            return
        process.kill()
        try:
            # In the thread that reads from the pipe, so only after it has seen the end of the other side.
            self._threads.submit(_bury, process, pipe)
        except RuntimeError:  # the thread is gone: nobody reads any more
            _bury(process, pipe)


def _bury(process: SpawnProcess, pipe: Connection) -> None:
    process.join()
    pipe.close()


# --- how both sides talk: a pickle whose large arrays follow as they are, so that neither side copies them


def _send(pipe: Connection, message: object) -> None:
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    pipe.send_bytes(len(buffers).to_bytes(4, "little") + head)
    for buffer in buffers:
        with buffer.raw() as raw:
            pipe.send_bytes(raw)


def _receive(pipe: Connection) -> Any:
    head = pipe.recv_bytes()
    count = int.from_bytes(head[:4], "little")
    buffers = [pipe.recv_bytes() for _ in range(count)]
    return pickle.loads(memoryview(head)[4:], buffers=buffers)


def _ask(pipe: Connection, task: Callable[..., object], arguments: tuple[Any, ...]) -> tuple[bool, object]:
    _send(pipe, (task, arguments))
    return cast("tuple[bool, object]", _receive(pipe))


def _serve(pipe: Connection) -> None:
    """The process: answer tasks until the worker ends or closes the pipe."""
    for number in (signal.SIGINT, signal.SIGTERM):  # may reach the whole group; the worker decides
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_worker, daemon=True).start()
    os.nice(NICENESS)
    while True:
        try:
            task, arguments = _receive(pipe)
        except (EOFError, OSError):
            return
        try:
            answer: tuple[bool, object] = (True, task(*arguments))
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker is told and goes on
            answer = (False, (_words(error), traceback.format_exc()))
        try:
            _send(pipe, answer)
        except (BrokenPipeError, OSError):
            return


def _end_with_worker() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
