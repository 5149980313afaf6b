"""Counts and times every request, by route template."""

import time
from collections import defaultdict

from starlette.types import Scope

from app.http.parameters import fields_of
from app.observability.exposition import Ended, exemplars
from app.observability.metrics import (
    HTTP_DURATION,
    HTTP_IN_FLIGHT,
    HTTP_LONG_POLL_DURATION,
    HTTP_REQUESTS,
    TALLY,
    observe_all,
)
from app.observability.trace import trace_id

UNROUTED = "unrouted"
"""Label of requests that match no route: their paths are anybody's invention."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})

NEWEST = 256
"""Requests looked at for exemplars, of each kind, a few times a second."""

_Kind = tuple[str, str, int, bool]
"""Method, route template, hundreds of the status, and whether it was one that may wait."""


class Measuring:
    """Requests of this process. What is noted of each reaches the metrics when the tally does."""

    def __init__(self) -> None:
        self._in_flight = 0
        self._ended: defaultdict[_Kind, list[tuple[float, str, float]]] = defaultdict(list)
        TALLY.before_flush(self._flush)

    def begin(self) -> None:
        self._in_flight += 1
        TALLY.touch()

    def end(self, scope: Scope, status: int, began: float) -> None:
        """`began`: of `time.perf_counter`."""
        self._in_flight -= 1
        now = time.perf_counter()
        method: str = scope["method"]
        waits = method == "GET" and b"wait" in fields_of(scope).get(b"prefer", b"")
        kind = (method, getattr(scope.get("route"), "path", UNROUTED), status // 100, waits)
        self._ended[kind].append((now - began, trace_id() or "", now))
        TALLY.touch()

    def _flush(self) -> None:
        HTTP_IN_FLIGHT.set(self._in_flight)
        clock = time.time() - time.perf_counter()
        for (method, route, hundreds, waits), ended in self._ended.items():
            method = method if method in METHODS else "OTHER"
            HTTP_REQUESTS.labels(method, route, f"{hundreds}xx").inc(len(ended))
            seconds = [one[0] for one in ended]
            if waits:
                observe_all(HTTP_LONG_POLL_DURATION.labels(route), seconds)
            else:
                observe_all(HTTP_DURATION.labels(method, route), seconds)
                exemplars.note(method, route, [Ended(*one[:2], clock + one[2]) for one in ended[-NEWEST:]])
        self._ended.clear()


MEASURING = Measuring()
