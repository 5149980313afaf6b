"""What one process takes on at once. More is refused before it costs anything, and may come again soon:
beyond what a process can do, everything that waits only makes everybody's answer later."""

import random
from typing import NoReturn

from starlette.requests import Request
from starlette.types import Scope

from app.errors import Unavailable
from app.http.receiving import Receiving
from app.http.waiting import Waiters
from app.observability.metrics import REFUSED

UNCOUNTED = frozenset({"/healthz", "/readyz", "/metrics"})
"""Whoever asks how a process is must be told so above all when it has too much to do."""

RETRY_SECONDS = 1

_KEY = "moeplace.admission"
_HELD = "moeplace.held_bytes"


class Admission:
    """Counts of one process. Long polls that wait are not counted: `Waiters` bounds them."""

    def __init__(self, waiters: Waiters, *, max_requests: int, max_bytes: int) -> None:
        self._waiters = waiters
        self._max_requests = max_requests
        self._free = max_requests // 2
        self._max_bytes = max_bytes
        self._requests = 0
        self._bytes = 0
        self.receiving = Receiving()

    @property
    def busy(self) -> int:
        """Requests being worked on: those that wait for a change or for their bodies keep nobody waiting."""
        return self._requests - self._waiters.count - self.receiving.waiting

    def enter(self, scope: Scope) -> None:
        """Raises `Unavailable` where there are too many.

        Beyond half of what there may be, by chance, the more often the more there are (random early
        detection, Floyd and Jacobson 1993): where all places were given away first, those who ask again at
        once would keep them, and those who wait as they are told would find none.
        """
        scope[_KEY] = self
        if scope["path"] in UNCOUNTED:
            return
        over = self.busy - self._free
        if over > 0 and over > random.random() * (self._max_requests - self._free):
            self._refuse_request()
        self._requests += 1
        scope[_HELD] = 0

    def resume(self) -> None:
        """Called when a body has come at last; raises `Unavailable` where too many came at once."""
        if self.busy > self._max_requests:
            self._refuse_request()

    def _refuse_request(self) -> NoReturn:
        REFUSED.labels("requests").inc()
        raise Unavailable(
            f"this process has {self._max_requests} requests to answer already",
            retry_after_seconds=RETRY_SECONDS,
        )

    def hold(self, scope: Scope, number: int) -> None:
        """Account for bytes of a body that are kept until the request is answered, or with a negative number
        no longer; raises `Unavailable` where all requests together keep too many."""
        self._bytes += number
        scope[_HELD] = scope.get(_HELD, 0) + number
        if self._bytes > self._max_bytes and number > 0:
            REFUSED.labels("bytes").inc()
            raise Unavailable(
                f"this process holds {self._max_bytes} bytes of bodies already",
                retry_after_seconds=RETRY_SECONDS,
            )

    def leave(self, scope: Scope) -> None:
        """Gives back what the request took, if it was let in."""
        held = scope.get(_HELD)
        if held is not None:
            self._requests -= 1
            self._bytes -= held


def admission_of(request: Request) -> Admission | None:
    """What the request counts in; None outside of the whole application."""
    found: Admission | None = request.scope.get(_KEY)
    return found
