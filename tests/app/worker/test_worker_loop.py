"""The worker over a real server: from registration to a converged fleet, and what comes between."""

import asyncio
import json
import re
from datetime import UTC, datetime
from functools import partial
from statistics import median
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from app.analysis.packed import PackedLayer, layer_field
from app.migrate import next_plan
from app.migrate.durations import PlanDuration
from app.migration_plans.schemas import (
    CancelMode,
    PlanCommand,
    PlanProgress,
    PlanRecord,
    PlanVerb,
    ReportedState,
)
from app.nodes.schemas import HeldExperts
from app.optimizations.schemas import OptimizationRecord, OptimizationRequest, OptimizationState, Overrides
from app.placements.schemas import Assignment
from app.placements.store import set_paused
from app.report import analyses
from app.solve import solves, triggers
from app.solve.optimizer import Solved, solve_and_adopt
from app.storage import topics
from app.storage.documents import read_document
from app.storage.fenced import fenced
from app.storage.jobs import Job, JobKind
from app.storage.keys import CLUSTERS
from app.storage.lease import acquire
from app.worker import jobs
from migrations.states import PlanState
from solvers.multipliers import AnyMultipliers
from tests.app.worker.simulation import (
    MODEL,
    Cluster,
    Nodes,
    cluster_settings,
    obeying,
    quick_settings,
    until,
    working,
)

pytestmark = pytest.mark.anyio

ALL = {f"{MODEL}/{layer}/{expert}" for layer in range(2) for expert in range(4)}


@pytest.fixture(autouse=True)
def _no_waiting_for_more_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "SETTLE_SECONDS", 0.15)


async def converged(cluster: Cluster) -> bool:
    return await cluster.condition("Converged")


async def reaches(cluster: Cluster, generation: int) -> bool:
    """Converged on it: the status may still be that of the generation before."""
    status = await cluster.status()
    return status is not None and (status.generation or 0) >= generation and await converged(cluster)


async def ask(cluster: Cluster, identifier: str, request: OptimizationRequest) -> None:
    record = OptimizationRecord(
        optimization_id=identifier,
        request=request,
        state=OptimizationState.QUEUED,
        created_at=datetime.now(UTC),
        started_at=None,
        finished_at=None,
        result=None,
        error=None,
    )
    redis, keys = cluster.redis, cluster.keys
    await redis.set(keys.optimization(identifier), record.model_dump_json())
    await redis.zadd(keys.optimizations, {identifier: record.created_at.timestamp()})
    await redis.rpush(keys.jobs, Job(kind=JobKind.OPTIMIZATION, id=identifier).model_dump_json())
    await redis.publish(keys.wake, topics.WORK)


async def answer(cluster: Cluster, identifier: str) -> OptimizationRecord:
    stored = await cluster.redis.get(cluster.keys.optimization(identifier))
    assert stored is not None
    return OptimizationRecord.model_validate_json(stored)


async def ended(cluster: Cluster, identifier: str) -> bool:
    return (await answer(cluster, identifier)).finished_at is not None


async def command(cluster: Cluster, plan_id: str, verb: PlanVerb, mode: CancelMode | None = None) -> None:
    entry = PlanCommand(plan_id=plan_id, verb=verb, mode=mode)
    await cluster.redis.rpush(cluster.keys.plan_commands, entry.model_dump_json())
    await cluster.redis.publish(cluster.keys.wake, topics.WORK)


async def active(cluster: Cluster) -> str | None:
    stored = cast("bytes | None", await cluster.redis.get(cluster.keys.plan_active))
    return None if stored is None else stored.decode()


async def two_nodes(redis: Redis, **settings: Any) -> Cluster:
    cluster = Cluster(redis)
    await cluster.create(cluster_settings(**settings))
    await cluster.add_node("a", 5)
    await cluster.add_node("b", 6)
    return cluster


