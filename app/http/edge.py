"""What every request passes, in one coroutine: a layer for each part would cost more than what the part does.

In order: a trace, the count and the clock, admission. What concerns few requests are layers of their own,
which the others do not pass.
"""

import time
from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import Unavailable
from app.http import problem
from app.http.admission import Admission
from app.http.durable import WRITES, DurableMiddleware
from app.http.exchange import Exchange
from app.http.extensions import HOLD_OFF
from app.http.fast_routes import FastRoute, FastRoutesMiddleware
from app.http.head import HeadMiddleware
from app.http.measuring import MEASURING
from app.http.trace import begin_trace

_NONE: dict[str, Callable[[], None]] = {}


def _nobody() -> None:
    """Where the application is served by another server than ours."""


class EdgeMiddleware:
    """Around the whole application, FastAPI's own middleware included."""

    def __init__(
        self, app: ASGIApp, *, admission: Admission, fast: Sequence[FastRoute], durable: bool
    ) -> None:
        self._all = app
        self._admission = admission
        self._reads: ASGIApp = FastRoutesMiddleware(app, fast)
        self._heads: ASGIApp = HeadMiddleware(self._reads)
        self._writes: ASGIApp = DurableMiddleware(self._reads) if durable else self._reads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._all(scope, receive, send)
            return
        method = scope["method"]
        app = self._reads
        if method == "HEAD":
            app = self._heads
        elif method in WRITES:
            app = self._writes
        began = time.perf_counter()
        exchange = Exchange(send, begin_trace(scope))
        MEASURING.begin()
        try:
            try:
                self._admission.enter(scope)
            except Unavailable as refusal:
                scope.get("extensions", _NONE).get(HOLD_OFF, _nobody)()
                app = problem.respond(Request(scope), refusal)
            await app(scope, receive, exchange.send)
        except Exception as error:  # noqa: BLE001
            await problem.answer_unexpected(error, scope, receive, exchange.send, started=exchange.started)
        finally:
            self._admission.leave(scope)
            MEASURING.end(scope, exchange.status, began)
