"""When a request is sent again, and how long a node waits before it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
"""Answers that say: not now. Every other answer is final."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Full jitter: the wait before attempt i+1 is uniform in [0, min(longest, first * 2**i)] seconds, so that
    nodes that failed together do not come back together. A Retry-After is waited for in full, the jitter
    on top of it.
    """

    first_seconds: float = 0.25
    longest_seconds: float = 20.0
    attempts: int | None = None
    timeout_seconds: float | None = 120.0

    def __post_init__(self) -> None:
        if not 0 < self.first_seconds <= self.longest_seconds:
            raise ValueError(
                f"first_seconds: is {self.first_seconds}, expected more than 0 "
                f"and at most longest_seconds, {self.longest_seconds}"
            )

    def wait_seconds(self, failures: int, retry_after_seconds: float | None = None) -> float:
        """How long to wait after the `failures`-th failure in a row (1 is the first)."""
        ceiling = min(self.longest_seconds, self.first_seconds * 2.0 ** min(failures - 1, 60))
        jitter = random.uniform(0.0, ceiling)
        return jitter if retry_after_seconds is None else retry_after_seconds + jitter


def retry_after_seconds(header: str | None, now: datetime | None = None) -> float | None:
    """The seconds a Retry-After header asks for, as a number or as a date; None where it says nothing."""
    if header is None:
        return None
    text = header.strip()
    if text.isdecimal():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())
