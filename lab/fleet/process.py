"""What the processes of the fleet have in common: lines in, lines out, and an end in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from app.runtime.loop import new_event_loop
from lab.fleet.lines import Told

_Heard = TypeVar("_Heard", bound=msgspec.Struct)

_MAX_LINE_BYTES = 1 << 24

ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Matrices this small gain nothing from threads, and with one thread sums are always made in one order."""


class Lines:
    """Standard input and output of a child process."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def read(self, kind: type[_Heard]) -> _Heard | None:
        """The next line; None when there will be no more."""
        line = await self._reader.readline()
        return msgspec.json.decode(line, type=kind) if line else None

    def tell(self, told: Told) -> None:
        sys.stdout.write(msgspec.json.encode(told).decode() + "\n")
        sys.stdout.flush()


def run_process(work: Callable[[Lines], Awaitable[None]]) -> None:
    """Run until `work` returns; SIGTERM ends the process as a child that is not needed any more."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command decides when its processes end
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_run(work))


async def _run(work: Callable[[Lines], Awaitable[None]]) -> None:
    reader = asyncio.StreamReader(limit=_MAX_LINE_BYTES)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await work(Lines(reader))
