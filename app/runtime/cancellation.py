"""Ending tasks for certain."""

import asyncio
from typing import Any

AGAIN_SECONDS = 0.1


async def end(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel the tasks and wait until they have ended, even when the caller is cancelled meanwhile.

    They are cancelled again and again, since a library in the middle of a network call may swallow it, and a
    loop around that call would go on. What they raised can be asked of them, and need not be: they are given
    up.
    """
    left = {task for task in tasks if not task.done()}
    cancelled = False
    while left:
        for task in left:
            task.cancel()
        try:
            _, left = await asyncio.wait(left, timeout=AGAIN_SECONDS)
        except asyncio.CancelledError:
            cancelled = True
            left = {task for task in left if not task.done()}
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # else asyncio reports it as never retrieved
    if cancelled:
        raise asyncio.CancelledError
