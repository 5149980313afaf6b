"""Counts of requests are exact while they are kept, and kept of so many at most."""

import time

import pytest
from limits import RateLimitItemPerMinute
from limits.strategies import FixedWindowRateLimiter

from app.access.rates import BoundedMemory, Rates
from app.errors import TooManyRequests


def test_memory_is_bounded() -> None:
    """A million addresses leave no more behind than a thousand; those heard of last are known."""
    memory = BoundedMemory(limit=100)
    limiter, limit = FixedWindowRateLimiter(memory), RateLimitItemPerMinute(1)
    for address in range(1000):
        assert limiter.hit(limit, str(address))
    assert memory.reset() == 100


def test_windows_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was refused is taken again when the window is over, and Retry-After says when that is."""
    now = 1_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    counted = Rates(requests_per_second=2, failures_per_minute=1)
    for _ in range(20):
        counted.asked("token")
    with pytest.raises(TooManyRequests) as refused:
        counted.asked("token")
    assert 9 <= int(refused.value.headers["Retry-After"]) <= 11
    counted.asked("another")
    counted.failed("192.0.2.1")
    with pytest.raises(TooManyRequests):
        counted.allow_attempt("192.0.2.1")
    counted.allow_attempt("192.0.2.2")
    now += 61
    counted.asked("token")
    counted.allow_attempt("192.0.2.1")


def test_no_limit() -> None:
    """0 counts nothing."""
    counted = Rates(requests_per_second=0, failures_per_minute=1)
    for _ in range(1000):
        counted.asked("token")
