"""The worker over a real server: from registration to a converged fleet, and what comes between."""

import pytest
from redis.asyncio import Redis

from tests.app.solving.simulation import MODEL, Cluster, Nodes, obeying, until, working

pytestmark = pytest.mark.anyio

ALL = {f"{MODEL}/{layer}/{expert}" for layer in range(2) for expert in range(4)}


async def converged(cluster: Cluster) -> bool:
    return await cluster.condition("Converged")


async def test_first_placement_is_published_and_reached(redis: Redis) -> None:
    """Registering nodes and a model is enough: a placement covers all experts, and nodes reach it."""
    cluster = Cluster(redis)
    await cluster.create()
    await cluster.add_node("a", 5)
    await cluster.add_node("b", 6)
    async with working(redis), obeying(Nodes(cluster)):
        await until(lambda: converged(cluster), what="convergence")
        assert await cluster.desired("a") | await cluster.desired("b") == ALL
        for node_id in "ab":
            assert await cluster.held(node_id) == await cluster.desired(node_id)
        placement = await cluster.placement()
        assert placement is not None
        assert placement.evidence.reason == "FIRST_PLACEMENT"
        (plan,) = await cluster.plans()
        assert plan.state == "SUCCEEDED"
        assert plan.progress.moves_succeeded == plan.progress.moves_total == len(plan.moves)
        assert not await cluster.orders("a")
        assert await redis.get(cluster.keys.plan_active) is None
