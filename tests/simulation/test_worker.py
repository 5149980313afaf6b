"""What a worker keeps to when its store breaks or another one took over, one case at a time."""

import asyncio
import contextlib
import random
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from app.clusters.schemas import ClusterRecord, ClusterSettings
from app.migrate.execution import Execution
from app.migrate.expectation import Expectation
from app.migrate.migration import Migration
from app.migrate.next_plan import HOLD_SECONDS
from app.migrate.plan_journal import PlanJournal
from app.migrate.releasing import Releasing
from app.migration_plans.schemas import MoveProgress, PlannedMove, PlanProgress, PlanRecord
from app.models.schemas import Block, ModelRecord
from app.nodes.schemas import ApplyState, Device, NodeRecord, NodeSpec, NodeStatusRecord
from app.observe.observation import InForce, Observer
from app.placements.schemas import Evidence, PlacementDocument, PlacementMetadata, PlacementSpec
from app.publish.routing import RoutingTables
from app.publish.withdrawal import HeldCopy, Withdrawal
from app.storage.documents import read_version
from app.storage.keys import ClusterKeys
from app.storage.lease import Lease
from migrations.model import MoveKind
from migrations.states import MoveState, PlanState
from moeplace_agent.holdings import ExpertKey
from tests.migrations.instances import cluster
from tests.simulation.clock import BEGINS_AT, VirtualLoop, virtual_time
from tests.simulation.store import Connection, Store
from tests.simulation.workers import InlineSolver

KEYS = ClusterKeys("c")


def _in_virtual_time(course: Coroutine[Any, Any, None]) -> None:
    loop = VirtualLoop(random.Random(0))
    try:
        with virtual_time(loop, 0):
            loop.run_until_complete(course)
    finally:
        loop.close()


def _cluster() -> Store:
    """Two nodes, which are alive, and a model of one layer."""
    store = Store()
    cluster = ClusterRecord(
        cluster_id="c", uid="u", created_at=BEGINS_AT, updated_at=BEGINS_AT, settings=ClusterSettings()
    )
    model = ModelRecord(
        model_id="m",
        digest="d",
        created_at=BEGINS_AT,
        updated_at=BEGINS_AT,
        blocks=[Block(layer=0, experts=4, expert_bytes=10, top_k=1)],
        source="blocks",
        origin_url=None,
    )
    store.set(KEYS.cluster, cluster.model_dump_json())
    store.hset(KEYS.models, "m", model.model_dump_json())
    for node_id in ("n1", "n2"):
        node = NodeRecord(
            node_id=node_id,
            uid=node_id,
            created_at=BEGINS_AT,
            updated_at=BEGINS_AT,
            spec=NodeSpec(instance_uid="i", devices=[Device(device_id="gpu0", memory_bytes=100)]),
        )
        store.hset(KEYS.nodes, node_id, node.model_dump_json())
        store.zadd(KEYS.node_leases, {node_id: (BEGINS_AT.timestamp() + 3600.0) * 1000.0})
    store.incr(KEYS.revision)
    return store


def _hold(store: Store, node_id: str, *experts: int) -> None:
    store.delete(KEYS.holdings(node_id))
    store.sadd(KEYS.holdings(node_id), *(str(ExpertKey("m", 0, expert)) for expert in experts))
    store.hincrby(KEYS.holdings_versions, node_id)


class _Breaking(Connection):
    """Breaks at the exchange whose number is given, counted from now, and never again."""

    at = -1

    async def exchange(self, run: Any) -> Any:
        self.at -= 1
        if self.at == 0:
            raise RedisConnectionError("broke")
        return await super().exchange(run)


@pytest.mark.parametrize("at", range(1, 4))
@pytest.mark.parametrize("change", ["holdings", "nodes", "first look"])
def test_a_look_that_fails_hides_nothing_from_the_next(at: int, change: str) -> None:
    """Wherever the connection breaks during a look, the next one sees what a fresh observer sees."""

    async def course() -> None:
        store = _cluster()
        _hold(store, "n1", 0, 1)
        connection = _Breaking(store, random.Random(0))
        observer = Observer(cast("Redis", connection), KEYS)
        if change != "first look":
            await observer.observe()
        if change == "holdings":
            _hold(store, "n1", 2)
        elif change == "nodes":
            store.hdel(KEYS.nodes, "n2")
            store.incr(KEYS.revision)
        connection.at = at
        with contextlib.suppress(RedisConnectionError):
            await observer.observe()
        connection.at = -1
        found = await observer.observe()
        expected = await Observer(cast("Redis", Connection(store, random.Random(0))), KEYS).observe()
        assert found is not None
        assert expected is not None
        assert found.fleet.node_ids == expected.fleet.node_ids
        assert found.held.tolist() == expected.held.tolist()

    _in_virtual_time(course())


