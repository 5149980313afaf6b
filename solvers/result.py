"""What a solve returns: infeasibility is a status, not an exception."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from solvers.multipliers import Multipliers
from solvers.placement import Placement


class SolveStatus(StrEnum):
    """OPTIMAL: certified by the bound. FEASIBLE: the algorithm ended. TIME_LIMIT: it was stopped, with a
    feasible placement in hand. INFEASIBLE: no placement, and the shortfall in words."""

    OPTIMAL = "OPTIMAL"
    FEASIBLE = "FEASIBLE"
    INFEASIBLE = "INFEASIBLE"
    TIME_LIMIT = "TIME_LIMIT"


@dataclass(frozen=True)
class SolveResult:
    """The placement with its evidence.

    objective is J(X) + M(X0, X) / H in seconds per second (J(X) where nothing is in force or no horizon is
    set), inf where the placement leaves traffic that no reachable holder can serve; lower_bound bounds every
    feasible placement or is absent; gap_ratio = (objective - lower_bound) / objective, absent without a bound
    or with an infinite objective. INFEASIBLE has no placement and the shortfall in words. multipliers: where
    the climb of the bound ended, for the next solve; absent where it had none of its own.
    """

    placement: Placement | None
    status: SolveStatus
    algorithm: str
    objective: float | None
    lower_bound: float | None
    gap_ratio: float | None
    runtime_seconds: float
    shortfall: str | None = None
    multipliers: Multipliers | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Progress:
    """A report from a running solve."""

    algorithm: str
    step: str
    objective: float | None
    lower_bound: float | None
    runtime_seconds: float


def gap_ratio(objective: float | None, lower_bound: float | None) -> float | None:
    """(objective - lower_bound) / objective, 0 where the objective is 0; None where either is absent or
    infinite."""
    if objective is None or lower_bound is None or not math.isfinite(objective):
        return None
    return 0.0 if objective <= 0 else max(0.0, (objective - lower_bound) / objective)
