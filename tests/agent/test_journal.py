"""The lines of a log about experts: each alone where there are few, one for many."""

import asyncio
import logging

import pytest

from moeplace_agent.holdings import ExpertKey
from moeplace_agent.journal import Journal

pytestmark = pytest.mark.anyio

logger = logging.getLogger("test")


def keys(count: int) -> list[ExpertKey]:
    return [ExpertKey("m", 2 + expert % 3, expert) for expert in range(count)]


async def test_one_expert_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """With its bytes, seconds and source."""
    with caplog.at_level(logging.INFO):
        Journal(logger).note("fetched", keys(1)[0], bytes=300_000, seconds=0.25, places=["edge-b"])
    assert caplog.messages == ["fetched m/2/0: 300000 bytes in 0.25 s, from edge-b"]


async def test_many_experts_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """The first alone, the others together once the interval is over; kinds are apart, and nothing is lost
    at the end."""
    journal = Journal(logger, interval_seconds=0.2)
    with caplog.at_level(logging.INFO):
        for expert, key in enumerate(keys(7)):
            journal.note(
                "fetched", key, bytes=10, seconds=0.5, places=["origin" if expert == 3 else "edge-b"]
            )
        journal.note("evicted", keys(1)[0])
        await asyncio.sleep(0.3)
        journal.note("fetched", keys(1)[0])
        journal.end()
    assert caplog.messages == [
        "fetched m/2/0: 10 bytes in 0.50 s, from edge-b",
        "evicted m/2/0",
        "fetched 6 experts of m (layers 2 to 4): 60 bytes in 3.00 s, from edge-b (5), origin (1)",
        "fetched m/2/0",
    ]
