"""The worker's event loop while it solves, plans and writes for a large cluster."""

import asyncio
import time

import pytest
from redis.asyncio import Redis

from tests.app.worker.callbacks import timed
from tests.app.worker.simulation import Cluster, until, working

pytestmark = pytest.mark.anyio

BLOCKED_SECONDS = 0.01


async def test_measure_sees_a_blocked_loop() -> None:
    """The measure itself: a callback that computes for 20 ms is found."""

    def compute() -> None:
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass

    with timed() as slowest:
        asyncio.get_running_loop().call_soon(compute)
        await asyncio.sleep(0.01)
    assert slowest.seconds >= 0.02


async def test_loop_is_never_held_up_while_a_solve_runs(redis: Redis) -> None:
    """From registration to released moves of 3,072 experts on 16 nodes, no callback of the loop costs its
    thread over 10 ms."""
    cluster = Cluster(redis, layers=24, experts=128)
    await cluster.create()
    for number in range(16):
        await cluster.add_node(f"n{number:02}", 400)

    async def ordered() -> bool:
        return bool(await redis.exists(cluster.keys.plan_active, cluster.keys.analysis) == 2)

    async with working(redis):
        with timed() as slowest:
            await until(ordered, 90, what="a plan and an analysis")
    assert slowest.seconds < BLOCKED_SECONDS, slowest.what
