"""Counts and times every request, by route template."""

import time
from functools import cache

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.exposition import exemplars
from app.http.trace import trace_id
from app.metrics import HTTP_DURATION, HTTP_IN_FLIGHT, HTTP_LONG_POLL_DURATION, HTTP_REQUESTS, TALLY

UNROUTED = "unrouted"
"""Label of requests that match no route: their paths are anybody's invention."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


class MeasuringMiddleware:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        # Looking a series up costs more than counting in it.
        self._requests = cache(
            lambda method, route, hundreds: HTTP_REQUESTS.labels(method, route, f"{hundreds}xx")
        )
        self._durations = cache(lambda *labels: HTTP_DURATION.labels(*labels))

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
        TALLY.count(HTTP_IN_FLIGHT, 1)
        try:
            await self._app(scope, receive, send_noting)
        finally:
            TALLY.count(HTTP_IN_FLIGHT, -1)
            seconds = time.perf_counter() - began
            method = scope["method"] if scope["method"] in METHODS else "OTHER"
            route = getattr(scope.get("route"), "path", UNROUTED)
            TALLY.count(self._requests(method, route, status // 100))
            if method == "GET" and _waits(scope):
                HTTP_LONG_POLL_DURATION.labels(route).observe(seconds)
            else:
                TALLY.observe(self._durations(method, route), seconds)
                trace = trace_id()
                if trace is not None:
                    exemplars.note(method, route, seconds, trace, time.time())


def _waits(scope: Scope) -> bool:
    return any(name == b"prefer" and b"wait" in value for name, value in scope["headers"])
