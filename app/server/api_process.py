"""One API process: uvicorn, which on SIGTERM first tells everybody that it is going."""

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp

from app.config import Settings
from app.runtime.garbage import collect_seldom
from app.server.connections import GuardedProtocol, descriptors_for
from app.server.tls import CIPHERS
from moeplace_agent.serving.listening import BACKLOG

NOTICE_SECONDS = 0.5
"""How long a draining process still takes connections, so that load balancers see it is not ready."""

OPEN_CONNECTION_SECONDS = 1.0
"""How long after that it still answers on the connections it has: their clients may be sending."""

GOODBYE_SECONDS = 0.5
"""What a client whose connection is being closed has to agree to it."""

ACCEPTS_PER_TURN = 16
"""libuv takes one connection of a socket in a turn of its loop. A busy process makes few turns a second, and
clients that connect anew would wait behind all that do it faster than that."""

KILL_MARGIN_SECONDS = 1.0
"""How long before the end of `drain_seconds` requests are cut off, so that the process ends by itself."""


_OPTIONS: dict[str, Any] = {
    "loop": "uvloop" if sys.platform != "win32" else "asyncio",
    "ws": "none",
    "lifespan": "on",
    "backlog": BACKLOG,
    "access_log": False,
    "log_config": None,
    "server_header": False,
    "timeout_keep_alive": 75,
}


class DrainingServer(uvicorn.Server):
    """Ends without failing a request.

    uvicorn waits for open requests before it tells the application to end, so long polls would hold it up for
    their whole wait; and it closes connections on which nothing is under way, though their clients may be
    sending at that moment. This one withdraws readiness and releases long polls first, and has every answer
    close its connection; then takes no more connections; and only then closes those that are idle still.
    SIGHUP, with which a process that has a successor is ended, leaves them all the time there is.
    """

    def __init__(
        self, config: uvicorn.Config, drain: Callable[[], None], started: Callable[[], None], seconds: float
    ) -> None:
        """`started` is called once connections are taken; `seconds`: what SIGHUP leaves idle connections."""
        super().__init__(config)
        self._drain = drain
        self._tell_started = started
        self._seconds = seconds
        self._asked_at: float | None = None
        self._patient = False
        self._draining = False
        self._accepting = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        signal.signal(signal.SIGHUP, self.handle_exit)
        await super().startup(sockets)
        collect_seldom()
        self._tell_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        patient = sig == signal.SIGHUP
        if self._asked_at is None:
            self._asked_at, self._patient = time.monotonic(), patient
        elif self._patient:
            self._patient = patient
        elif not patient:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        if self._asked_at is not None:
            waited = time.monotonic() - self._asked_at
            if not self._draining:
                self._draining = True
                self._last_answers()
                self._drain()
            if waited >= NOTICE_SECONDS and self._accepting:
                self._accepting = False
                for server in self.servers:
                    server.close()
            elif not self._accepting and self._may_close(waited):
                self.should_exit = True
        if counter % 10 == 0:
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                if isinstance(connection, GuardedProtocol):
                    connection.check(now)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        cutting = asyncio.create_task(self._cut_goodbyes())
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()

    async def _cut_goodbyes(self) -> None:
        """TLS waits half a minute for a client's good-bye, and one that is idle does not look."""
        while True:
            await asyncio.sleep(GOODBYE_SECONDS)
            for connection in list(self.server_state.connections):
                transport = connection.transport
                if transport.is_closing() and not transport.get_write_buffer_size():
                    transport.abort()

    def _last_answers(self) -> None:
        """Answers from now on end their connection, those to requests under way too."""
        close = (b"connection", b"close")
        self.config.encoded_headers.append(close)  # the next defaults are made of them, once a second
        self.server_state.default_headers = [*self.server_state.default_headers, close]
        for connection in self.server_state.connections:
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and not cycle.response_complete:
                connection.shutdown()

    def _may_close(self, waited: float) -> bool:
        """Whether connections on which nothing is under way may be closed."""
        shortest = NOTICE_SECONDS + OPEN_CONNECTION_SECONDS
        if not self._patient:
            return waited >= shortest or not self.server_state.connections
        # A TLS handshake under way is no connection yet.
        return waited >= shortest and (waited >= self._seconds or not self.server_state.connections)


def run_api(
    settings: Settings, listener: socket.socket, *, started: Callable[[], None] = lambda: None
) -> None:
    """Serve on the socket until SIGTERM, SIGINT or SIGHUP; returns once all requests are answered or cut off.
    `started` is called once connections are taken."""
    from app.main import create_app

    app = create_app(settings)
    seconds = settings.drain_seconds - KILL_MARGIN_SECONDS
    connections = descriptors_for(settings.max_connections)
    config = uvicorn.Config(
        app,
        **_OPTIONS,
        http=partial(GuardedProtocol, max_connections=connections),  # type: ignore[arg-type]  # it is called
        timeout_graceful_shutdown=max(1, int(seconds - OPEN_CONNECTION_SECONDS)),
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        ssl_ciphers=CIPHERS,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies or "",
    )
    DrainingServer(config, lambda: _drain(app), started, seconds).run(sockets=several(listener))


def several(listener: socket.socket) -> list[socket.socket]:
    """The same socket as many times as connections are to be taken of it in a turn of the loop."""
    return [listener, *(listener.dup() for _ in range(ACCEPTS_PER_TURN - 1))]


def serve_application(app: ASGIApp, listener: socket.socket) -> None:
    """Any ASGI application, on the server and the collector's settings of ours and nothing else of them."""
    config = uvicorn.Config(app, **_OPTIONS, http="httptools", proxy_headers=False)
    DrainingServer(config, lambda: None, lambda: None, 0.0).run(sockets=[listener])


def _drain(app: Starlette) -> None:
    app.state.waiters.drain()
    app.state.admission.receiving.begin_to_drain()
