from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from migrations.model import ORIGIN, Limits, Move, MoveKind, Plan, PlanStatus
from migrations.planner import plan
from migrations.verify import Rule, verify
from tests.migrations.instances import Change, cluster, random_change

Holds = npt.NDArray[np.bool_]


def _move(made: Plan, move_id: str, **changes: object) -> Plan:
    moves = tuple(
        replace(move, **changes) if move.move_id == move_id else move  # type: ignore[arg-type]
        for move in made.moves
    )
    return replace(made, moves=moves)


def _find(made: Plan, kind: MoveKind, **wanted: object) -> Move:
    return next(
        move
        for move in made.moves
        if move.kind is kind and all(getattr(move, key) == value for key, value in wanted.items())
    )


@pytest.fixture
def swap() -> tuple[Change, Plan]:
    """Two full nodes swap experts 0 and 1 through a free third; a fourth gets expert 2 from the first."""
    change = cluster(
        [20, 10, 10, 10],
        [[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]],
        [[0, 1, 1], [1, 0, 0], [0, 0, 0], [0, 0, 1]],
    )
    made = plan(change.problem, change.source, change.target)
    assert verify(change.problem, change.source, change.target, made) == ()
    return change, made


def _rules(change: Change, made: Plan, limits: Limits | None = None) -> set[Rule]:
    found = verify(change.problem, change.source, change.target, made, limits or Limits())
    return {violation.rule for violation in found}


def test_digests_of_other_placements(swap: tuple[Change, Plan]) -> None:
    """A plan between other placements is refused by its digests."""
    change, made = swap
    assert _rules(change, replace(made, from_digest="0" * 64)) == {Rule.DIGEST}
    assert _rules(change, replace(made, to_digest="0" * 64)) == {Rule.DIGEST}


def test_an_infeasible_plan_is_no_plan(swap: tuple[Change, Plan]) -> None:
    """INFEASIBLE is never accepted as a way."""
    change, made = swap
    assert _rules(change, replace(made, status=PlanStatus.INFEASIBLE, reason="full", moves=())) == {
        Rule.STATUS
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"bytes": 9},
        {"block": 3},
        {"expert": 1},
        {"destination": 4},
        {"source": 4},
        {"source": None},
    ],
)
def test_moves_that_name_what_does_not_exist(swap: tuple[Change, Plan], changes: dict[str, object]) -> None:
    """Wrong bytes and ids outside the problem are found in the move that has them."""
    change, made = swap
    copy = _find(made, MoveKind.COPY)
    found = verify(change.problem, change.source, change.target, _move(made, copy.move_id, **changes))
    assert {(violation.rule, violation.move_id) for violation in found} == {(Rule.MOVE, copy.move_id)}


def test_a_drop_with_a_source_or_a_duration(swap: tuple[Change, Plan]) -> None:
    """A drop has no source and takes no time."""
    change, made = swap
    drop = _find(made, MoveKind.DROP)
    assert _rules(change, _move(made, drop.move_id, source=0)) == {Rule.MOVE}
    longer = _move(made, drop.move_id, end_seconds=drop.end_seconds + 1)
    assert Rule.DURATION in _rules(change, longer)


def test_the_same_move_twice(swap: tuple[Change, Plan]) -> None:
    """Two moves of one id are refused."""
    change, made = swap
    assert Rule.MOVE in _rules(change, replace(made, moves=(*made.moves, made.moves[0])))


def test_a_copy_faster_than_the_links(swap: tuple[Change, Plan]) -> None:
    """A copy takes bytes over the smaller of the two bandwidths, no less and no more."""
    change, made = swap
    copy = made.moves[0]
    for factor in (0.5, 2.0):
        end = copy.start_seconds + factor * (copy.end_seconds - copy.start_seconds)
        assert Rule.DURATION in _rules(change, _move(made, copy.move_id, end_seconds=end))


def test_dependencies_that_do_not_exist_or_form_a_circle(swap: tuple[Change, Plan]) -> None:
    """Unknown dependencies, circles, and moves that start before what they depend on are found."""
    change, made = swap
    first, last = made.moves[0], made.moves[-1]
    assert _rules(change, _move(made, first.move_id, depends_on=("m99",))) == {Rule.DEPENDENCY}
    circle = _move(made, first.move_id, depends_on=(last.move_id,))
    assert Rule.DEPENDENCY in _rules(change, circle)
    itself = _move(made, first.move_id, depends_on=(first.move_id,))
    assert Rule.DEPENDENCY in _rules(change, itself)
    late = next(move for move in made.moves if move.kind is MoveKind.COPY and move.depends_on)
    early = _move(made, late.move_id, start_seconds=0.0, end_seconds=late.end_seconds - late.start_seconds)
    assert Rule.DEPENDENCY in _rules(change, early)


