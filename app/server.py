"""One API process: uvicorn, which on SIGTERM first tells everybody that it is going."""

import gc
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp

from app.config import Settings
from app.connections import GuardedProtocol, descriptors_for
from app.listening import BACKLOG

NOTICE_SECONDS = 0.5
"""How long a draining process still takes connections, so that load balancers see it is not ready."""

KILL_MARGIN_SECONDS = 1.0
"""How long before the end of `drain_seconds` requests are cut off, so that the process ends by itself."""


GARBAGE_THRESHOLDS = 50_000, 20, 50
"""Young objects between collections: requests make few cycles, and a collection at the default threshold of
700 stops the loop for tens of milliseconds now and then."""


class DrainingServer(uvicorn.Server):
    """uvicorn waits for open requests before it tells the application to end, so long polls would hold it up
    for their whole wait: this one has them released first, and readiness withdrawn."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain = drain
        self._asked_at: float | None = None
        self._draining = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GARBAGE_THRESHOLDS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._asked_at is None:
            self._asked_at = time.monotonic()
        else:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        if self._asked_at is not None:
            if not self._draining:
                self._draining = True
                self._drain()
            if time.monotonic() - self._asked_at >= NOTICE_SECONDS:
                self.should_exit = True
        if counter % 10 == 0:
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                if isinstance(connection, GuardedProtocol):
                    connection.look(now)
        return await super().on_tick(counter)


def run_api(settings: Settings, listener: socket.socket) -> None:
    """Serve on the socket until SIGTERM or SIGINT; returns once all requests are answered or cut off."""
    from app.main import create_app

    app = create_app(settings)
    serve_application(
        app,
        listener,
        lambda: _drain(app),
        drain_seconds=settings.drain_seconds,
        max_connections=settings.max_connections,
    )


def serve_application(
    app: ASGIApp,
    listener: socket.socket,
    drain: Callable[[], None] = lambda: None,
    *,
    drain_seconds: float = 8.0,
    max_connections: int | None = None,
) -> None:
    """Any ASGI application, on the server and the settings of ours; without `max_connections` its connections
    are not guarded."""
    guarded = max_connections and partial(GuardedProtocol, max_connections=descriptors_for(max_connections))
    config = uvicorn.Config(
        app,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http=guarded or "httptools",  # type: ignore[arg-type]  # it is only called
        ws="none",
        lifespan="on",
        backlog=BACKLOG,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=max(1, int(drain_seconds - KILL_MARGIN_SECONDS)),
        timeout_keep_alive=75,
    )
    DrainingServer(config, drain).run(sockets=[listener])


def _drain(app: Starlette) -> None:
    app.state.waiters.drain()
    app.state.admission.receiving.begin_to_drain()
