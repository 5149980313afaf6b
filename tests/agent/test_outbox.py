"""Telemetry that waits: bounded, oldest first out."""

import asyncio

import pytest

from moeplace_agent.outbox import Outbox, Parcel

pytestmark = pytest.mark.anyio


def parcel(number: int, size: int = 1) -> Parcel:
    return Parcel(number, b"x" * size)


async def test_the_oldest_is_dropped_and_counted() -> None:
    """Five windows into a box for three: the newest three come out, in order, and two are counted."""
    box = Outbox(max_parcels=3)
    for number in range(1, 6):
        box.put(parcel(number))
    assert box.dropped == 2
    assert [(await box.take()).sequence_number for _ in range(3)] == [3, 4, 5]


async def test_bytes_are_bounded_too() -> None:
    """A large window pushes out as many as it needs; one that never fits is dropped itself."""
    box = Outbox(max_parcels=10, max_bytes=10)
    for number in range(1, 5):
        box.put(parcel(number, 3))
    assert box.dropped == 1
    box.put(parcel(5, 8))
    assert (len(box), box.dropped) == (1, 4)
    box.put(parcel(6, 11))
    assert (len(box), box.dropped) == (0, 6)


async def test_taking_waits_for_the_next() -> None:
    """A taker that came first gets what is put later."""
    box = Outbox()
    taking = asyncio.create_task(box.take())
    await asyncio.sleep(0)
    assert not taking.done()
    box.put(parcel(1))
    assert (await taking).sequence_number == 1


async def test_sequence_numbers_are_the_nodes() -> None:
    """They rise by one from 1, whatever models the windows are of."""
    box = Outbox()
    assert [box.next_sequence_number() for _ in range(3)] == [1, 2, 3]
