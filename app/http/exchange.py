"""One request and its answer, as the edge of the application sees them."""

from collections.abc import Awaitable

from starlette.types import Message, Send

from app.http.extensions import BEGINS, WHOLE, lines


class Exchange:
    """Sends the answer on, with the header that tells its trace, and keeps its status: 500 before."""

    __slots__ = ("_send", "_traceparent", "started", "status")

    def __init__(self, send: Send, traceparent: tuple[bytes, bytes]) -> None:
        self._send = send
        self._traceparent = traceparent
        self.started = False
        self.status = 500

    def send(self, message: Message) -> Awaitable[None]:
        if message["type"] in BEGINS:
            self.started = True
            self.status = message["status"]
            if message["type"] == WHOLE:
                message["head"] += lines((self._traceparent,))
            else:
                message["headers"] = [*message.get("headers", ()), self._traceparent]
        return self._send(message)
