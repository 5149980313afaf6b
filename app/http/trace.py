"""Every request belongs to a trace (W3C Trace Context): the caller's if it names one, else a new one."""

import re
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, get_contextvars

_TRACEPARENT = re.compile(rb"^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$")


def trace_id() -> str | None:
    """Of the request being answered; None outside of one."""
    found = get_contextvars().get("trace_id")
    return found if isinstance(found, str) else None


class TraceMiddleware:
    """Binds `trace_id` for logs and problems, and answers with `traceparent`: same trace, own span."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == b"traceparent"]
        trace, flags = _parse(given[0]) if len(given) == 1 else (None, "00")
        ids = secrets.token_hex(24)
        trace = trace or ids[16:]
        traceparent = (b"traceparent", f"00-{trace}-{ids[:16]}-{flags}".encode())

        async def send_traced(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), traceparent]
            await send(message)

        bind_contextvars(trace_id=trace)  # of this request's task, which ends with it
        await self._app(scope, receive, send_traced)


def _parse(value: bytes) -> tuple[str | None, str]:
    """Trace id and flags; a malformed header is as none, as the recommendation wants it."""
    match = _TRACEPARENT.match(value.strip())
    if match is None:
        return None, "00"
    version, trace, span, flags, rest = match.groups()
    if version == b"ff" or (version == b"00" and rest) or not trace.strip(b"0") or not span.strip(b"0"):
        return None, "00"
    return trace.decode(), flags.decode() if version == b"00" else "00"
