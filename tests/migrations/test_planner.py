from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrations.model import ORIGIN, Limits, Move, MoveKind, Plan, PlanError, PlanStatus
from migrations.planner import plan
from migrations.verify import verify
from solvers.feasible.packing import pack
from solvers.problem import Int64
from tests.migrations.instances import Change, changes, cluster, random_change

_SLOW = settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@_SLOW
@given(change=changes())
def test_every_plan_keeps_every_rule(change: Change) -> None:
    """Whatever the sizes, fill, origin, replicas and devices, the independent verifier accepts the plan."""
    made = plan(change.problem, change.source, change.target)
    if made.status is PlanStatus.INFEASIBLE:
        assert made.reason is not None
        assert "full nodes wait for each other" in made.reason
        assert made.moves == ()
    else:
        assert verify(change.problem, change.source, change.target, made) == ()


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    change=changes(),
    receives=st.integers(1, 3),
    sends=st.integers(1, 3),
    origin_sends=st.integers(1, 4),
    most=st.one_of(st.none(), st.integers(1, 4)),
)
def test_plans_keep_other_limits(
    change: Change, receives: int, sends: int, origin_sends: int, most: int | None
) -> None:
    """The caps are parameters: plans made under others are right under those."""
    limits = Limits(receives, sends, origin_sends, most)
    made = plan(change.problem, change.source, change.target, limits=limits)
    if made.status is PlanStatus.OK:
        assert verify(change.problem, change.source, change.target, made, limits) == ()


@_SLOW
@given(change=changes(), data=st.data())
def test_any_order_that_respects_the_dependencies_is_safe(change: Change, data: st.DataObject) -> None:
    """An executor that knows no times may run the moves in any order of `depends_on`: no rule breaks."""
    made = plan(change.problem, change.source, change.target)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    _execute(change, made, rng)


def _execute(change: Change, made: Plan, rng: np.random.Generator) -> None:
    problem = change.problem
    serving = change.source.astype(bool)
    occupied = serving.copy()
    keep = np.minimum(np.minimum(change.source.sum(0), change.target.sum(0)), problem.min_replicas)
    done: set[str] = set()
    waiting, running = list(made.moves), list[Move]()
    while waiting or running:
        ready = [move for move in waiting if done.issuperset(move.depends_on)]
        assert ready or running, "the dependencies form a circle"
        if ready and (not running or rng.random() < 0.6):
            move = ready[int(rng.integers(len(ready)))]
            waiting.remove(move)
            column = int(problem.block_offset[move.block]) + move.expert
            if move.kind is MoveKind.DROP:
                assert serving[move.destination, column]
                assert not any(_reads(problem.block_offset, other, move, column) for other in running)
                serving[move.destination, column] = occupied[move.destination, column] = False
                assert serving[:, column].sum() >= keep[column]
                done.add(move.move_id)
                continue
            assert move.source == ORIGIN or serving[move.source, column]
            assert not occupied[move.destination, column]
            occupied[move.destination, column] = True
            held = np.flatnonzero(occupied[move.destination]).astype(np.int64)
            assert pack(problem, move.destination, held) is not None
            running.append(move)
        else:
            move = running.pop(int(rng.integers(len(running))))
            serving[move.destination, int(problem.block_offset[move.block]) + move.expert] = True
            done.add(move.move_id)
    if made.status is PlanStatus.OK:
        np.testing.assert_array_equal(serving, change.target.astype(bool))


def _reads(offset: Int64, running: Move, drop: Move, column: int) -> bool:
    return running.source == drop.destination and int(offset[running.block]) + running.expert == column


def test_nothing_to_do_is_an_empty_plan() -> None:
    """From a placement to itself there is no move, and it takes no time."""
    change = cluster([20, 20], [[1, 0], [0, 1]], [[1, 0], [0, 1]])
    made = plan(change.problem, change.source, change.source)
    assert (made.status, made.moves, made.estimate.bytes, made.estimate.seconds) == (
        PlanStatus.OK,
        (),
        0,
        0.0,
    )


def test_full_nodes_without_any_room_cannot_swap() -> None:
    """Two full nodes, one expert each, no origin: INFEASIBLE, with each node and the bytes it lacks."""
    change = cluster([10, 10], [[1, 0], [0, 1]], [[0, 1], [1, 0]])
    made = plan(change.problem, change.source, change.target)
    assert made.status is PlanStatus.INFEASIBLE
    assert made.reason is not None
    assert "no order of moves exists" in made.reason
    assert "node 0 lacks 10 bytes" in made.reason
    assert "node 1 lacks 10 bytes" in made.reason


