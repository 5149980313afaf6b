"""What our server does beyond ASGI, told as extensions in the scope of a request."""

from collections.abc import Iterable

from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

HOLD_OFF = "moeplace.hold_off"
"""A function to call before a request is refused."""

ARRIVED = "moeplace.arrived"
"""A function of the scope that gives the body where all of it is here, and takes it; None where it is not."""

WHOLE = "moeplace.response.whole"
"""Messages of this type may be sent: an answer at once, of `status`, `head` (see `lines`) and `body`."""

BEGINS = frozenset({"http.response.start", WHOLE})
"""Types of the messages that an answer begins with."""

_CLOSE = b"connection", b"close"


def lines(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as they go out. They are not looked at again: none may hold what a client chose freely."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])


class ExtendedCycle(RequestResponseCycle):
    """One request and its answer. uvicorn makes its own, which becomes one of these."""

    def arrived(self) -> bytes | None:
        """As `ARRIVED` says."""
        if self.more_body or self.disconnected or self.waiting_for_100_continue:
            return None
        body = bytes(self.body)
        self.body = bytearray()
        self.message_event.clear()
        self.flow.resume_reading()
        return body

    async def send(self, message: Message) -> None:  # type: ignore[override]  # the types of two libraries
        if message["type"] != WHOLE:
            await super().send(message)  # type: ignore[arg-type]
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        fields = self.default_headers
        closing = not self.keep_alive or _CLOSE in fields
        if closing and _CLOSE not in fields:
            fields = [*fields, _CLOSE]
        head = STATUS_LINE[message["status"]] + lines(fields) + message["head"] + b"\r\n"
        self.response_started = self.response_complete = True
        self.transport.writelines((head, message["body"]))
        self.message_event.set()
        if closing:
            self.transport.close()
        self.on_response()
