from __future__ import annotations

from itertools import product

import pytest

from migrations.states import (
    MOVE_TRANSITIONS,
    PLAN_TRANSITIONS,
    MoveEvent,
    MoveState,
    PlanEvent,
    PlanState,
    TransitionError,
    advance,
)

_MOVE_FINAL = {MoveState.SUCCEEDED, MoveState.CANCELLED}
_PLAN_FINAL = {PlanState.SUCCEEDED, PlanState.FAILED, PlanState.SUPERSEDED, PlanState.CANCELLED}


@pytest.mark.parametrize(("state", "event"), list(product(MoveState, MoveEvent)))
def test_moves_advance_by_the_table_only(state: MoveState, event: MoveEvent) -> None:
    """Every pair of a move's state and event either leads where the table says or is refused by name."""
    if (state, event) in MOVE_TRANSITIONS:
        assert state not in _MOVE_FINAL
        assert advance(MOVE_TRANSITIONS, state, event) is MOVE_TRANSITIONS[state, event]
    else:
        with pytest.raises(TransitionError, match=f"{event.value}: not allowed in state {state.value}"):
            advance(MOVE_TRANSITIONS, state, event)


@pytest.mark.parametrize(("state", "event"), list(product(PlanState, PlanEvent)))
def test_plans_advance_by_the_table_only(state: PlanState, event: PlanEvent) -> None:
    """Every pair of a plan's state and event either leads where the table says or is refused by name."""
    if (state, event) in PLAN_TRANSITIONS:
        assert state not in _PLAN_FINAL
        assert advance(PLAN_TRANSITIONS, state, event) is PLAN_TRANSITIONS[state, event]
    else:
        with pytest.raises(TransitionError, match=f"{event.value}: not allowed in state {state.value}"):
            advance(PLAN_TRANSITIONS, state, event)


def test_every_state_is_reached_and_every_other_one_left() -> None:
    """No state is unreachable from PENDING, and only the final ones cannot be left."""
    moves = {MoveState.PENDING, *MOVE_TRANSITIONS.values()}
    plans = {PlanState.PENDING, *PLAN_TRANSITIONS.values()}
    assert moves == set(MoveState)
    assert plans == set(PlanState)
    assert set(MoveState) - {state for state, _ in MOVE_TRANSITIONS} == _MOVE_FINAL
    assert set(PlanState) - {state for state, _ in PLAN_TRANSITIONS} == _PLAN_FINAL


def test_a_running_move_is_never_cancelled() -> None:
    """What a node has begun is waited for: its outcome is needed to know what is held."""
    with pytest.raises(TransitionError):
        advance(MOVE_TRANSITIONS, MoveState.IN_PROGRESS, MoveEvent.CANCEL)
