"""The state machines of a plan and of its moves, as tables: what is not in a table is not allowed."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeVar


class TransitionError(ValueError):
    """An event that the state does not allow."""


class MoveState(StrEnum):
    PENDING = "PENDING"
    RELEASED = "RELEASED"
    IN_PROGRESS = "IN_PROGRESS"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class MoveEvent(StrEnum):
    RELEASE = "RELEASE"
    BEGIN = "BEGIN"
    SUCCEED = "SUCCEED"
    FAIL = "FAIL"
    RETRY = "RETRY"
    CANCEL = "CANCEL"


class PlanState(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"
    ROLLING_BACK = "ROLLING_BACK"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    SUPERSEDED = "SUPERSEDED"
    CANCELLED = "CANCELLED"


class PlanEvent(StrEnum):
    START = "START"
    PAUSE = "PAUSE"
    RESUME = "RESUME"
    CANCEL_DRAIN = "CANCEL_DRAIN"
    CANCEL_ROLLBACK = "CANCEL_ROLLBACK"
    SUPERSEDE = "SUPERSEDE"
    MOVES_SUCCEEDED = "MOVES_SUCCEEDED"
    MOVE_GIVEN_UP = "MOVE_GIVEN_UP"
    MOVES_DRAINED = "MOVES_DRAINED"
    ROLLED_BACK = "ROLLED_BACK"


# A report may overtake the one before it, so a released move may succeed or fail without having been seen
# begin; what a node has already done stands, so a move that runs is waited for and never cancelled.
MOVE_TRANSITIONS: Final[Mapping[tuple[MoveState, MoveEvent], MoveState]] = MappingProxyType(
    {
        (MoveState.PENDING, MoveEvent.RELEASE): MoveState.RELEASED,
        (MoveState.PENDING, MoveEvent.CANCEL): MoveState.CANCELLED,
        (MoveState.RELEASED, MoveEvent.BEGIN): MoveState.IN_PROGRESS,
        (MoveState.RELEASED, MoveEvent.SUCCEED): MoveState.SUCCEEDED,
        (MoveState.RELEASED, MoveEvent.FAIL): MoveState.FAILED,
        (MoveState.RELEASED, MoveEvent.CANCEL): MoveState.CANCELLED,
        (MoveState.IN_PROGRESS, MoveEvent.SUCCEED): MoveState.SUCCEEDED,
        (MoveState.IN_PROGRESS, MoveEvent.FAIL): MoveState.FAILED,
        (MoveState.FAILED, MoveEvent.RETRY): MoveState.RELEASED,
        (MoveState.FAILED, MoveEvent.CANCEL): MoveState.CANCELLED,
    }
)

# CANCELLING waits for the moves that run (MOVES_DRAINED) and releases no more; ROLLING_BACK does the same,
# then the plan back is carried out. A newer generation supersedes whatever has not ended.
PLAN_TRANSITIONS: Final[Mapping[tuple[PlanState, PlanEvent], PlanState]] = MappingProxyType(
    {
        (PlanState.PENDING, PlanEvent.START): PlanState.RUNNING,
        (PlanState.PENDING, PlanEvent.CANCEL_DRAIN): PlanState.CANCELLED,
        (PlanState.PENDING, PlanEvent.CANCEL_ROLLBACK): PlanState.CANCELLED,
        (PlanState.PENDING, PlanEvent.SUPERSEDE): PlanState.SUPERSEDED,
        (PlanState.RUNNING, PlanEvent.PAUSE): PlanState.PAUSED,
        (PlanState.RUNNING, PlanEvent.CANCEL_DRAIN): PlanState.CANCELLING,
        (PlanState.RUNNING, PlanEvent.CANCEL_ROLLBACK): PlanState.ROLLING_BACK,
        (PlanState.RUNNING, PlanEvent.SUPERSEDE): PlanState.SUPERSEDED,
        (PlanState.RUNNING, PlanEvent.MOVES_SUCCEEDED): PlanState.SUCCEEDED,
        (PlanState.RUNNING, PlanEvent.MOVE_GIVEN_UP): PlanState.FAILED,
        (PlanState.PAUSED, PlanEvent.RESUME): PlanState.RUNNING,
        (PlanState.PAUSED, PlanEvent.CANCEL_DRAIN): PlanState.CANCELLING,
        (PlanState.PAUSED, PlanEvent.CANCEL_ROLLBACK): PlanState.ROLLING_BACK,
        (PlanState.PAUSED, PlanEvent.SUPERSEDE): PlanState.SUPERSEDED,
        (PlanState.PAUSED, PlanEvent.MOVES_SUCCEEDED): PlanState.SUCCEEDED,
        (PlanState.PAUSED, PlanEvent.MOVE_GIVEN_UP): PlanState.FAILED,
        (PlanState.CANCELLING, PlanEvent.CANCEL_ROLLBACK): PlanState.ROLLING_BACK,
        (PlanState.CANCELLING, PlanEvent.SUPERSEDE): PlanState.SUPERSEDED,
        (PlanState.CANCELLING, PlanEvent.MOVES_SUCCEEDED): PlanState.SUCCEEDED,
        (PlanState.CANCELLING, PlanEvent.MOVES_DRAINED): PlanState.CANCELLED,
        (PlanState.ROLLING_BACK, PlanEvent.ROLLED_BACK): PlanState.CANCELLED,
        (PlanState.ROLLING_BACK, PlanEvent.MOVE_GIVEN_UP): PlanState.FAILED,
        (PlanState.ROLLING_BACK, PlanEvent.SUPERSEDE): PlanState.SUPERSEDED,
    }
)

_State = TypeVar("_State", bound=StrEnum)
_Event = TypeVar("_Event", bound=StrEnum)


def advance(table: Mapping[tuple[_State, _Event], _State], state: _State, event: _Event) -> _State:
    """The state after `event`. Raises `TransitionError` where the table has no such pair. O(1)."""
    after = table.get((state, event))
    if after is None:
        raise TransitionError(f"{event.value}: not allowed in state {state.value}")
    return after
