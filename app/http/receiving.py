"""How long a process waits for what clients send, in bodies that come slowly or not at all.

A timer for each wait would cost more than most waits do. All of them are looked at a few times a second
instead, and whoever has waited too long is given up.
"""

import asyncio

from starlette.types import Message, Receive

from app.errors import Unavailable

LOOK_SECONDS = 0.25

DRAINED_SECONDS = 1.0
"""What a body has to be here once the process drains: little, since its client can repeat all of it."""


class _Wait:
    __slots__ = ("given_up", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.given_up = False


class Receiving:
    """The bodies that one process waits for."""

    def __init__(self) -> None:
        self._waits: dict[asyncio.Task[object], _Wait] = {}
        self._look: asyncio.TimerHandle | None = None
        self._ends: float | None = None

    @property
    def waiting(self) -> int:
        return len(self._waits)

    def begin_to_drain(self) -> None:
        """From now on, wait no longer than a moment for anybody, a stream of telemetry included."""
        self._ends = asyncio.get_running_loop().time() + DRAINED_SECONDS
        for wait in self._waits.values():
            wait.until = min(wait.until, self._ends)

    async def next(self, receive: Receive, until: float) -> Message:
        """The next message, by `until` of the loop's clock, about.

        Raises `TimeoutError`, or `Unavailable` where it was for the process about to end.
        """
        task = asyncio.current_task()
        assert task is not None
        wait = self._waits[task] = _Wait(until if self._ends is None else min(until, self._ends))
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._check_all)
        try:
            return await receive()
        except asyncio.CancelledError:
            if not wait.given_up or task.uncancel() > 0:
                raise
            if self._ends is not None:
                raise Unavailable(
                    "this process is about to end and the body is not here yet: send it again, "
                    "what was taken of a stream will count once",
                    retry_after_seconds=1,
                ) from None
            raise TimeoutError from None
        finally:
            self._waits.pop(task, None)

    def _check_all(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for task, wait in self._waits.items():
            if wait.until <= now and not wait.given_up:
                wait.given_up = True
                task.cancel()
        self._look = loop.call_later(LOOK_SECONDS, self._check_all) if self._waits else None