async def test_first_placement_is_published_and_reached(redis: Redis) -> None:
    """Registering nodes and a model is enough: a placement covers all experts, and nodes reach it."""
    cluster = await two_nodes(redis)
    async with working(redis), obeying(Nodes(cluster)):
        await until(lambda: converged(cluster), what="convergence")
        assert await cluster.desired("a") | await cluster.desired("b") == ALL
        for node_id in "ab":
            assert await cluster.held(node_id) == await cluster.desired(node_id)
            document = await read_document(redis, cluster.keys.assignment(node_id))
            assert document is not None
            assignment = Assignment.model_validate_json(document.json)
            routed = {
                f"{routes.model_id}/{routes.layer}/{expert}"
                for routes in assignment.routes
                for expert in routes.experts
            }
            assert routed == ALL - await cluster.held(node_id)
        placement = await cluster.placement()
        assert placement is not None
        assert placement.evidence.reason == "FIRST_PLACEMENT"
        (plan,) = await cluster.plans()
        assert plan.state == "SUCCEEDED"
        assert plan.progress.moves_succeeded == plan.progress.moves_total == len(plan.moves)
        assert not await cluster.orders("a")
        assert await active(cluster) is None
        assert await cluster.condition("Available")
        assert not await cluster.condition("TelemetryFresh")
        whole, overview = [
            json.loads(document.json)
            for key in (cluster.keys.analysis, cluster.keys.analysis_overview)
            if (document := await read_document(redis, key)) is not None
        ]
        for node, figures in zip(whole["nodes"], overview["nodes"], strict=True):
            assert {name: value for name, value in node.items() if name != "layers"} == figures
        for layer in overview["layers"]:
            field = layer_field(layer["model_id"], layer["layer"])
            stored = await redis.hget(cluster.keys.analysis_layers, field)
            told = PackedLayer.decoded(cast(bytes, stored)).activations()
            assert [node.node_id for node in told.nodes] == ["a", "b"]
            assert sum(len(node.held) for node in told.nodes) == layer["copies"]


