"""How long a node waits before it asks again."""

from datetime import UTC, datetime

import pytest

from moeplace_agent.retrying import RetryPolicy, retry_after_seconds


def test_waits_grow_and_are_bounded() -> None:
    """The ceiling doubles with each failure up to the longest wait, and every wait lies below it."""
    policy = RetryPolicy(first_seconds=1.0, longest_seconds=5.0)
    for failures, ceiling in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (500, 5.0)):
        waits = [policy.wait_seconds(failures) for _ in range(300)]
        assert 0 <= min(waits) < 0.2 * ceiling
        assert 0.8 * ceiling < max(waits) <= ceiling


def test_retry_after_comes_before_the_jitter() -> None:
    """What the service asks for is waited in full."""
    policy = RetryPolicy(first_seconds=1.0, longest_seconds=5.0)
    assert all(7 <= policy.wait_seconds(1, 7.0) <= 8 for _ in range(50))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("12", 12.0),
        (" 3 ", 3.0),
        ("soon", None),
        ("-1", None),
        ("Sun, 22 Nov 2026 10:00:30 GMT", 30.0),
        ("Sun, 22 Nov 2026 09:00:00 GMT", 0.0),
    ],
)
def test_retry_after_header(header: str | None, seconds: float | None) -> None:
    """Seconds and dates are understood; anything else asks for nothing."""
    assert retry_after_seconds(header, datetime(2026, 11, 22, 10, tzinfo=UTC)) == seconds


def test_a_policy_without_waits_is_refused() -> None:
    """A first wait of nothing would make a busy loop."""
    with pytest.raises(ValueError, match="first_seconds"):
        RetryPolicy(first_seconds=0)
