from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrations.diff import difference
from migrations.model import Limits, PlanError, PlanStatus
from migrations.planner import plan
from migrations.progress import releasable
from migrations.rollback import holds_after, roll_back
from migrations.states import MoveState
from migrations.verify import verify
from tests.migrations.instances import Change, changes, cluster


@settings(max_examples=60)
@given(change=changes(), data=st.data())
def test_a_plan_stopped_anywhere_can_be_taken_back(change: Change, data: st.DataObject) -> None:
    """From the state after any moves that may have succeeded, a right plan leads back to the beginning."""
    made = plan(change.problem, change.source, change.target)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    states: dict[str, MoveState] = {}
    for _ in range(data.draw(st.integers(0, len(made.moves)))):
        free = releasable(made, states, Limits())
        states[free[int(rng.integers(len(free)))]] = MoveState.SUCCEEDED
    observed = holds_after(change.problem, change.source, made, states)
    back = roll_back(change.problem, change.source, made, states)
    if back.status is PlanStatus.OK:
        assert verify(change.problem, observed, change.source, back) == ()
    else:
        # The moves made could be undone one by one, but for experts that must keep more copies on the way
        # back than they had to on the way there.
        there = difference(change.problem, change.source, change.target).keep
        again = difference(change.problem, observed, change.source).keep
        assert back.reason is not None
        assert "though one may exist" in back.reason or (again > there).any()


def test_failed_and_cancelled_moves_changed_nothing() -> None:
    """Only what SUCCEEDED counts; what may still run has to end first."""
    change = cluster([20, 20], [[1, 0], [0, 1]], [[1, 1], [0, 1]])
    made = plan(change.problem, change.source, change.target)
    (move,) = made.moves
    for state in (MoveState.PENDING, MoveState.FAILED, MoveState.CANCELLED):
        after = holds_after(change.problem, change.source, made, {move.move_id: state})
        np.testing.assert_array_equal(after, change.source)
    done = holds_after(change.problem, change.source, made, {move.move_id: MoveState.SUCCEEDED})
    np.testing.assert_array_equal(done, change.target)
    for state in (MoveState.RELEASED, MoveState.IN_PROGRESS):
        with pytest.raises(PlanError, match=rf"moves\[0\] \({move.move_id}\): is {state.value}"):
            holds_after(change.problem, change.source, made, {move.move_id: state})
