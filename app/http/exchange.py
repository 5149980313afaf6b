"""One request and its answer, as the edge of the application sees them."""

from starlette.types import Message, Send


class Exchange:
    """Sends the answer on, with the header that tells its trace, and keeps its status: 500 before."""

    __slots__ = ("_send", "_traceparent", "started", "status")

    def __init__(self, send: Send, traceparent: tuple[bytes, bytes]) -> None:
        self._send = send
        self._traceparent = traceparent
        self.started = False
        self.status = 500

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), self._traceparent]
        await self._send(message)