def test_free_room_lets_full_nodes_swap() -> None:
    """One free place on one of the two nodes is enough, and costs no additional copy."""
    change = cluster([20, 10], [[1, 0], [0, 1]], [[0, 1], [1, 0]])
    made = _right(change)
    assert made.estimate.bytes == 20


def test_a_third_node_is_a_parking_place() -> None:
    """Two full nodes swap through a free third one, with one additional copy, and leave it as it was."""
    change = cluster([10, 10, 10], [[1, 0], [0, 1], [0, 0]], [[0, 1], [1, 0], [0, 0]])
    made = _right(change)
    assert made.estimate.bytes == 30
    assert {move.destination for move in made.moves} == {0, 1, 2}


def test_a_redundant_replica_is_dropped_early() -> None:
    """Full nodes that share a third expert drop one copy of it, swap, and copy it back."""
    change = cluster([20, 20], [[1, 0, 1], [0, 1, 1]], [[0, 1, 1], [1, 0, 1]])
    made = _right(change)
    assert made.estimate.bytes == 30


def test_the_origin_lets_full_nodes_swap() -> None:
    """With an origin and no replica required, an expert may be dropped first and come from the origin."""
    change = cluster([10, 10], [[1, 0], [0, 1]], [[0, 1], [1, 0]], origin=True, min_replicas=0)
    made = _right(change)
    assert made.estimate.bytes == 20
    assert any(move.source == ORIGIN for move in made.moves)


def test_an_origin_does_not_excuse_a_lost_replica() -> None:
    """With an origin but one serving copy required, full nodes still cannot swap."""
    change = cluster([10, 10], [[1, 0], [0, 1]], [[0, 1], [1, 0]], origin=True, min_replicas=1)
    assert plan(change.problem, change.source, change.target).status is PlanStatus.INFEASIBLE


def test_pins_and_drained_nodes_are_no_parking_places() -> None:
    """A node that is drained, or kept free of an expert by a pin, is not used to park it."""
    change = cluster([10, 10, 10], [[1, 0], [0, 1], [0, 0]], [[0, 1], [1, 0], [0, 0]])
    drained = change.problem.replace(drained=np.array([0, 0, 1]))
    assert plan(drained, change.source, change.target).status is PlanStatus.INFEASIBLE
    pins = np.zeros((3, 2), np.int8)
    pins[2, 0] = -1
    made = plan(change.problem.replace(pins=pins), change.source, change.target)
    assert made.status is PlanStatus.OK
    assert {move.block for move in made.moves if move.destination == 2} == {1}


def test_a_fresh_copy_is_a_source() -> None:
    """One holder and seven takers take three rounds, not seven: copies are copied on."""
    nodes = 8
    change = cluster([10] * nodes, [[1]] + [[0]] * (nodes - 1), [[1]] * nodes)
    made = _right(change)
    assert made.estimate.seconds == pytest.approx(3.0)
    assert made.estimate.lower_bound_seconds == pytest.approx(3.0)


def test_the_fastest_source_is_chosen() -> None:
    """A fast origin is preferred to a slow peer, and a fast peer to a slow origin."""
    change = cluster([10, 10], [[1], [0]], [[1], [1]], origin=True)
    slow_peer = change.problem.replace(egress_bytes_per_second=np.array([1.0, 1.0]))
    assert _right(Change(slow_peer, change.source, change.target)).moves[0].source == ORIGIN
    slow_origin = change.problem.replace(origin_egress_bytes_per_second=4.0)
    assert _right(Change(slow_origin, change.source, change.target)).moves[0].source == 0


def test_a_target_beyond_the_memory_is_refused() -> None:
    """A target that exceeds a node's memory is INFEASIBLE and names the node and the excess."""
    change = cluster([10, 15], [[1, 0], [0, 1]], [[1, 0], [1, 1]])
    made = plan(change.problem, change.source, change.target)
    assert made.status is PlanStatus.INFEASIBLE
    assert made.reason == "the target exceeds the memory: node 1 lacks 5 bytes"


def test_an_expert_nobody_has_is_refused() -> None:
    """An expert no node holds is INFEASIBLE by name without an origin; with one it is copied from there."""
    lost = cluster([20, 20], [[1, 0], [0, 0]], [[1, 0], [0, 1]])
    made = plan(lost.problem, lost.source, lost.target)
    assert made.status is PlanStatus.INFEASIBLE
    assert made.reason is not None
    assert "expert 0 of block 1 (node 1)" in made.reason
    found = cluster([20, 20], [[1, 0], [0, 0]], [[1, 0], [0, 1]], origin=True)
    assert [move.source for move in _right(found).moves] == [ORIGIN]


