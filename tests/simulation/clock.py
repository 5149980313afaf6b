"""Virtual time: an event loop whose clock jumps to the next thing that happens, and what else tells the time.

Nothing waits and nothing runs in threads, so minutes pass in milliseconds and a seed always gives the same
course of events.
"""

import asyncio
import random
import secrets
import selectors
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime, tzinfo
from typing import Any, TypeVar, cast

from app.storage import clock

R = TypeVar("R")

BEGINS_AT = datetime(2026, 1, 1, tzinfo=UTC)
"""What calendars show when the loop's clock shows 0."""

SKEW: ContextVar[float] = ContextVar("skew", default=0.0)
"""How many seconds the wall clock of the process that runs is ahead of the server's. A task and whatever it
starts are one process. Monotonic clocks are never wrong."""


def process(work: Coroutine[Any, Any, R], ahead_seconds: float) -> "asyncio.Task[R]":
    """Begin the work as a process whose host's clock is ahead of the server's; negative: behind."""
    context = copy_context()
    context.run(SKEW.set, ahead_seconds)
    return asyncio.get_running_loop().create_task(work, context=context)


class Standstill(Exception):
    """Nothing will ever happen again: everybody waits for somebody else."""


class _Jump(selectors.BaseSelector):
    """In place of waiting for the network, moves the clock on."""

    def __init__(self) -> None:
        self._keys: dict[Any, selectors.SelectorKey] = {}
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Standstill(f"after {self.now:.3f} s")
        self.now += max(0.0, timeout)
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, 0, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        return self._keys


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its clock starts at 0. What would run in a thread runs at once, and its result comes a little later."""

    def __init__(self, rng: random.Random) -> None:
        self._jump = _Jump()
        self._rng = rng
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        future = self.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - handed to whoever awaits it
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call_later(self._rng.choice((0.0, 0.0, 0.002)), run)
        return future


@contextmanager
def virtual_time(loop: VirtualLoop, seed: int) -> Iterator[None]:
    """Everything tells the loop's time, and draws from the seed, until the block ends."""
    begins = BEGINS_AT.timestamp()

    class VirtualDatetime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(begins + loop.time() + SKEW.get(), tz)

    rng = random.Random(seed)

    def token_hex(nbytes: int | None = None) -> str:
        return rng.randbytes(nbytes or 16).hex()

    clock.PROCESS_CLOCK = clock.ServerClock()
    replaced: list[tuple[Any, str, Any]] = [
        (time, "time", time.time),
        (time, "monotonic", time.monotonic),
        (secrets, "token_hex", secrets.token_hex),
    ]
    for name, module in list(sys.modules.items()):
        if name.startswith("app.") and "schema" not in name and getattr(module, "datetime", None) is datetime:
            replaced.append((module, "datetime", datetime))
    state = random.getstate()
    try:
        time.time = lambda: begins + loop.time() + SKEW.get()
        time.monotonic = loop.time
        secrets.token_hex = token_hex
        for module, name, original in replaced:
            if original is datetime:
                setattr(module, name, cast("type[datetime]", VirtualDatetime))
        random.seed(seed)
        yield
    finally:
        for module, name, original in replaced:
            setattr(module, name, original)
        random.setstate(state)
        clock.PROCESS_CLOCK = clock.ServerClock()
