"""Bodies that are still coming when the process is asked to end."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Unavailable

BODY_SECONDS = 1.0
"""What a body has to be here once the process drains: little, since its client can repeat all of it."""


class Drain:
    """Whether this process is about to end, and until when it still takes bodies."""

    def __init__(self) -> None:
        self._ends: float | None = None
        self._receiving: set[asyncio.Timeout] = set()

    def begin(self) -> None:
        self._ends = asyncio.get_running_loop().time() + BODY_SECONDS
        for timeout in self._receiving:
            timeout.reschedule(self._ends)

    async def receive(self, receive: Receive) -> Message:
        """The next message; `Unavailable` when it is not here in time."""
        try:
            async with asyncio.timeout_at(self._ends) as timeout:
                self._receiving.add(timeout)
                try:
                    return await receive()
                finally:
                    self._receiving.discard(timeout)
        except TimeoutError:
            raise Unavailable(
                "this process is about to end and the body is not here yet: send it again, "
                "what was taken of a stream will count once",
                retry_after_seconds=1,
            ) from None


class DrainMiddleware:
    """Answers requests whose bodies would hold the end up: a stream of telemetry may go on for hours."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        whole = False

        async def receive_in_time() -> Message:
            nonlocal whole
            if whole:  # what is left to come is the client's good-bye
                return await receive()
            message = await self._drain.receive(receive)
            whole = not message.get("more_body", False)
            return message

        await self._app(scope, receive_in_time, send)