def test_unreachable_peers_are_passed_over() -> None:
    """An expert reaches a node that cannot reach its holder through a third node."""
    change = cluster([10, 10, 10], [[1], [0], [0]], [[1], [0], [1]])
    latency = change.problem.latency_seconds.copy()
    latency[2, 0] = np.inf
    made = _right(Change(change.problem.replace(latency_seconds=latency), change.source, change.target))
    copies = [(move.source, move.destination) for move in made.moves if move.kind is MoveKind.COPY]
    assert copies == [(0, 1), (1, 2)]


def test_a_node_over_its_memory_drops_before_it_receives() -> None:
    """Where a capacity shrank below what is held, copies wait for the drops that pay the debt."""
    change = cluster([10, 30], [[1, 1, 0], [0, 0, 1]], [[0, 0, 1], [1, 1, 0]])
    made = _right(change)
    drops = {move.move_id for move in made.moves if move.kind is MoveKind.DROP and move.destination == 0}
    (copy,) = [move for move in made.moves if move.kind is MoveKind.COPY and move.destination == 0]
    assert set(copy.depends_on) == drops


def test_the_most_useful_copies_come_first() -> None:
    """Of equal experts the one with the most traffic at the receiver is copied first."""
    change = cluster([40, 40], [[1, 1, 1, 1], [0, 0, 0, 0]], [[1, 1, 1, 1], [1, 1, 1, 1]])
    problem = change.problem.replace(
        route_node=np.ones(4, np.int32), route_rate=np.array([1.0, 4.0, 2.0, 3.0])
    )
    assert [move.block for move in _right(Change(problem, change.source, change.target)).moves] == [
        1,
        3,
        2,
        0,
    ]


def test_malformed_placements_are_refused() -> None:
    """A placement of another shape, or with other entries than 0 and 1, is named."""
    change = cluster([10, 10], [[1], [0]], [[0], [1]])
    with pytest.raises(PlanError, match=r"target_holds: has shape \(2, 2\), expected \(2, 1\)"):
        plan(change.problem, change.source, np.zeros((2, 2), np.uint8))
    with pytest.raises(PlanError, match=r"source_holds: holds\[1,0\]: is 7"):
        plan(change.problem, np.array([[0], [7]], np.uint8), change.target)


def test_the_same_input_gives_the_same_plan() -> None:
    """Planning is deterministic."""
    change = _large(3, 8, 8, 32, 1.2, 1.0, origin=False)
    first, second = (plan(change.problem, change.source, change.target) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("seed", "nodes", "copies", "fill", "origin", "equal_sizes"),
    [
        (1, 8, 1.5, 0.8, False, True),
        (2, 8, 1.2, 1.0, False, True),
        (3, 8, 1.05, 0.99, False, True),
        (4, 8, 1.5, 0.9, True, True),
        (5, 16, 2.0, 1.0, False, True),
        (6, 16, 1.2, 0.95, True, True),
        (7, 32, 1.5, 0.95, False, True),
        (8, 8, 1.2, 1.0, False, False),
        (9, 8, 2.0, 1.0, False, False),
        (10, 8, 3.0, 0.95, False, False),
        (11, 12, 2.0, 1.0, False, False),
    ],
)
def test_larger_plans_are_near_the_bound(
    seed: int, nodes: int, copies: float, fill: float, origin: bool, equal_sizes: bool
) -> None:
    """On clusters of 8 to 32 nodes, of experts of one size or very unequal ones, and with up to thousands of
    moves, the makespan is within 1.25 of its bound."""
    change = _large(seed, nodes, 12, 32, copies, fill, origin=origin, equal_sizes=equal_sizes)
    made = _right(change)
    assert len(made.moves) > 100
    assert made.estimate.seconds <= 1.25 * made.estimate.lower_bound_seconds


def _large(
    seed: int,
    nodes: int,
    blocks: int,
    experts: int,
    copies: float,
    fill: float,
    *,
    origin: bool,
    equal_sizes: bool = True,
) -> Change:
    made = random_change(
        np.random.default_rng(seed),
        nodes=nodes,
        blocks=blocks,
        experts=experts,
        copies=copies,
        fill=fill,
        origin=origin,
        min_replicas=1,
        equal_sizes=equal_sizes,
    )
    assert made is not None
    return made


def _right(change: Change) -> Plan:
    made = plan(change.problem, change.source, change.target)
    assert made.status is PlanStatus.OK, made.reason
    assert verify(change.problem, change.source, change.target, made) == ()
    return made
