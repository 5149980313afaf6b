"""The way back from a plan that was stopped half-way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from migrations.model import Limits, MoveKind, Plan, PlanError
from migrations.naming import BY_INDEX, Names
from migrations.planner import plan as plan_migration
from migrations.states import MoveState
from solvers.problem import PlacementProblem, UInt8

_DEFAULT_LIMITS: Final = Limits()


def holds_after(
    problem: PlacementProblem, source_holds: UInt8, plan: Plan, states: Mapping[str, MoveState]
) -> UInt8:
    """uint8[N, E]: what is held once the moves that SUCCEEDED, and no others, have changed `source_holds`.

    Prefer what nodes report to hold, where they have. Raises `PlanError` where a move is still RELEASED or
    IN_PROGRESS: what it leaves behind is not known before it ends. O(N E + moves).
    """
    holds = source_holds.copy()
    for index, move in enumerate(plan.moves):
        state = states.get(move.move_id, MoveState.PENDING)
        if state in (MoveState.RELEASED, MoveState.IN_PROGRESS):
            raise PlanError(f"moves[{index}] ({move.move_id}): is {state.value}, expected one that has ended")
        if state is MoveState.SUCCEEDED:
            column = int(problem.block_offset[move.block]) + move.expert
            holds[move.destination, column] = move.kind is MoveKind.COPY
    return holds


def roll_back(
    problem: PlacementProblem,
    source_holds: UInt8,
    plan: Plan,
    states: Mapping[str, MoveState],
    *,
    limits: Limits = _DEFAULT_LIMITS,
    names: Names = BY_INDEX,
) -> Plan:
    """A plan from what the moves that SUCCEEDED left behind back to `source_holds`, uint8[N, E].

    Raises `PlanError` as `holds_after`. `names`, INFEASIBLE and cost as `migrations.planner.plan`.
    """
    observed = holds_after(problem, source_holds, plan, states)
    return plan_migration(problem, observed, source_holds, limits=limits, names=names)
