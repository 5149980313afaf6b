"""Counts are exact while they are kept, and kept of so many at most."""

import time

import pytest

from app.access.rates import Counts, Rates
from app.errors import RateLimited


def test_memory_is_bounded() -> None:
    """Any number of addresses leaves so many behind; those whose window began last are known."""
    counts = Counts(limit=1, seconds=60, keys=100)
    for address in range(1000):
        assert counts.add(str(address), 0.0)
    assert len(counts) == 100
    assert not counts.add("999", 1.0)
    assert counts.add("0", 1.0)


def test_windows_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was refused is taken again when the window is over, and Retry-After says when that is."""
    now = 1_000_000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    rates = Rates(requests_per_second=2, failures_per_minute=1)
    for _ in range(20):
        rates.asked("token")
    now += 4
    with pytest.raises(RateLimited) as refused:
        rates.asked("token")
    assert refused.value.headers["Retry-After"] == "6"
    rates.asked("another")
    rates.wrong("192.0.2.1")
    with pytest.raises(RateLimited) as refused:
        rates.wrong("192.0.2.1")
    assert refused.value.headers["Retry-After"] == "60"
    rates.wrong("192.0.2.2")
    now += 61
    rates.asked("token")
    rates.wrong("192.0.2.1")


def test_no_limit() -> None:
    """0 counts nothing."""
    rates = Rates(requests_per_second=0, failures_per_minute=1)
    for _ in range(1000):
        rates.asked("token")