def _ended_plan(at: datetime) -> tuple[PlanRecord, MoveProgress]:
    """A superseded plan whose only move is a drop that its node had been told to make."""
    move = PlannedMove(
        move_id="m1", kind=MoveKind.DROP, model_id="m", layer=0, expert=3, source=None, from_origin=False,
        destination="n1", bytes=10, depends_on=[], start_seconds=0.0, end_seconds=0.0,
    )  # fmt: skip
    counts = PlanProgress(
        moves_total=1, moves_succeeded=0, moves_failed=0, moves_released=0, bytes_total=0, bytes_done=0
    )
    record = PlanRecord(
        plan_id="p1", from_generation=1, to_generation=2, created_at=at, updated_at=at,
        state=PlanState.SUPERSEDED, reason="generation 3 is in force", validate_only=False, estimate=None,
        progress=counts, moves=[move],
    )  # fmt: skip
    progress = MoveProgress(
        move_id="m1", state=MoveState.CANCELLED, attempts=1, source=None, from_origin=False, bytes_done=0,
        reason=None, released_at=at, finished_at=at,
    )  # fmt: skip
    return record, progress


def _lease(store: Store) -> Lease:
    lease = Lease("c", "w2", 2, KEYS.lease, 10_000)
    store.set(KEYS.lease, lease.value)
    return lease


def _migration(redis: Redis, lease: Lease, withdrawal: Withdrawal) -> Migration:
    return Migration(
        redis,
        KEYS,
        lease,
        InlineSolver(random.Random(0)),
        withdrawal,
        RoutingTables(redis, KEYS, lease, withdrawal),
        heartbeat_seconds=10.0,
        lease_seconds=60.0,
    )


def _says(store: Store, version: str | None, *, due: bool = False) -> NodeStatusRecord:
    """A heartbeat of n1."""
    status = NodeStatusRecord(
        instance_uid="i", sequence_number=1, received_at=BEGINS_AT, state=ApplyState.APPLIED, reason=None,
        generation=None, assignment_version=None, moves_version=version, holds_digest=None,
        full_state_due=due, latency=None,
    )  # fmt: skip
    store.hset(KEYS.node_status, "n1", status.model_dump_json())
    return status


def _routes_by(store: Store, node_id: str, version: str) -> None:
    """A heartbeat of the node."""
    status = _says(store, None).model_copy(update={"assignment_version": version})
    store.hset(KEYS.node_status, node_id, status.model_dump_json())


def test_what_a_node_was_told_to_drop_is_routed_to_by_nobody() -> None:
    """A worker that takes over a plan leaves such a copy out of routes, also where nothing else serves its
    expert by now: its node may drop it at any moment. One that no node was told to drop yet stays."""

    async def course() -> None:
        store = _cluster()
        _hold(store, "n1", 2, 3)
        at = datetime.fromtimestamp(BEGINS_AT.timestamp(), UTC)
        record, progress = _ended_plan(at)
        told = record.moves[0]
        later = told.model_copy(update={"move_id": "m2", "expert": 2})
        record = record.model_copy(update={"state": PlanState.RUNNING, "moves": [told, later]})
        released = progress.model_copy(update={"state": MoveState.RELEASED, "finished_at": None})
        redis = cast("Redis", Connection(store, random.Random(0)))
        observation = await Observer(redis, KEYS).observe()
        assert observation is not None
        withdrawal = Withdrawal()
        routing = RoutingTables(redis, KEYS, _lease(store), withdrawal)
        problem = cluster([40, 40], [[0] * 4] * 2, [[0] * 4] * 2).problem
        Releasing(withdrawal, routing).withdraw(Execution(record, {"m1": released}), observation, problem)
        assert withdrawal.copies == {HeldCopy("n1", "m", 0, 3)}

    _in_virtual_time(course())


def test_a_copy_returns_to_routes_once_its_node_goes_by_orders_without_the_drop() -> None:
    """Not before it says so, nor while what it holds is uncertain."""

    async def course() -> None:
        store = _cluster()
        redis = cast("Redis", Connection(store, random.Random(0)))
        lease, withdrawal = _lease(store), Withdrawal()
        migration = _migration(redis, lease, withdrawal)
        observer = Observer(redis, KEYS)

        async def kept() -> bool:
            observation = await observer.observe()
            assert observation is not None
            await migration.step(observation, problem)
            return copy in withdrawal.copies

        problem = cluster([40, 40], [[0] * 4] * 2, [[0] * 4] * 2).problem
        copy = HeldCopy("n1", "m", 0, 3)
        withdrawal.withhold([copy], until=1e12)
        assert await kept()
        version = await read_version(redis, KEYS.moves("n1"))
        assert version is not None
        _says(store, None)
        assert await kept()
        _says(store, version, due=True)
        assert await kept()
        _says(store, version)
        assert not await kept()

    _in_virtual_time(course())