def test_a_drop_first(swap: tuple[Change, Plan]) -> None:
    """Dropping the last serving copy before the new one serves breaks SERVING."""
    change, made = swap
    drop = _find(made, MoveKind.DROP, block=1, destination=1)
    early = _move(made, drop.move_id, start_seconds=0.0, end_seconds=0.0, depends_on=())
    assert Rule.SERVING in _rules(change, early)


def test_memory_exceeded() -> None:
    """A copy that starts before the drop that makes its room breaks MEMORY."""
    change = cluster([10, 20], [[1, 0], [0, 1]], [[0, 1], [1, 0]])
    made = plan(change.problem, change.source, change.target)
    copy = _find(made, MoveKind.COPY, destination=0)
    duration = copy.end_seconds - copy.start_seconds
    early = _move(made, copy.move_id, start_seconds=0.0, end_seconds=duration, depends_on=())
    assert Rule.MEMORY in _rules(change, early)


def test_packing_is_checked_per_device() -> None:
    """Bytes that fit on a node as a whole, but on none of its devices, break MEMORY."""
    change = cluster([20, 20], [[1, 0], [0, 1]], [[1, 1], [0, 1]], sizes=[12, 8])
    made = plan(change.problem, change.source, change.target)
    split = change.problem.replace(
        device_node=np.array([0, 0, 1], np.int32), device_capacity_bytes=np.array([13, 7, 20])
    )
    assert _rules(change, made) == set()
    assert _rules(Change(split, change.source, change.target), made) == {Rule.MEMORY}


def test_a_source_that_does_not_hold_the_expert(swap: tuple[Change, Plan]) -> None:
    """A copy reads from a node that serves the expert, or from an origin that exists."""
    change, made = swap
    copy = _find(made, MoveKind.COPY, block=2)
    assert copy.source == 0
    assert Rule.SOURCE in _rules(change, _move(made, copy.move_id, source=1))
    assert Rule.SOURCE in _rules(change, _move(made, copy.move_id, source=ORIGIN))
    assert Rule.SOURCE in _rules(change, _move(made, copy.move_id, source=copy.destination))


def test_a_source_dropped_while_it_is_read() -> None:
    """A source must hold the expert for the whole copy."""
    change = cluster([10, 10, 10], [[1], [1], [0]], [[0], [1], [1]])
    made = plan(change.problem, change.source, change.target)
    copy, drop = _find(made, MoveKind.COPY), _find(made, MoveKind.DROP)
    made = _move(made, copy.move_id, source=0)
    early = _move(made, drop.move_id, start_seconds=0.5, end_seconds=0.5, depends_on=())
    assert _rules(change, early) == {Rule.SOURCE}


def test_copies_at_once() -> None:
    """More copies at once than a receiver, a sender, the origin or the cluster may have break CAP."""
    change = cluster([20, 20], [[1, 1], [0, 0]], [[1, 1], [1, 1]])
    made = plan(change.problem, change.source, change.target)
    second = made.moves[1]
    together = _move(made, second.move_id, start_seconds=0.0, end_seconds=1.0)
    together = replace(together, estimate=replace(made.estimate, seconds=1.0, lower_bound_seconds=1.0))
    assert _rules(change, together) == {Rule.CAP}

    spread = cluster([10, 10, 10, 10], [[1, 0], [0, 1], [0, 0], [0, 0]], [[1, 0], [0, 1], [1, 0], [0, 1]])
    made = plan(spread.problem, spread.source, spread.target)
    assert _rules(spread, made) == set()
    assert _rules(spread, made, Limits(max_copies=1)) == {Rule.CAP}

    nodes = 5
    loaded = cluster([10] * nodes, [[0]] * nodes, [[1]] * nodes, origin=True)
    slots = Limits(origin_max_sends=4)
    moves = tuple(Move(f"m{n}", MoveKind.COPY, 0, 0, ORIGIN, n, 10, (), 0.0, 1.0) for n in range(nodes))
    made = plan(loaded.problem, loaded.source, loaded.target, limits=slots)
    at_once = replace(
        made, moves=moves, estimate=replace(made.estimate, bytes=50, seconds=1.0, lower_bound_seconds=0.0)
    )
    assert _rules(loaded, at_once, slots) == {Rule.CAP}


def test_what_is_already_there_or_not_there(swap: tuple[Change, Plan]) -> None:
    """Copying what a node holds, or dropping what it does not serve, breaks HOLDING."""
    change, made = swap
    extra = Move("x", MoveKind.COPY, 2, 0, 0, 3, 10, (), 50.0, 51.0)
    longer = replace(made.estimate, seconds=51.0, bytes=made.estimate.bytes + 10)
    assert Rule.HOLDING in _rules(change, replace(made, moves=(*made.moves, extra), estimate=longer))
    drop = Move("x", MoveKind.DROP, 2, 0, None, 2, 10, (), 0.0, 0.0)
    assert Rule.HOLDING in _rules(change, replace(made, moves=(drop, *made.moves)))


