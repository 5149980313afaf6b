"""Copies that take the time of their link."""

import time

import pytest

from lab.demo.link_storage import LinkStorage
from moeplace_agent.messages import MoveKind, MoveOrder
from moeplace_agent.storage import FetchFailed

pytestmark = pytest.mark.anyio


def order(source: str | None) -> MoveOrder:
    return MoveOrder("m1", "p1", MoveKind.COPY, "m", 0, 1, 1000, None, source, None, None, 1)


async def test_the_slower_end_decides() -> None:
    """Seconds are bytes over the lower of the source's egress and the node's ingress, and they are spent."""
    storage = LinkStorage(5_000.0, {"near": 20_000.0, "slow": 2_000.0}, 10_000.0)
    assert storage.seconds(order("near")) == pytest.approx(0.2)
    assert storage.seconds(order("slow")) == pytest.approx(0.5)
    assert storage.seconds(order(None)) == pytest.approx(0.2)
    told: list[int] = []
    begun = time.monotonic()
    await storage.fetch(order("near"), "gpu-0", told.append)
    assert time.monotonic() - begun >= 0.2
    assert told == [500]


async def test_an_unknown_source_fails_in_words() -> None:
    """There is no link to a node that the scenario does not have."""
    with pytest.raises(FetchFailed, match="no link to mars"):
        await LinkStorage(1.0, {}, 1.0).fetch(order("mars"), "gpu-0", lambda _: None)
