"""Waiting requests: none misses a change, one per holder, all released when the process drains."""

import asyncio
import operator
import random
import time
from functools import partial

import pytest
from redis.asyncio import Redis

from app.errors import Unavailable
from app.http.waiting import RELEASED_PER_SECOND, Waiters, Wake, wait_until
from app.storage import topics
from app.storage.client import open_client
from app.storage.embedded import EmbeddedServer
from app.storage.keys import ClusterKeys

pytestmark = pytest.mark.anyio

KEYS = ClusterKeys("alpha")


async def test_no_wake_up_is_lost(redis_server: EmbeddedServer, redis: Redis) -> None:
    """Many readers follow a value that many writers raise at random moments; every reader sees every last
    value long before its time is up, wherever between reading and waiting the change falls."""
    waiters = Waiters(1000)
    last, readers, seconds = 120, 20, 60.0

    async def read() -> int:
        return int(await redis.get("value") or 0)

    async def follow(seed: int) -> int:
        chance = random.Random(seed)
        seen = 0
        while seen < last:
            waiter = waiters.waiter("alpha", topics.PLACEMENT)
            seen = await wait_until(waiter, seconds, read, partial(operator.lt, seen))
            await asyncio.sleep(chance.random() * 0.004)
        return seen

    async def write() -> None:
        chance = random.Random(7)
        for _ in range(last):
            async with redis.pipeline(transaction=True) as pipe:
                pipe.incr("value")
                topics.announce(pipe, KEYS, topics.PLACEMENT)
                await pipe.execute()
            await asyncio.sleep(chance.random() * 0.006)

    async with open_client(redis_server.url, blocking=True) as pubsub_client:
        listening = asyncio.create_task(waiters.listen(pubsub_client))
        async with asyncio.timeout(20):
            _, *seen = await asyncio.gather(write(), *(follow(seed) for seed in range(readers)))
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    assert seen == [last] * readers
    assert waiters.count == 0


async def test_a_lost_connection_wakes_everybody(redis_server: EmbeddedServer, redis: Redis) -> None:
    """What is announced while the connection is down is found by looking again once it is back."""
    waiters = Waiters(10)
    async with open_client(redis_server.url, blocking=True) as pubsub_client:
        listening = asyncio.create_task(waiters.listen(pubsub_client))

        async def read() -> int:
            return int(await redis.get("value") or 0)

        waiter = waiters.waiter("alpha", topics.PLACEMENT)
        waiting = asyncio.create_task(wait_until(waiter, 60, read, lambda value: value == 1))
        await asyncio.sleep(0.2)
        assert waiters.count == 1
        await redis.client_kill_filter(_type="pubsub")
        await redis.set("value", 1)  # and nobody announces it
        async with asyncio.timeout(15):
            assert await waiting == 1
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def test_topics_and_clusters_are_apart() -> None:
    """Only those who wait for that topic of that cluster are woken."""
    waiters = Waiters(10)
    with (
        waiters.waiter("alpha", topics.PLACEMENT) as mine,
        waiters.waiter("beta", topics.PLACEMENT) as other,
        waiters.waiter("alpha", topics.assignment("n")) as another,
    ):
        waiters.wake("alpha", topics.PLACEMENT)
        assert (await mine.wait(5)).name == "CHANGED"
        assert (await other.wait(0)).name == "ELAPSED"
        assert (await another.wait(0)).name == "ELAPSED"


async def test_a_newer_waiter_of_the_same_holder_releases_the_older() -> None:
    """One waiter per holder and topic; others stay."""
    waiters = Waiters(10)
    with (
        waiters.waiter("alpha", "moves:n", holder="n") as older,
        waiters.waiter("alpha", "moves:m", holder="m") as other,
        waiters.waiter("alpha", "moves:n", holder="n") as newer,
    ):
        assert (await older.wait(5)).name == "RELEASED"
        assert (await other.wait(0)).name == "ELAPSED"
        assert (await newer.wait(0)).name == "ELAPSED"
    assert waiters.count == 0


async def test_more_than_the_limit_are_refused() -> None:
    """Beyond the limit a request is answered 503 at once; one that left makes room."""
    waiters = Waiters(1)
    with waiters.waiter("alpha", topics.PLACEMENT):
        with pytest.raises(Unavailable) as refused, waiters.waiter("alpha", topics.PLACEMENT):
            pass
        assert int(refused.value.headers["Retry-After"]) >= 1
    with waiters.waiter("alpha", topics.PLACEMENT):
        assert waiters.count == 1


async def test_draining_releases_all_and_those_who_come_later() -> None:
    """Nobody waits in a process that is about to end."""
    waiters = Waiters(10)
    with waiters.waiter("alpha", topics.PLACEMENT) as early:
        waiters.drain()
        assert (await early.wait(60)).name == "RELEASED"
    with waiters.waiter("alpha", topics.PLACEMENT) as late:
        assert (await late.wait(60)).name == "RELEASED"


async def test_a_herd_is_released_over_a_while() -> None:
    """Those of a process that ends come to another one: at a rate that leaves it time for its own."""
    waiters = Waiters(1000)
    released: list[float] = []

    async def wait() -> None:
        with waiters.waiter("c", "topic") as waiter:
            assert await waiter.wait(30) is Wake.RELEASED
            released.append(time.monotonic())

    async with asyncio.TaskGroup() as tasks:
        for _ in range(1000):
            tasks.create_task(wait())
        await asyncio.sleep(0)
        began = time.monotonic()
        waiters.drain()
    assert len(released) == 1000
    assert max(released) - began >= 999 / RELEASED_PER_SECOND
    assert sum(1 for at in released if at - began < 500 / RELEASED_PER_SECOND) <= 501
