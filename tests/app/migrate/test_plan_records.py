"""Plans are forgotten beyond what is retained."""

import pytest
from redis.asyncio import Redis

from app.migrate.plan_records import RETAINED_PLANS, outdated_plans, queue_forgetting
from app.storage.keys import ClusterKeys

pytestmark = pytest.mark.anyio

KEYS = ClusterKeys("c")


async def test_only_the_newest_plans_and_the_active_one_are_retained(redis: Redis) -> None:
    """Nothing is left of the others, however old the one is that is being carried out."""
    for number in range(RETAINED_PLANS + 3):
        await redis.zadd(KEYS.plans, {f"p{number}": number})
        await redis.set(KEYS.plan(f"p{number}"), "{}")
        await redis.hset(KEYS.plan_progress(f"p{number}"), "m", "{}")
    await redis.set(KEYS.plan_active, "p1")
    outdated = await outdated_plans(redis, KEYS)
    assert outdated == ["p2", "p0"]
    async with redis.pipeline(transaction=True) as pipe:
        queue_forgetting(pipe, KEYS, outdated)
        await pipe.execute()
    assert await redis.zcard(KEYS.plans) == RETAINED_PLANS + 1
    assert not await redis.exists(KEYS.plan("p0"), KEYS.plan_progress("p0"))
    assert await redis.exists(KEYS.plan("p1"), KEYS.plan_progress("p1")) == 2