def test_no_version_of_orders_comes_back() -> None:
    """A node that goes by orders which say the same as the newest, but came before others, may still be about
    to read those: it does not go by the newest."""

    async def course() -> None:
        store = _cluster()
        redis = cast("Redis", Connection(store, random.Random(0)))
        journal = PlanJournal(redis, KEYS, _lease(store))
        versions = []
        for generation in (1, 2, 1):
            await journal.save(
                None, {"n1": []}, uid="u", generation=generation, now=datetime.now(UTC), commands=0
            )
            versions.append(await read_version(redis, KEYS.moves("n1")))
        assert [journal.goes_by_newest("n1", _says(store, version)) for version in versions] == [
            False,
            False,
            True,
        ]

    _in_virtual_time(course())


@pytest.mark.parametrize(("seconds", "kept"), [(1.0, True), (25.0, True), (50.0, True), (70.0, False)])
def test_a_worker_that_takes_over_keeps_out_of_routes_what_nodes_may_be_dropping(
    seconds: float, kept: bool
) -> None:
    """A drop ordered by a plan that ended less than a node's lease ago may still happen, or have happened
    unheard: the copy stays out of routing tables under the next worker, too."""

    async def course() -> None:
        store = _cluster()
        record, progress = _ended_plan(datetime.fromtimestamp(BEGINS_AT.timestamp(), UTC))
        store.zadd(KEYS.plans, {"p1": 1.0})
        store.set(KEYS.plan("p1"), record.model_dump_json())
        store.hset(KEYS.plan_progress("p1"), "m1", progress.model_dump_json())
        await asyncio.sleep(seconds)
        redis = cast("Redis", Connection(store, random.Random(0)))
        withdrawal = Withdrawal()
        migration = _migration(redis, _lease(store), withdrawal)
        observation = await Observer(redis, KEYS).observe()
        assert observation is not None
        await migration.take_over(observation)
        assert (HeldCopy("n1", "m", 0, 3) in withdrawal.copies) == kept

    _in_virtual_time(course())


def _copy_to(node_id: str) -> PlannedMove:
    return PlannedMove(
        move_id="m1", kind=MoveKind.COPY, model_id="m", layer=0, expert=3, source="n2", from_origin=False,
        destination=node_id, bytes=10, depends_on=[], start_seconds=0.0, end_seconds=0.0,
    )  # fmt: skip


def test_an_agent_that_starts_anew_stops_no_plan() -> None:
    """A plan with moves to and from the node goes on; until the node has said that it still holds what the
    plan counts on it deviates, which holds back drops, and after that it does not."""

    async def course() -> None:
        store = _cluster()
        _hold(store, "n1", 0, 1)
        _hold(store, "n2", 2, 3)
        observer = Observer(cast("Redis", Connection(store, random.Random(0))), KEYS)
        before = await observer.observe()
        assert before is not None
        expectation, moves = Expectation(before), [_copy_to("n1")]
        _hold(store, "n1")
        started = await observer.observe()
        assert started is not None
        assert expectation.contradiction(started, moves) is None
        deviation = expectation.deviation(started, moves)
        assert deviation is not None
        assert deviation.lacks
        _hold(store, "n1", 0, 1)
        said = await observer.observe()
        assert said is not None
        assert expectation.deviation(said, moves) is None

    _in_virtual_time(course())


def test_a_worker_that_takes_a_plan_over_misses_the_copies_that_have_gone() -> None:
    """A plan leaves a copy where it is; an order of the plan before drops it while no worker looks. The
    worker that takes the plan over expects the copy, and not what the plan has still to bring."""

    async def course() -> None:
        store = _cluster()
        _hold(store, "n1", 0)
        _hold(store, "n2", 2, 3)
        observation = await Observer(cast("Redis", Connection(store, random.Random(0))), KEYS).observe()
        assert observation is not None
        target = np.zeros(observation.fleet.shape, np.uint8)
        n1, n2 = observation.fleet.row("n1"), observation.fleet.row("n2")
        target[n1, [0, 1, 3]] = 1
        target[n2, [2, 3]] = 1
        moves = [_copy_to("n1")]
        expectation = Expectation(observation)
        expectation.count_on(target, moves)
        deviation = expectation.deviation(observation, [])
        assert deviation is not None
        assert deviation.lacks
        assert "node n1 holds 1 expert otherwise" in deviation.words
        _hold(store, "n1", 0, 1)
        returned = await Observer(cast("Redis", Connection(store, random.Random(0))), KEYS).observe()
        assert returned is not None
        assert expectation.deviation(returned, []) is None

    _in_virtual_time(course())


