"""Counts and times every request, by route template."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.exposition import exemplars
from app.http.trace import trace_id
from app.metrics import HTTP_DURATION, HTTP_IN_FLIGHT, HTTP_LONG_POLL_DURATION, HTTP_REQUESTS

UNROUTED = "unrouted"
"""Label of requests that match no route: their paths are anybody's invention."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


class MeasuringMiddleware:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began = time.perf_counter()
        HTTP_IN_FLIGHT.inc()
        try:
            await self._app(scope, receive, send_noting)
        finally:
            HTTP_IN_FLIGHT.dec()
            seconds = time.perf_counter() - began
            method = scope["method"] if scope["method"] in METHODS else "OTHER"
            route = getattr(scope.get("route"), "path", UNROUTED)
            HTTP_REQUESTS.labels(method, route, f"{status // 100}xx").inc()
            if _waits(scope):
                HTTP_LONG_POLL_DURATION.labels(route).observe(seconds)
            else:
                HTTP_DURATION.labels(method, route).observe(seconds)
                trace = trace_id()
                if trace is not None:
                    exemplars.note(method, route, seconds, trace, time.time())


def _waits(scope: Scope) -> bool:
    return any(name == b"prefer" and b"wait" in value for name, value in scope["headers"])
