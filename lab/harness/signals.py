"""Ending a command in order when it is asked to."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

from rich.console import Console

_Result = TypeVar("_Result")


async def until_signalled(console: Console, work: Coroutine[Any, Any, _Result]) -> tuple[_Result | None, int]:
    """The result of `work` and 0. The first SIGINT or SIGTERM cancels it, later ones change nothing: then
    None and the exit status of a process that the signal has ended."""
    running = asyncio.ensure_future(work)
    received: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        if not received:
            received.append(number)
            running.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    try:
        return await running, 0
    except asyncio.CancelledError:
        if not received:
            raise
        console.print("Ended on request; nothing is left behind.")
        return None, 128 + received[0]
