"""Workers on one server come to equal parts of its clusters, whoever comes and goes."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from app.clusters.store import delete_cluster, write_settings
from app.config import Settings
from app.storage.keys import ClusterKeys
from app.worker.worker import Worker

pytestmark = pytest.mark.anyio

SETTINGS = Settings(worker_lease_seconds=4.0, worker_tick_seconds=0.5)
SECONDS = 60.0
CLUSTERS = [f"c{index}" for index in range(40)]


class _Sharer(Worker):
    """Without solver processes, which clusters without nodes do not need."""

    async def _start(self) -> None:
        return


@asynccontextmanager
async def working(redis: Redis) -> AsyncIterator[str]:
    """A worker, until the block ends; its id."""
    stop = asyncio.Event()
    worker = _Sharer(SETTINGS, redis, stop)
    running = asyncio.create_task(worker.run())
    try:
        yield worker.worker_id
    finally:
        stop.set()
        await running


async def holders(redis: Redis) -> Counter[str]:
    async with redis.pipeline(transaction=False) as pipe:
        for cluster_id in CLUSTERS:
            pipe.get(ClusterKeys(cluster_id).lease)
        values: list[bytes | None] = await pipe.execute()
    return Counter(value.decode().partition(":")[2] for value in values if value is not None)


async def until(redis: Redis, holds: Callable[[Counter[str]], bool]) -> float:
    """Seconds until it holds of who has how many clusters."""
    began = time.monotonic()
    while not holds(found := await holders(redis)):
        assert time.monotonic() - began < SECONDS, found
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def test_parts_stay_equal(redis: Redis) -> None:
    """One worker takes all; a second and a third get their parts of what it has; what one that ends had, and
    what is created anew, goes to the others; a cluster that is deleted is nobody's."""
    for cluster_id in CLUSTERS[:-1]:
        await write_settings(redis, cluster_id, None, limit=1000)
    async with working(redis) as first:
        await until(redis, lambda found: found == {first: 39})
        async with working(redis) as second:
            await until(redis, lambda found: sorted(found.values()) == [19, 20])
            async with working(redis) as third:
                await until(redis, lambda found: sorted(found.values()) == [13, 13, 13])
                await write_settings(redis, CLUSTERS[-1], None, limit=1000)
                await until(redis, lambda found: sorted(found.values()) == [13, 13, 14])
                assert set(await holders(redis)) == {first, second, third}
            await until(redis, lambda found: found == {first: 20, second: 20})
        # It gave its leases up: nobody has to wait for their end.
        assert await until(redis, lambda found: found == {first: 40}) < SETTINGS.worker_lease_seconds
        assert await delete_cluster(redis, CLUSTERS[0])
        await until(redis, lambda found: found == {first: 39})


async def test_a_worker_that_is_silent_loses_its_clusters(redis: Redis) -> None:
    """Whoever neither renews nor beats, as one that was killed, is replaced when its leases end."""
    for cluster_id in CLUSTERS:
        await write_settings(redis, cluster_id, None, limit=1000)
    milliseconds = int(SETTINGS.worker_lease_seconds * 1000)
    for cluster_id in CLUSTERS[:20]:
        await redis.set(ClusterKeys(cluster_id).lease, "1:dead", px=milliseconds)
    async with working(redis) as alive:
        await until(redis, lambda found: found == {"dead": 20, alive: 20})
        assert await until(redis, lambda found: found == {alive: 40}) < SETTINGS.worker_lease_seconds + 2
