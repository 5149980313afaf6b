"""Connections of one API process: how many there may be, and how long one may keep us waiting.

uvicorn gives up connections that are idle after an answer, and nothing else: a head that never ends, or a
client that does not read its answer, would be kept for ever.
"""

import asyncio
import resource
import time
from typing import Any, cast

import orjson
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.errors import Unavailable
from app.http.extensions import ARRIVED, HOLD_OFF, WHOLE, ExtendedCycle
from app.observability.metrics import REFUSED

HEAD_SECONDS = 10.0
"""From the first byte of a request, or from the connection, to the end of the request's head."""

MAX_HEAD_BYTES = 64 << 10

WRITE_SECONDS = 30.0
"""How long a client may read nothing of what is ready for it."""

HOLD_OFF_SECONDS = 1.0
"""How long nothing more is read from whoever was refused: those who come back when they were told to do not
notice, and the others would have the process do nothing but refuse them."""

SPARE_DESCRIPTORS = 256
"""For everything but clients: Redis, logs, the metrics of all processes."""

_PROBLEM = orjson.dumps(
    {
        "type": f"/problems/{Unavailable.slug}",
        "title": Unavailable.title,
        "status": Unavailable.status,
        "detail": "this process has too many connections",
        "instance": "",
        "trace_id": None,
        "errors": [],
    }
)
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Type: application/problem+json\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_PROBLEM), _PROBLEM)
)
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class GuardedProtocol(HttpToolsProtocol):
    """One connection; `look` is to be called about once a second."""

    def __init__(self, *given: Any, max_connections: int, **options: Any) -> None:
        super().__init__(*given, **options)
        self._max_connections = max_connections
        self._head_began: float | None = None
        self._head_bytes = 0
        self._write_paused: float | None = None
        self._idle_since: float | None = None
        self._held_off = False
        self._extensions: dict[str, Any] = {HOLD_OFF: self._hold_off, ARRIVED: self._arrived, WHOLE: {}}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_began = time.monotonic()
        if len(self.connections) > self._max_connections:
            REFUSED.labels("connections").inc()
            transport.write(_FULL)
            transport.close()

    def data_received(self, data: bytes) -> None:
        self._idle_since = None
        cycle: RequestResponseCycle | None = self.cycle
        if self._head_began is None and (cycle is None or cycle.response_complete):
            self._head_began = time.monotonic()
            self._head_bytes = 0
        super().data_received(data)
        if self._head_began is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.transport.write(_TOO_LARGE)
                self.transport.close()

    def on_headers_complete(self) -> None:
        self._head_began = None
        super().on_headers_complete()
        self.scope["extensions"] = self._extensions
        self.cycle.__class__ = ExtendedCycle

    def _arrived(self, scope: Scope) -> bytes | None:
        # Behind a request that is being answered there may be the next one.
        cycle = cast(ExtendedCycle, self.cycle)
        return cycle.arrived() if cycle.scope is scope else None

    def on_body(self, body: bytes) -> None:
        # To add the first piece to nothing gives the piece itself, and the application is handed what it is:
        # a body that comes in one piece, as most do, is copied no more.
        held: bytes | bytearray = self.cycle.body
        if not held:
            self.cycle.body = b""  # type: ignore[assignment]
        elif isinstance(held, bytes):
            self.cycle.body = bytearray(held)
        super().on_body(body)

    def _hold_off(self) -> None:
        self._held_off = True

    def on_response_complete(self) -> None:
        # As uvicorn's, but for its timer: `look` finds those that are idle, and costs nothing per request.
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_since = time.monotonic()
        if self._held_off:
            self._held_off = False
            self.flow.pause_reading()
            self.loop.call_later(HOLD_OFF_SECONDS, self._read_on)

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def pause_writing(self) -> None:
        self._write_paused = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._write_paused = None
        super().resume_writing()

    def check(self, now: float) -> None:
        """Give the connection up if it has kept us waiting for too long."""
        if _longer(self._write_paused, WRITE_SECONDS, now):
            self.transport.abort()
        elif _longer(self._head_began, HEAD_SECONDS, now) or _longer(
            self._idle_since, self.timeout_keep_alive, now
        ):
            self.transport.close()


def _longer(since: float | None, seconds: float, now: float) -> bool:
    return since is not None and now - since > seconds


def descriptors_for(connections: int) -> int:
    """As many connections as the system has descriptors for, `connections` at most; the process's limit is
    raised as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return (
        connections if soft == resource.RLIM_INFINITY else max(1, min(connections, soft - SPARE_DESCRIPTORS))
    )
