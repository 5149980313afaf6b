"""What tokens wait while a plan is carried out."""

from __future__ import annotations

from typing import Final

import numpy as np

from migrations.model import MoveKind, Plan, PlanStatus
from solvers.cost.evaluate import evaluate
from solvers.problem import Float64, PlacementProblem, UInt8

SAMPLES: Final = 64
"""Moments at which `excess_area` looks at a plan."""


def latency_curve(problem: PlacementProblem, source_holds: UInt8, plan: Plan, moments: Float64) -> Float64:
    """float64[len(moments)]: J(X) in seconds per second at each moment, seconds from the start, ascending.

    Copies count from their end and drops from their time, as the timing model says. O(moves) and
    `evaluate` once per moment at which something has changed.
    """
    ends = np.array([move.end_seconds for move in plan.moves])
    order = np.argsort(ends, kind="stable")
    # The same instant is computed along different ways: times within a billionth of the plan are the same.
    upto = np.searchsorted(ends[order], moments + 1e-9 * plan.estimate.seconds, side="right")
    holds = source_holds.copy()
    curve = np.empty(len(moments))
    done, latency = 0, evaluate(problem, holds)
    for i, until in enumerate(upto.tolist()):
        if until > done:
            for j in order[done:until].tolist():
                move = plan.moves[j]
                column = int(problem.block_offset[move.block]) + move.expert
                holds[move.destination, column] = move.kind is MoveKind.COPY
            done, latency = until, evaluate(problem, holds)
        curve[i] = latency
    return curve


def excess_area(problem: PlacementProblem, source_holds: UInt8, target_holds: UInt8, plan: Plan) -> float:
    """The area between J(X) while the plan runs and J(target), in seconds of latency: what the way costs.

    What tokens would wait in any case, once the target is in force, is left out: no order changes it. By
    the midpoint rule over `SAMPLES` equal parts of the plan. 0 for a plan that takes no time or is
    INFEASIBLE, inf where some traffic cannot be served meanwhile.
    """
    seconds = plan.estimate.seconds
    if plan.status is PlanStatus.INFEASIBLE or seconds <= 0:
        return 0.0
    moments: Float64 = (np.arange(SAMPLES, dtype=np.float64) + 0.5) * (seconds / SAMPLES)
    curve = latency_curve(problem, source_holds, plan, moments)
    if not np.isfinite(curve).all():
        return float("inf")
    return float((curve - evaluate(problem, target_holds)).mean()) * seconds