async def test_layers_too_large_for_one_analysis_take_turns(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for one layer each time all of them come to be told, of the generation in force, though
    nothing changes any more."""
    monkeypatch.setattr(analyses, "LAYERS_BYTES", 1)
    monkeypatch.setattr(analyses, "ANALYSIS_SECONDS", 0.05)
    cluster = await two_nodes(redis)

    async def told() -> bool:
        stored = cast("list[bytes]", await redis.hvals(cluster.keys.analysis_layers))
        layers = [PackedLayer.decoded(found) for found in stored]
        return sorted(layer.layer for layer in layers) == [0, 1] and all(
            layer.generation == 1 and layer.held == layer.desired for layer in layers
        )

    async with working(redis), obeying(Nodes(cluster)):
        await until(lambda: converged(cluster), what="convergence")
        await until(told, what="both layers")


async def test_lost_node_is_replaced_at_once(redis: Redis) -> None:
    """When a node's lease runs out the others get its experts without waiting for the interval."""
    cluster = Cluster(redis)
    await cluster.create()
    for node_id in "abc":
        await cluster.add_node(node_id, 4)
    nodes = Nodes(cluster)
    async with working(redis), obeying(nodes):
        await until(lambda: converged(cluster), what="convergence")
        lost = max("abc", key=lambda node_id: len(node_id))
        await cluster.lose(lost)
        await until(lambda: reaches(cluster, 2), what="recovery")
        assert await cluster.desired(lost) == set()
        others = [node_id for node_id in "abc" if node_id != lost]
        assert set().union(*[await cluster.held(node_id) for node_id in others]) == ALL
        placement = await cluster.placement()
        assert placement is not None
        assert placement.evidence.reason == "NODES_LOST"


async def test_solve_is_handed_what_the_last_one_learned(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The multipliers of one solve go into the next, which takes them up; the first has none."""
    given: list[AnyMultipliers | None] = []
    found: list[AnyMultipliers | None] = []

    async def watched(*arguments: Any) -> Solved:
        given.append(arguments[-1])
        solved = await solve_and_adopt(*arguments)
        found.append(solved.outcome.result.multipliers)
        return solved

    monkeypatch.setattr(solves, "solve_and_adopt", watched)
    cluster = Cluster(redis)
    await cluster.create()
    for node_id in "abc":
        await cluster.add_node(node_id, 4)
    async with working(redis), obeying(Nodes(cluster)):
        await until(lambda: converged(cluster), what="convergence")
        await cluster.lose("c")

        async def again() -> bool:
            return len(found) > 1

        await until(again, what="another solve")
    assert given[0] is None
    assert given[1] is found[0] is not None


async def test_drained_node_is_emptied_and_leaves(redis: Redis) -> None:
    """A draining node loses its experts only once they live elsewhere, and is then forgotten."""
    cluster = await two_nodes(redis)
    await cluster.add_node("c", 8)
    nodes = Nodes(cluster)
    async with working(redis), obeying(nodes):
        await until(lambda: converged(cluster), what="convergence")
        await cluster.drain("a")

        async def gone() -> bool:
            return not await redis.hexists(cluster.keys.nodes, "a")

        await until(gone, what="the departure")
        assert await cluster.held("b") | await cluster.held("c") == ALL
        assert not await redis.exists(cluster.keys.assignment("a"))
        assert not await redis.hexists(cluster.keys.holdings_versions, "a")
        assert await redis.zscore(cluster.keys.drained_nodes, "a") is not None


async def test_drop_waits_for_every_node_to_switch(redis: Redis) -> None:
    """Make before break: while one live node still uses routes from before, no copy is dropped."""
    cluster = await two_nodes(redis)
    await cluster.add_node("c", 8)
    nodes = Nodes(cluster)
    async with working(redis), obeying(nodes):
        await until(lambda: converged(cluster), what="convergence")
        held = await cluster.held("a")
        assert held
        nodes.stubborn.add("b")
        before = len(nodes.done)
        await cluster.drain("a")
        await until(lambda: reaches_generation(cluster, 2), what="generation 2")

        async def held_back() -> bool:
            status = await cluster.status()
            conditions = [] if status is None else status.conditions
            return any("to a copy that is to be dropped" in condition.reason for condition in conditions)

        async def withdrawn() -> bool:
            documents = [await read_document(redis, cluster.keys.assignment(node_id)) for node_id in "bc"]
            tables = [Assignment.model_validate_json(it.json) for it in documents if it is not None]
            return len(tables) == 2 and not any("a" in named_targets(table) for table in tables)

        await until(held_back, what="the drops held back")
        await until(withdrawn, what="routing tables without the copies to be dropped")
        assert not [kind for _, kind, _ in nodes.done[before:] if kind == "DROP"]
        assert await cluster.held("a") == held
        nodes.stubborn.clear()

        async def empty() -> bool:
            return not await cluster.held("a")

        await until(empty, what="the drops")


async def reaches_generation(cluster: Cluster, generation: int) -> bool:
    return (await cluster.generation() or 0) >= generation


def named_targets(assignment: Assignment) -> set[str]:
    """Nodes that some route names."""
    used = {index for routes in assignment.routes for listed in routes.targets for index in listed}
    return {node_id for index in used if (node_id := assignment.targets[index].node_id) is not None}


async def test_failing_source_is_replaced_by_another(redis: Redis) -> None:
    """A copy that fails is tried again from elsewhere, and the plan succeeds all the same."""
    cluster = await two_nodes(redis)
    nodes = Nodes(cluster)
    nodes.refuse = lambda node_id, move: "link down" if move["attempt"] < 3 else None
    async with working(redis), obeying(nodes):
        await until(lambda: converged(cluster), what="convergence")
        (plan,) = await cluster.plans()
        assert plan.state == "SUCCEEDED"
        progress = await redis.hgetall(cluster.keys.plan_progress(plan.plan_id))
        assert {json.loads(entry)["attempts"] for entry in progress.values()} == {3}


async def test_move_is_given_up_with_its_reason(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A move that never works fails the plan after three attempts, and operators see why."""
    monkeypatch.setattr(next_plan, "BACK_OFF_SECONDS", 0.5)
    cluster = await two_nodes(redis)
    nodes = Nodes(cluster)
    nodes.refuse = lambda node_id, move: "disk on fire"
    async with working(redis), obeying(nodes):

        async def failed() -> bool:
            return any(plan.state == "FAILED" for plan in await cluster.plans())

        await until(failed, what="the failure")
        plan = (await cluster.plans())[-1]
        assert plan.reason is not None
        assert "failed 3 times" in plan.reason
        assert "disk on fire" in plan.reason
        await until(
            lambda: _condition_says(cluster, "Converged", "disk on fire"), what="the condition in words"
        )
        nodes.refuse = lambda node_id, move: None
        await until(lambda: converged(cluster), what="the fresh plan after the back-off")


async def _condition_says(cluster: Cluster, kind: str, words: str) -> bool:
    status = await cluster.status()
    return status is not None and any(c.type == kind and words in c.reason for c in status.conditions)


async def test_pause_resume_and_cancel(redis: Redis) -> None:
    """PAUSE releases nothing more, RESUME goes on, CANCEL ends the plan and no new one begins by itself."""
    cluster = await two_nodes(redis, max_copies_per_node=1, max_copies_per_cluster=1)
    nodes = Nodes(cluster, deaf={"a", "b"})
    async with working(redis), obeying(nodes):
        await until(lambda: _ordered(cluster), what="the first order")
        plan_id = await active(cluster)
        assert plan_id is not None
        await command(cluster, plan_id, PlanVerb.PAUSE)
        await until(lambda: _plan_is(cluster, PlanState.PAUSED), what="the pause")
        nodes.deaf.clear()
        await asyncio.sleep(0.5)
        assert len(nodes.done) == 1, "what was released finishes, nothing is released"
        await command(cluster, plan_id, PlanVerb.RESUME)
        await until(lambda: _done(nodes, 3), what="more moves")
        await command(cluster, plan_id, PlanVerb.CANCEL, CancelMode.DRAIN)
        await until(lambda: _plan_is(cluster, PlanState.CANCELLED), what="the end")
        done = len(nodes.done)
        await asyncio.sleep(0.7)
        assert len(nodes.done) == done
        assert len(await cluster.plans()) == 1
        assert not await converged(cluster)
        # An operator asks for the way to the same generation again.
        await _ask_plan(cluster, to_generation=1, validate_only=False)
        await until(lambda: converged(cluster), what="convergence")
        assert {plan.plan_id for plan in await cluster.plans()} == {plan_id, "asked"}


async def test_pausing_ends_the_solve_under_way(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a solve under way would have found never comes into force; recomputation begins anew once it is
    resumed."""
    begun: list[str] = []
    held_back = asyncio.Event()

    async def holding_back(*args: Any) -> Solved:
        begun.append("solve")
        await held_back.wait()
        return await solve_and_adopt(*args)

    monkeypatch.setattr("app.solve.solves.solve_and_adopt", holding_back)
    cluster = await two_nodes(redis)

    async def solves(count: int) -> bool:
        return len(begun) == count

    async with working(redis):
        await until(lambda: solves(1), what="the first solve")
        await set_paused(redis, cluster.keys.cluster_id, paused=True)
        await asyncio.sleep(0.5)
        held_back.set()
        await asyncio.sleep(0.5)
        assert await cluster.placement() is None
        assert len(begun) == 1
        await set_paused(redis, cluster.keys.cluster_id, paused=False)
        await until(lambda: solves(2), what="another solve")

        async def in_force() -> bool:
            return await cluster.placement() is not None

        await until(in_force, what="a placement")


async def _ordered(cluster: Cluster) -> bool:
    return bool(await cluster.orders("a") or await cluster.orders("b"))


async def _done(nodes: Nodes, count: int) -> bool:
    return len(nodes.done) >= count


async def _plan_is(cluster: Cluster, state: PlanState) -> bool:
    return any(plan.state is state for plan in await cluster.plans())


async def _ask_plan(
    cluster: Cluster, *, to_generation: int, validate_only: bool, from_generation: int | None = None
) -> None:
    now = datetime.now(UTC)
    record = PlanRecord(
        plan_id="asked",
        from_generation=from_generation,
        to_generation=to_generation,
        created_at=now,
        updated_at=now,
        state=PlanState.PENDING,
        reason=None,
        validate_only=validate_only,
        estimate=None,
        progress=PlanProgress(
            moves_total=0, moves_succeeded=0, moves_failed=0, moves_released=0, bytes_total=0, bytes_done=0
        ),
        moves=[],
    )
    await cluster.redis.set(cluster.keys.plan("asked"), record.model_dump_json())
    await cluster.redis.zadd(cluster.keys.plans, {"asked": now.timestamp()})
    await cluster.redis.rpush(cluster.keys.jobs, Job(kind=JobKind.PLAN, id="asked").model_dump_json())
    await cluster.redis.publish(cluster.keys.wake, topics.WORK)


async def _plan_held_up(cluster: Cluster, nodes: Nodes) -> str:
    """The plan away from `a`, which drains: `b` holds it up at its drops."""
    nodes.stubborn.add("b")
    await cluster.add_node("c", 8)
    await cluster.drain("a")
    await until(lambda: reaches_generation(cluster, 2), what="generation 2")
    await until(lambda: _is_active(cluster), what="the plan")
    plan_id = await active(cluster)
    assert plan_id is not None
    return plan_id


async def test_cancel_with_rollback_goes_back(redis: Redis) -> None:
    """CANCEL ROLLBACK brings the generation that the plan came from into force again."""
    cluster = await two_nodes(redis)
    nodes = Nodes(cluster)
    async with working(redis), obeying(nodes):
        await until(lambda: converged(cluster), what="convergence")
        before = {node_id: await cluster.desired(node_id) for node_id in "ab"}
        plan_id = await _plan_held_up(cluster, nodes)
        await redis.hset(cluster.keys.control, "paused", "1")
        await cluster.add_node("a", 5)
        await command(cluster, plan_id, PlanVerb.CANCEL, CancelMode.ROLLBACK)
        await until(lambda: reaches_generation(cluster, 3), what="generation 3")
        nodes.stubborn.clear()
        await until(lambda: converged(cluster), what="convergence")
        assert {node_id: await cluster.desired(node_id) for node_id in "ab"} == before
        placement = await cluster.placement()
        assert placement is not None
        assert placement.evidence.algorithm == "rollback"
        plan = next(plan for plan in await cluster.plans() if plan.plan_id == plan_id)
        assert plan.state == "CANCELLED"


async def test_no_way_back_to_what_the_fleet_cannot_hold(redis: Redis) -> None:
    """Where a node of the earlier generation drains by now, going back would leave experts without the copies
    they are to have: the plan fails in words, nothing comes into force, and no other plan begins."""
    cluster = await two_nodes(redis)
    nodes = Nodes(cluster)
    async with working(redis), obeying(nodes):
        await until(lambda: converged(cluster), what="convergence")
        plan_id = await _plan_held_up(cluster, nodes)
        await command(cluster, plan_id, PlanVerb.CANCEL, CancelMode.ROLLBACK)
        await until(lambda: _plan_is(cluster, PlanState.FAILED), what="the end")
        nodes.stubborn.clear()
        (plan,) = [plan for plan in await cluster.plans() if plan.plan_id == plan_id]
        words = "cannot roll back: generation 1 cannot come into force again: "
        assert plan.reason is not None
        assert plan.reason.startswith(words), plan.reason
        assert "node a (draining) may hold nothing" in plan.reason
        await asyncio.sleep(0.7)
        assert await cluster.generation() == 2
        assert await active(cluster) is None


async def test_a_plan_asked_for_while_another_drains_is_made(redis: Redis) -> None:
    """An operator cancels a plan, and asks for the way to the same generation while a copy is still under
    way: it is gone once the cancelled plan has ended."""
    cluster = await two_nodes(redis, max_copies_per_node=1, max_copies_per_cluster=1)
    nodes = Nodes(cluster, deaf={"a", "b"})
    async with working(redis), obeying(nodes):
        await until(lambda: _ordered(cluster), what="the first order")
        node_id = "a" if await cluster.orders("a") else "b"
        (order,) = await cluster.orders(node_id)
        plan_id = await active(cluster)
        assert plan_id is not None
        await cluster.report(node_id, order, ReportedState.IN_PROGRESS)
        await until(lambda: _begun(cluster, plan_id), what="the copy's beginning")
        await command(cluster, plan_id, PlanVerb.CANCEL, CancelMode.DRAIN)
        await until(lambda: _plan_is(cluster, PlanState.CANCELLING), what="the cancelling")
        await _ask_plan(cluster, to_generation=1, validate_only=False)
        await until(lambda: _no_jobs(cluster), what="the worker to have heard")
        await asyncio.sleep(0.5)
        nodes.deaf.clear()
        await until(lambda: converged(cluster), what="convergence")
        assert [(plan.plan_id, plan.state) for plan in await cluster.plans()] == [
            ("asked", "SUCCEEDED"),
            (plan_id, "CANCELLED"),
        ]


async def _begun(cluster: Cluster, plan_id: str) -> bool:
    stored = cast("list[bytes]", await cluster.redis.hvals(cluster.keys.plan_progress(plan_id)))
    return any(json.loads(entry)["state"] == "IN_PROGRESS" for entry in stored)


async def _no_jobs(cluster: Cluster) -> bool:
    return await cluster.redis.llen(cluster.keys.jobs) == 0


async def _is_active(cluster: Cluster) -> bool:
    return await active(cluster) is not None


async def test_what_if_changes_nothing(redis: Redis) -> None:
    """validate_only with overrides answers with a result, and no generation comes of it."""
    cluster = await two_nodes(redis)
    async with working(redis), obeying(Nodes(cluster)):
        await until(lambda: converged(cluster), what="convergence")
        request = OptimizationRequest(
            validate_only=True, overrides=Overrides(remove_nodes=["a"], origin=False)
        )
        await ask(cluster, "o1", request)
        await until(lambda: ended(cluster, "o1"), what="the answer")
        record = await answer(cluster, "o1")
        assert record.state == "FAILED"
        assert record.error is not None
        assert "not enough memory without a: 2 of 8 experts, 2000 bytes (2 kB), have no place" in record.error
        assert record.result is not None
        assert record.result.status == "INFEASIBLE", "6 slots cannot hold 8 experts without an origin"
        assert "infeasible" in record.result.detail
        await ask(cluster, "o2", OptimizationRequest(algorithm="uniform", validate_only=True))
        await until(lambda: ended(cluster, "o2"), what="the answer")
        record = await answer(cluster, "o2")
        assert record.result is not None
        assert record.result.algorithm == "uniform"
        assert not record.result.adopted
        assert await cluster.generation() == 1


async def test_wrong_parameter_fails_the_job_in_words(redis: Redis) -> None:
    """A job that the solver refuses is FAILED with the solver's words, and the worker goes on."""
    cluster = await two_nodes(redis)
    async with working(redis), obeying(Nodes(cluster)):
        await ask(cluster, "o1", OptimizationRequest(params={"no_such_parameter": 1}))
        await until(lambda: ended(cluster, "o1"), what="the answer")
        record = await answer(cluster, "o1")
        assert record.state == "FAILED"
        assert record.error is not None
        assert "no_such_parameter" in record.error
        await until(lambda: converged(cluster), what="convergence")


async def test_plan_between_generations_is_only_told(redis: Redis) -> None:
    """A validate_only plan gets its moves and estimate, and nothing moves."""
    cluster = await two_nodes(redis)
    nodes = Nodes(cluster)
    async with working(redis), obeying(nodes):
        await until(lambda: converged(cluster), what="convergence")
        await cluster.add_node("c", 8)
        await cluster.drain("a")
        await until(lambda: reaches(cluster, 2), what="generation 2")
        done = len(nodes.done)
        await _ask_plan(cluster, from_generation=2, to_generation=1, validate_only=True)

        async def told() -> bool:
            stored = await redis.get(cluster.keys.plan("asked"))
            return stored is not None and PlanRecord.model_validate_json(stored).estimate is not None

        await until(told, what="the plan")
        plan = PlanRecord.model_validate_json(await redis.get(cluster.keys.plan("asked")) or b"")
        assert plan.state in ("PENDING", "FAILED")
        assert len(nodes.done) == done
        assert await cluster.generation() == 2


async def test_after_some_plans_the_next_is_expected_to_take_what_it_takes(redis: Redis) -> None:
    """Small plans take orders and reports, which links know nothing of: after a few, `estimate.seconds` is
    within a factor of 2 of what plans take, and `transfer_seconds` is still what the links need."""
    cluster = await two_nodes(redis)
    async with working(redis), obeying(Nodes(cluster)):
        await until(lambda: converged(cluster), what="convergence")
        await redis.hset(cluster.keys.control, "paused", "1")
        held = sorted(await cluster.held("a"))
        for turn in range(4):
            await cluster.holds("a", held[: turn % 2])  # it has lost the rest, which is copied again
            await until(lambda: converged(cluster), what="convergence")
            await until(partial(_learned, cluster, turn + 2), what="the plan's duration")
        newest = max(await cluster.plans(), key=lambda plan: plan.created_at)
        stored = await redis.lrange(cluster.keys.plan_durations, 0, -1)
        taken = sorted(PlanDuration.model_validate_json(entry).taken_seconds for entry in stored[:4])
    assert newest.estimate is not None
    assert newest.estimate.transfer_seconds is not None
    assert newest.estimate.transfer_seconds < 0.01
    assert 0.5 <= newest.estimate.seconds / median(taken) <= 2.0


async def _learned(cluster: Cluster, plans: int) -> bool:
    return await cluster.redis.llen(cluster.keys.plan_durations) >= plans


async def test_answer_to_an_asked_plan_outlives_a_lost_connection(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job has left the queue when the plan is made: its end is stored when the server is back."""
    cluster = await two_nodes(redis)
    calls = 0

    async def unsteady(*arguments: Any, **more: Any) -> None:
        nonlocal calls
        calls += 1
        if calls in (2, 3):
            raise RedisConnectionError("gone for a moment")
        await fenced(*arguments, **more)

    async with working(redis), obeying(Nodes(cluster)):
        await until(lambda: converged(cluster), what="convergence")
        monkeypatch.setattr(jobs, "fenced", unsteady)
        await _ask_plan(cluster, from_generation=1, to_generation=1, validate_only=True)

        async def told() -> bool:
            stored = await redis.get(cluster.keys.plan("asked"))
            return stored is not None and PlanRecord.model_validate_json(stored).estimate is not None

        await until(told, what="the plan")
        assert calls == 4


async def test_plan_goes_on_under_another_worker(redis: Redis) -> None:
    """A worker that takes over in the middle of a plan finishes that plan, doing no move twice."""
    cluster = await two_nodes(redis, max_copies_per_node=1, max_copies_per_cluster=1)
    nodes = Nodes(cluster)
    nodes.refuse = lambda node_id, move: None
    async with obeying(nodes):
        async with working(redis):
            await until(lambda: _done(nodes, 2), what="the first moves")
            nodes.deaf = {"a", "b"}
            plan_id = await active(cluster)
        nodes.deaf = set()
        async with working(redis):
            await until(lambda: converged(cluster), what="convergence")
    (plan,) = await cluster.plans()
    assert plan.plan_id == plan_id
    assert plan.state == "SUCCEEDED"
    assert len(nodes.done) == len(set(nodes.done)) == len(plan.moves)


async def test_node_that_starts_anew_is_filled_anew(redis: Redis) -> None:
    """A node that comes back empty under another instance gets its experts again, in the same generation."""
    cluster = await two_nodes(redis)
    async with working(redis), obeying(Nodes(cluster)):
        await until(lambda: converged(cluster), what="convergence")
        cluster.instances["b"] = "b-i2"
        await cluster.add_node("b", 6)
        await cluster.holds("b", [])
        await until(lambda: _filled(cluster, "b"), what="the refill")
        assert await cluster.held("b") == await cluster.desired("b")
        assert await cluster.generation() == 1


async def _filled(cluster: Cluster, node_id: str) -> bool:
    return await cluster.held(node_id) == await cluster.desired(node_id)


async def test_without_telemetry_every_expert_is_placed_although_the_origin_would_do(redis: Redis) -> None:
    """With no replica required and nothing known of the traffic, what fits is placed once; when a node of the
    full fleet is lost, the rest of it is served on, and the origin serves what has no room."""
    cluster = await two_nodes(redis, min_replicas=0)
    async with working(redis), obeying(Nodes(cluster)):
        await until(lambda: converged(cluster), what="convergence")
        assert await cluster.desired("a") | await cluster.desired("b") == ALL
        held = await cluster.held("b")
        del cluster.instances["a"]
        await cluster.lose("a")
        await until(lambda: reaches(cluster, 2), what="the placement without the lost node")
        assert held <= await cluster.desired("b")
        assert await _condition_says(cluster, "Available", "are served only by the origin")


async def test_infeasible_fleet_says_what_is_short(redis: Redis) -> None:
    """Too little memory without an origin: no placement, and the condition names the shortfall."""
    cluster = Cluster(redis)
    await cluster.create(cluster_settings(origin=None))
    await cluster.add_node("a", 3)
    async with working(redis):
        await until(lambda: _condition_says(cluster, "Converged", "infeasible"), what="the words")
        assert await cluster.generation() is None
        await cluster.add_node("b", 5)
        await until(lambda: reaches_generation(cluster, 1), what="a placement once there is room")


async def test_impossible_plan_is_told_in_names(redis: Redis) -> None:
    """What nobody holds and no origin has cannot be copied: the plan says which expert and node by name."""
    cluster = Cluster(redis)
    await cluster.create(cluster_settings(origin=None))
    await cluster.add_node("east", 8)
    await cluster.add_node("west", 8)
    async with working(redis):

        async def failed() -> bool:
            return any(plan.state == "FAILED" for plan in await cluster.plans())

        await until(failed, what="the failure")
        (plan, *_) = await cluster.plans()
        assert plan.reason is not None
        assert re.search(rf"expert \d of layer [01] of {MODEL} \(node (east|west)\)", plan.reason), (
            plan.reason
        )
        assert "block" not in plan.reason


async def test_deleted_model_is_evicted(redis: Redis) -> None:
    """Nodes are told to evict what they hold of a model that was deleted or shrank, and the fleet has not
    converged before they did; what was never registered is left alone, its model may yet come."""
    cluster = await two_nodes(redis)
    nodes = Nodes(cluster)
    async with working(redis), obeying(nodes):
        await until(lambda: converged(cluster), what="convergence")
        held = await cluster.held("a")
        await cluster.holds("a", held | {"gone/0/1", "gone/0/2", "to-come/0/0", f"{MODEL}/9/0"})
        await redis.zadd(cluster.keys.deleted_models, {"gone": 1.0})
        await cluster.changed()
        await until(
            lambda: _condition_says(cluster, "Converged", "hold 3 experts of models that were deleted"),
            what="the condition",
        )
        assert {(e.model_id, e.layer, *e.experts) for e in await _to_evict(cluster, "a")} == {
            ("gone", 0, 1, 2),
            (MODEL, 9, 0),
        }
        assert await _to_evict(cluster, "b") == []
        await cluster.holds("a", held | {"to-come/0/0"})
        await redis.publish(cluster.keys.wake, topics.WORK)
        await until(lambda: converged(cluster), what="convergence once they are evicted")
        assert await _to_evict(cluster, "a") == []


async def _to_evict(cluster: Cluster, node_id: str) -> list[HeldExperts]:
    document = await read_document(cluster.redis, cluster.keys.assignment(node_id))
    assert document is not None
    return Assignment.model_validate_json(document.json).evict


async def test_stale_lease_stops_the_worker(redis: Redis) -> None:
    """A worker whose lease another one took writes nothing more to the cluster."""
    cluster = await two_nodes(redis)
    async with working(redis, quick_settings(worker_lease_seconds=1.0)):
        await until(lambda: reaches_generation(cluster, 1), what="a placement")
        await redis.delete(cluster.keys.lease)
        other = await acquire(redis, cluster.keys, "another", 60.0)
        assert other is not None
        await cluster.lose("a")
        await asyncio.sleep(1.0)
        assert await cluster.generation() == 1
        assert await redis.get(cluster.keys.lease) == other.value


async def test_deleted_cluster_is_left_alone(redis: Redis) -> None:
    """When a cluster is deleted the worker writes nothing of it again."""
    cluster = await two_nodes(redis)
    async with working(redis):
        await until(lambda: reaches_generation(cluster, 1), what="a placement")
        await redis.srem(CLUSTERS, "c")
        await redis.delete(cluster.keys.cluster)
        await asyncio.sleep(0.3)
        if left := await _keys(redis):
            await redis.delete(*left)
        await asyncio.sleep(0.5)
        assert await _keys(redis) == []


async def _keys(redis: Redis) -> list[bytes]:
    """Of the cluster; the fencing counter outlives it, so that no stale lease becomes valid."""
    found = cast("list[bytes]", await redis.keys("moeplace:{c}:*"))
    return [name for name in found if not name.endswith(b":fence")]
