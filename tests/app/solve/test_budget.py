"""What is left of an interval's limits."""

from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Redis

from app.observe.observation import Observer
from app.placements.schemas import Evidence, PlacementMetadata, PlacementSummary
from app.solve.budget import budget_left
from solvers.response.partial import UNLIMITED, Budget
from tests.app.worker.simulation import Cluster, cluster_settings

pytestmark = pytest.mark.anyio


async def test_placements_of_the_last_interval_are_counted(redis: Redis) -> None:
    """Copies and bytes of generations in the last interval are taken off, the first placement's and older
    ones' are not, and never below nothing; without limits there is nothing to count."""
    cluster = Cluster(redis)
    await cluster.create(
        cluster_settings(
            optimization_interval_seconds=60.0,
            max_moves_per_interval=10,
            max_migration_bytes_per_interval=5000,
        )
    )
    now = datetime.now(UTC)
    for generation, seconds, copies in ((1, 50, 100), (2, 30, 100), (3, 40, 3), (4, 20, 4)):
        evidence = Evidence.without_solve("sgd", "INTERVAL").model_copy(
            update={"copies": copies, "migration_bytes": copies * 1000}
            # A long solve: what counts is when it began.
            | ({"solved_at": now - timedelta(seconds=60.5)} if generation == 2 else {})
        )
        metadata = PlacementMetadata(
            uid="u1",
            generation=generation,
            digest="d",
            created_at=now - timedelta(seconds=seconds),
            supersedes=None if generation == 1 else generation - 1,
        )
        summary = PlacementSummary(metadata=metadata, evidence=evidence).model_dump_json()
        await redis.hset(cluster.keys.placement_generation(generation), "summary", summary)
        await redis.zadd(cluster.keys.placements, {str(generation): generation})
    observation = await Observer(redis, cluster.keys).observe()
    assert observation is not None
    assert await budget_left(redis, observation) == Budget(copies=3, bytes=0)
    await cluster.create(cluster_settings())
    observation = await Observer(redis, cluster.keys).observe()
    assert observation is not None
    assert await budget_left(redis, observation) == UNLIMITED
