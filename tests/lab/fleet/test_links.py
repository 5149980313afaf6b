"""What the emulated links impose."""

import asyncio

import pytest

from lab.fleet.links import LOOPBACK, Link, LinkSpec

pytestmark = pytest.mark.anyio


async def test_frames_take_the_delay_and_their_turn() -> None:
    """Three frames sent at once arrive in order, none before the bytes ahead of it and its own have passed
    and the delay is over."""
    arrived: list[tuple[bytes, float]] = []
    loop = asyncio.get_running_loop()
    all_there = asyncio.Event()

    def arrive(frame: bytes) -> None:
        arrived.append((frame, loop.time()))
        if len(arrived) == 3:
            all_there.set()

    link = Link(LinkSpec(0.05, 1e5), arrive)
    begun = loop.time()
    frames = [b"a" * 2000, b"b" * 1000, b"c" * 1000]
    for frame in frames:
        link.send(frame)
    assert arrived == []
    async with asyncio.timeout(20):
        await all_there.wait()
    assert [frame for frame, _ in arrived] == frames
    earliest = [0.05 + 0.02, 0.05 + 0.03, 0.05 + 0.04]
    resolution = 0.002
    for (_, at), due in zip(arrived, earliest, strict=True):
        assert at - begun >= due - resolution
    assert link.bytes_sent == 4000


async def test_loopback_is_not_slowed_down() -> None:
    """Without anything imposed a frame is delivered at once."""
    arrived: list[bytes] = []
    Link(LOOPBACK, arrived.append).send(b"x")
    assert arrived == [b"x"]