def test_no_drop_is_released_while_copies_that_the_plan_counts_on_are_missing() -> None:
    """A drop that is free to go stays back with `hold_drops`, and goes without it."""

    async def course() -> None:
        store = _cluster()
        _hold(store, "n1", 2, 3)
        at = datetime.fromtimestamp(BEGINS_AT.timestamp(), UTC)
        record, _ = _ended_plan(at)
        record = record.model_copy(update={"state": PlanState.RUNNING})
        redis = cast("Redis", Connection(store, random.Random(0)))
        withdrawal = Withdrawal()
        withdrawal.withdraw([HeldCopy("n1", "m", 0, 3)])
        withdrawal.tables_made({"n1": "v", "n2": "v"}, withdrawal.copies)
        for node_id in ("n2", "n1"):
            _routes_by(store, node_id, "v")
        observation = await Observer(redis, KEYS).observe()
        assert observation is not None
        releasing = Releasing(withdrawal, RoutingTables(redis, KEYS, _lease(store), withdrawal))
        problem = cluster([40, 40], [[0] * 4] * 2, [[0] * 4] * 2).problem
        execution = Execution(record, {})
        releasing.release(execution, observation, problem, at, hold_drops=True)
        assert execution.outstanding == []
        releasing.release(execution, observation, problem, at)
        assert execution.outstanding == ["m1"]

    _in_virtual_time(course())


def test_a_plan_waits_seconds_for_another_placement_and_says_so() -> None:
    """While another placement is being computed a plan to the one in force waits, with that as its reason,
    and no longer than `HOLD_SECONDS`, however long the solve takes."""

    async def course() -> None:
        store = _cluster()
        _hold(store, "n1", 0, 1)
        redis = cast("Redis", Connection(store, random.Random(0)))
        migration = _migration(redis, _lease(store), Withdrawal())
        seen = await Observer(redis, KEYS).observe()
        assert seen is not None
        document = PlacementDocument(
            metadata=PlacementMetadata(
                uid="u", generation=1, digest="d", created_at=BEGINS_AT, supersedes=None
            ),
            spec=PlacementSpec(nodes=["n1", "n2"], models=["m"], holds=[]),
            evidence=Evidence(
                algorithm="sgd", objective=None, lower_bound=None, gap_ratio=None, mean_latency_seconds=None,
                objective_before=None, migration_bytes=None, runtime_seconds=None, telemetry_until=None,
                reason="INTERVAL",
            ),
        )  # fmt: skip
        observation = replace(seen, in_force=InForce(1, document, np.ones((2, 4), np.uint8)))
        reasons = []
        for _ in range(2):
            assert await migration.plan(observation, None, hold=True) is None
            waiting = migration.waiting_for(observation)
            assert waiting is not None
            reasons.append(waiting.reason)
            await asyncio.sleep(HOLD_SECONDS)
        assert reasons[0].startswith("another placement is being computed")
        assert reasons[1] == "the traffic that a plan is made for is being read"

    _in_virtual_time(course())


def test_a_node_lost_less_than_a_lease_ago_holds_back_drops() -> None:
    """A node that fell silent may go on routing as it did: copies that its table names stay for one more
    lease from its loss on, and no longer. A node that had switched before holds back nothing."""

    async def course() -> None:
        store = _cluster()
        _routes_by(store, "n1", "old")
        redis = cast("Redis", Connection(store, random.Random(0)))
        observer = Observer(redis, KEYS, lease_seconds=60.0)
        routing = RoutingTables(redis, KEYS, _lease(store), withdrawal := Withdrawal())
        copy = HeldCopy("n2", "m", 0, 3)
        withdrawal.tables_made({"n1": "old", "n2": "old"}, withdrawal.copies)
        withdrawal.withdraw([copy])
        withdrawal.tables_made({"n1": "new", "n2": "new"}, withdrawal.copies)

        async def behind(lost_ago: float) -> list[str]:
            now = BEGINS_AT.timestamp() + asyncio.get_running_loop().time()
            store.zadd(KEYS.node_leases, {"n1": (now - lost_ago) * 1000.0, "n2": 0.0})
            observation = await observer.observe()
            assert observation is not None
            assert "n1" not in observation.live
            return withdrawal.behind(copy, routing.in_use(observation))

        assert await behind(1.0) == ["n1"]
        assert await behind(59.0) == ["n1"]
        assert await behind(61.0) == []
        _routes_by(store, "n1", "new")
        assert await behind(1.0) == []

    _in_virtual_time(course())
