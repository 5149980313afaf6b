from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrations.model import Limits, MoveKind, PlanError, PlanStatus
from migrations.planner import plan
from migrations.progress import MoveProgress, fold, releasable, summarise
from migrations.states import MoveState
from tests.migrations.instances import Change, changes, cluster

_REPORTS = st.builds(
    MoveProgress,
    state=st.sampled_from(MoveState),
    attempt=st.integers(0, 2),
    bytes_done=st.integers(0, 3),
    reason=st.sampled_from([None, "disk full", "source gone"]),
)


@given(reports=st.lists(_REPORTS, min_size=1, max_size=4), again=st.lists(st.integers(0, 3), max_size=4))
def test_reports_may_come_in_any_order_and_twice(reports: list[MoveProgress], again: list[int]) -> None:
    """Whatever the order and the repetitions, folding the same reports gives the same knowledge."""
    outcomes = set()
    for order in itertools.permutations(reports):
        known = MoveProgress()
        for report in (*order, *(reports[i % len(reports)] for i in again)):
            known = fold(known, report)
        outcomes.add(known)
    # None and "" would mean the same reason; nothing else may differ.
    assert len(outcomes) == 1


def test_success_is_never_taken_back_but_a_new_attempt_starts_anew() -> None:
    """A late IN_PROGRESS does not undo SUCCEEDED; a retry counts from zero."""
    done = MoveProgress(MoveState.SUCCEEDED, bytes_done=10)
    assert fold(done, MoveProgress(MoveState.IN_PROGRESS, bytes_done=4)) == done
    failed = MoveProgress(MoveState.FAILED, bytes_done=7, reason="source gone")
    retried = MoveProgress(MoveState.RELEASED, attempt=1)
    assert fold(failed, retried) == retried
    assert fold(retried, failed) == retried


def test_sums_count_copies_only() -> None:
    """Bytes are those of copies: all of a copy that succeeded, what is reported of one that runs."""
    change = cluster([40, 20], [[1, 1], [0, 0]], [[0, 1], [1, 1]])
    made = plan(change.problem, change.source, change.target)
    first, second = (move.move_id for move in made.moves if move.kind is MoveKind.COPY)
    empty = summarise(made, {})
    assert (empty.bytes_done, empty.bytes_total, empty.settled) == (0, 20, False)
    assert empty.counts[MoveState.PENDING] == 3
    half = summarise(
        made,
        {
            first: MoveProgress(MoveState.SUCCEEDED),
            second: MoveProgress(MoveState.IN_PROGRESS, attempt=1, bytes_done=4),
        },
    )
    assert (half.bytes_done, half.attempts) == (14, 1)
    over = {move.move_id: MoveProgress(MoveState.SUCCEEDED) for move in made.moves}
    assert summarise(made, over).settled
    with pytest.raises(PlanError, match="move_id: is 'x', expected a move of the plan"):
        summarise(made, {"x": MoveProgress()})


@settings(max_examples=60)
@given(change=changes(), data=st.data(), receives=st.integers(1, 2), most=st.none() | st.integers(1, 3))
def test_releasing_what_may_run_carries_a_plan_out(
    change: Change, data: st.DataObject, receives: int, most: int | None
) -> None:
    """Releasing, and finishing moves in any order, reaches the end within the caps at every moment."""
    limits = Limits(max_receives=receives, max_copies=most)
    made = plan(change.problem, change.source, change.target, limits=limits)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    states: dict[str, MoveState] = {}
    while True:
        for move_id in releasable(made, states, limits):
            assert states.get(move_id) is None
            states[move_id] = MoveState.RELEASED
        active = [made.by_id[i] for i, state in states.items() if state is MoveState.RELEASED]
        copies = [move for move in active if move.kind is MoveKind.COPY]
        assert most is None or len(copies) <= most
        for node in range(change.problem.nodes):
            assert sum(move.destination == node for move in copies) <= receives
            assert sum(move.source == node for move in copies) <= limits.max_sends
        assert sum(move.source == -1 for move in copies) <= limits.origin_max_sends
        if not active:
            break
        states[active[int(rng.integers(len(active)))].move_id] = MoveState.SUCCEEDED
    assert len(states) == len(made.moves)


def test_nothing_is_released_after_what_failed() -> None:
    """A move whose dependency FAILED stays back; a move that is no move of the plan is refused."""
    change = cluster([10, 20], [[1, 0], [0, 1]], [[0, 1], [1, 0]])
    made = plan(change.problem, change.source, change.target)
    assert made.status is PlanStatus.OK
    (first,) = releasable(made, {}, Limits())
    assert releasable(made, {first: MoveState.IN_PROGRESS}, Limits()) == []
    assert releasable(made, {first: MoveState.FAILED}, Limits()) == []
    assert releasable(made, {first: MoveState.SUCCEEDED}, Limits()) != []
    with pytest.raises(PlanError, match="expected a move of the plan"):
        releasable(made, {"x": MoveState.PENDING}, Limits())
