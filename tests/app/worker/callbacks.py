"""How long the callbacks of an event loop hold it up."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Slowest:
    seconds: float = 0.0
    what: str = ""


@contextlib.contextmanager
def timed() -> Iterator[Slowest]:
    """Measures every callback of every asyncio loop, in CPU time of its thread: other processes may have the
    cores, so the time of day would say nothing."""
    slowest = Slowest()
    plain = asyncio.events.Handle._run

    def run(handle: asyncio.Handle) -> None:
        shown = repr(handle) if slowest.seconds == 0.0 else ""
        begun = time.thread_time()
        plain(handle)
        took = time.thread_time() - begun
        if took > slowest.seconds:
            slowest.seconds, slowest.what = took, shown or repr(handle)

    asyncio.events.Handle._run = run  # type: ignore[method-assign,assignment]
    try:
        yield slowest
    finally:
        asyncio.events.Handle._run = plain  # type: ignore[method-assign]
