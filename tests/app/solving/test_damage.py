"""Records that cannot be read, or reckoned with, cost their own cluster as little as may be, and no other."""

from typing import Any

import pytest
from redis.asyncio import Redis

from app.nodes.schemas import NodeRecord
from app.placements.schemas import Condition, ConditionType
from app.solving import triggers
from app.storage.keys import CLUSTERS, ClusterKeys
from tests.app.solving.simulation import Cluster, Nodes, obeying, until, working

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _no_waiting_for_more_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "SETTLE_SECONDS", 0.15)


async def _cluster(redis: Redis, cluster_id: str) -> Cluster:
    cluster = Cluster(redis, cluster_id)
    await cluster.create()
    for node_id in ("a", "b"):
        await cluster.add_node(node_id, 8)
    return cluster


async def _intact(cluster: Cluster) -> Condition | None:
    status = await cluster.status()
    found = () if status is None else status.conditions
    return next((it for it in found if it.type is ConditionType.INTACT), None)


async def _not_intact(cluster: Cluster, words: str) -> bool:
    condition = await _intact(cluster)
    return condition is not None and not condition.status and words in condition.reason


async def _respecify(cluster: Cluster, node_id: str, **spec: Any) -> None:
    """As a process from before ranges would have stored it."""
    stored = await cluster.redis.hget(cluster.keys.nodes, node_id)
    assert stored is not None
    record = NodeRecord.model_validate_json(stored)
    record = record.model_copy(update={"spec": record.spec.model_copy(update=spec)})
    await cluster.redis.hset(cluster.keys.nodes, node_id, record.model_dump_json())
    await cluster.changed()


async def test_what_is_damaged_in_one_cluster_stops_no_other(redis: Redis) -> None:
    """Of four clusters one cannot be read at all, one gets a pointer that names no generation, and one has
    nodes whose record is damaged, or whose figures no solve survives. The fourth converges; the third gets a
    placement without those nodes, and names them; the second names the key, and goes on once it is mended."""
    await redis.sadd(CLUSTERS, "unreadable")
    await redis.set(ClusterKeys("unreadable").cluster, b"{damaged")
    sound, pointing, odd = [await _cluster(redis, name) for name in ("sound", "pointing", "odd")]
    for name in ("broken", "slow"):
        await odd.add_node(name, 8)
    await redis.hset(odd.keys.nodes, "broken", b"{damaged")
    await _respecify(odd, "slow", egress_bytes_per_second=5e-324)
    async with working(redis):
        async with obeying(Nodes(sound)), obeying(Nodes(pointing)):
            await until(lambda: sound.condition("Converged"), what="convergence")
            await until(lambda: pointing.condition("Converged"), what="convergence")
            await until(odd.generation, what="a placement without the nodes left out")
        assert await _not_intact(odd, "node slow is left out until it registers anew: egress")
        assert await _not_intact(odd, "broken is left out: key")
        assert await odd.desired("a") | await odd.desired("b")
        condition = await _intact(sound)
        assert condition is not None
        assert condition.status
        generation = await redis.hget(pointing.keys.placement, "generation")
        assert generation is not None
        await redis.hset(pointing.keys.placement, "generation", "none")
        await pointing.changed()
        await until(lambda: _not_intact(pointing, f"key {pointing.keys.placement} in Redis"), what="the key")
        await redis.hset(pointing.keys.placement, "generation", generation)

        async def mended() -> bool:
            condition = await _intact(pointing)
            return condition is not None and condition.status

        await until(mended, what="the cluster going on")
