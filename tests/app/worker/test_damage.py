"""Records that cannot be read, or reckoned with, cost their own cluster as little as may be, and no other."""

import functools
import json
import time
from typing import Any

import pytest
from redis.asyncio import Redis

from app.migrate.orders import encode_orders
from app.migration_plans.schemas import ReleasedMove
from app.nodes.schemas import NodeRecord
from app.observe import left_out
from app.optimizations.schemas import OptimizationRecord, OptimizationRequest, OptimizationState
from app.optimizations.service import start
from app.optimizations.store import read_stored
from app.placements.schemas import Condition, ConditionType
from app.solve import triggers
from app.storage.documents import queue_document, read_document
from app.storage.keys import CLUSTERS, ClusterKeys
from migrations.model import MoveKind
from tests.app.worker.simulation import Cluster, Nodes, obeying, until, working

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
        assert await _not_intact(odd, "node slow is left out until it registers again: egress")
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


async def _state(cluster: Cluster, optimization_id: str) -> OptimizationState:
    stored = await read_stored(cluster.redis, cluster.cluster_id, optimization_id)
    assert stored is not None
    return OptimizationRecord.model_validate_json(stored).state


async def test_damaged_plans_and_jobs_do_not_stop_their_cluster(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that takes over a cluster whose plan, its progress, past durations, a command, a job and an
    optimization are damaged names them all, carries on with the rest, and forgets those that are mended."""
    monkeypatch.setattr(left_out, "FIRST_PAUSE_SECONDS", 0.2)
    cluster = await _cluster(redis, "worn")
    keys = cluster.keys
    async with obeying(Nodes(cluster)):
        async with working(redis):
            await until(lambda: cluster.condition("Converged"), what="convergence")
        plan_id = (await cluster.plans())[0].plan_id
        lost = await start(redis, cluster.cluster_id, OptimizationRequest(validate_only=True))
        waiting = await start(redis, cluster.cluster_id, OptimizationRequest(validate_only=True))
        await redis.set(keys.plan_active, plan_id)
        damaged = {keys.plan(plan_id), keys.optimization(lost.optimization_id), keys.plan_durations}
        await redis.set(keys.plan(plan_id), b"{damaged")
        await redis.set(keys.optimization(lost.optimization_id), b"{damaged")
        await redis.lpush(keys.plan_durations, b"{damaged")
        await redis.rpush(keys.plan_commands, b"{damaged")
        await redis.lpush(keys.jobs, b"{damaged")
        await redis.hset(keys.node_clocks, "a", "soon")
        await redis.hset(keys.node_conflicts, "a", b"{damaged")
        async with working(redis):

            async def done() -> bool:
                return await _state(cluster, waiting.optimization_id) is OptimizationState.SUCCEEDED

            await until(done, what="the job behind the damaged ones")
            for key in (*damaged, keys.node_conflicts):
                named = functools.partial(_not_intact, cluster, f"key {key} in Redis")
                await until(named, what=key)
            await redis.delete(*damaged, keys.node_conflicts)

            async def mended() -> bool:
                condition = await _intact(cluster)
                return condition is not None and condition.status

            await until(mended, what="the damage being forgotten")


async def _sources(cluster: Cluster, node_id: str, layer: int, expert: int) -> set[str | None]:
    """Nodes that `node_id` calls for an expert."""
    document = await read_document(cluster.redis, cluster.keys.assignment(node_id))
    assert document is not None
    table = json.loads(document.json)
    for routes in table["routes"]:
        if routes["layer"] == layer and expert in routes["experts"]:
            found = routes["targets"][routes["experts"].index(expert)]
            return {table["targets"][target]["node_id"] for target in found}
    return set()


async def test_what_nodes_were_to_drop_stays_out_of_routes_when_the_plan_is_damaged(redis: Redis) -> None:
    """Orders to nodes outlive their plan: a worker that takes over leaves the copies out that they name."""
    cluster = Cluster(redis, "worn")
    keys = cluster.keys
    await cluster.create()
    for node_id in ("a", "b"):
        await cluster.add_node(node_id, 4)
    async with obeying(Nodes(cluster)), working(redis):
        await until(lambda: cluster.condition("Converged"), what="convergence")
    member = min(await cluster.held("a") - await cluster.held("b"))
    model_id, layer, expert = member.split("/")
    assert "a" in await _sources(cluster, "b", int(layer), int(expert))
    order = ReleasedMove(
        move_id="m",
        plan_id="p",
        kind=MoveKind.DROP,
        model_id=model_id,
        layer=int(layer),
        expert=int(expert),
        bytes=1000,
        device_id=None,
        source_node_id=None,
        source_url=None,
        expert_digest=None,
        attempt=1,
        rate_limit_bytes_per_second=None,
    )
    async with redis.pipeline(transaction=True) as pipe:
        queue_document(pipe, keys.moves("a"), encode_orders("u1", 1, "a", [order], "mark"))
        pipe.set(keys.plan_active, "p")
        pipe.set(keys.plan("p"), b"{damaged")
        pipe.zadd(keys.plans, {"p": time.time()})
        await pipe.execute()

    async def left_out_of_routes() -> bool:
        return "a" not in await _sources(cluster, "b", int(layer), int(expert))

    async with working(redis):
        await until(lambda: _not_intact(cluster, f"key {keys.plan('p')} in Redis"), what="the key")
        await until(left_out_of_routes, 20.0, what="routes without the copy")