def test_a_wrong_end_state(swap: tuple[Change, Plan]) -> None:
    """Any move left out leaves a state that is not the target."""
    change, made = swap
    for left_out in made.moves:
        moves = tuple(
            replace(move, depends_on=tuple(name for name in move.depends_on if name != left_out.move_id))
            for move in made.moves
            if move.move_id != left_out.move_id
        )
        assert _rules(change, replace(made, moves=moves)) - {Rule.ESTIMATE} != set()


def test_estimates_that_are_not_true(swap: tuple[Change, Plan]) -> None:
    """Bytes and seconds are those of the moves, and no bound is claimed that is not proved."""
    change, made = swap
    for wrong in (
        replace(made.estimate, bytes=1),
        replace(made.estimate, seconds=0.5),
        replace(made.estimate, lower_bound_seconds=1e6),
    ):
        assert _rules(change, replace(made, estimate=wrong)) == {Rule.ESTIMATE}


def test_dependencies_that_hold_only_by_the_clock() -> None:
    """Leaving out a dependency while the times stay right breaks ORDER, except where others imply it or
    where it only keeps a replica longer than it must be kept."""
    rng = np.random.default_rng(5)
    broken = 0
    for _ in range(6):
        change = random_change(
            rng, nodes=3, blocks=1, experts=6, copies=1.7, fill=1.0, origin=False, min_replicas=1,
            equal_sizes=True,
        )  # fmt: skip
        assert change is not None
        made = plan(change.problem, change.source, change.target)
        for move in made.moves:
            for name in move.depends_on:
                rest = tuple(other for other in move.depends_on if other != name)
                rules = _rules(change, _move(made, move.move_id, depends_on=rest))
                assert rules <= {Rule.ORDER}
                broken += rules == {Rule.ORDER}
    assert broken > 10


def test_every_unordered_plan_that_could_break_is_found() -> None:
    """On small plans without some dependencies, ORDER is reported exactly where some order of moves breaks
    memory, sources or serving copies: compared with trying all orders."""
    rng = np.random.default_rng(7)
    unsafe = safe = 0
    while unsafe < 40 or safe < 20:
        change = random_change(
            rng, nodes=2, blocks=2, experts=2, copies=float(rng.choice([1.5, 2.0])), fill=1.0, origin=False,
            min_replicas=1, equal_sizes=bool(rng.integers(2)),
        )  # fmt: skip
        if change is None:
            continue
        made = plan(change.problem, change.source, change.target)
        if not 2 <= len(made.moves) <= 7:
            continue
        moves = tuple(
            replace(move, depends_on=tuple(name for name in move.depends_on if rng.random() < 0.8))
            for move in made.moves
        )
        loose = replace(made, moves=moves)
        expected = _some_order_breaks(change, moves)
        rules = _rules(change, loose)
        assert rules == ({Rule.ORDER} if expected else set())
        unsafe += expected
        safe += not expected


def _some_order_breaks(change: Change, moves: tuple[Move, ...]) -> bool:
    """Try every order of starts and ends: depth first over (started, ended) sets of moves."""
    problem = change.problem
    size, offset = problem.column_bytes, problem.block_offset
    keep = np.minimum(np.minimum(change.source.sum(0), change.target.sum(0)), problem.min_replicas)
    column = [int(offset[move.block]) + move.expert for move in moves]
    index = {move.move_id: i for i, move in enumerate(moves)}
    seen: set[tuple[frozenset[int], frozenset[int]]] = set()

    def breaks(started: frozenset[int], ended: frozenset[int], serving: Holds) -> bool:
        if (started, ended) in seen:
            return False
        seen.add((started, ended))
        running = list(started - ended)
        for i, move in enumerate(moves):
            if i in started or any(index[name] not in ended for name in move.depends_on):
                continue
            at, e = move.destination, column[i]
            after = serving.copy()
            if move.kind is MoveKind.DROP:
                read = any(moves[j].source == at and column[j] == e for j in running)
                if not serving[at, e] or read or serving[:, e].sum() <= keep[e]:
                    return True
                after[at, e] = False
                if breaks(started | {i}, ended | {i}, after):
                    return True
                continue
            arriving = sum(int(size[column[j]]) for j in running if moves[j].destination == at)
            used = int(serving[at] @ size) + arriving + int(size[e])
            twice = serving[at, e] or any(moves[j].destination == at and column[j] == e for j in running)
            if twice or used > problem.capacity_bytes[at] or not serving[move.source, e]:
                return True
            if breaks(started | {i}, ended, after):
                return True
        for i in running:
            after = serving.copy()
            after[moves[i].destination, column[i]] = True
            if breaks(started, ended | {i}, after):
                return True
        return False

    return breaks(frozenset(), frozenset(), change.source.astype(bool))
