"""What a solve returns: infeasibility is a status, not an exception."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from solvers.multipliers import AnyMultipliers
from solvers.placement import Placement
from solvers.tolerances import BOUND_ABOVE


class InvalidBound(RuntimeError):
    """A lower bound above what it bounds, by more than rounding: a fault of the program."""


class SolveStatus(StrEnum):
    """OPTIMAL: certified by the bound. FEASIBLE: the algorithm ended. TIME_LIMIT: a limit ended it, with the
    best feasible placement found; without a placement where none was found until then, although one may
    exist. INFEASIBLE: it is proved that no placement is feasible. Without a placement the shortfall is in
    words."""

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
    or with an infinite objective. INFEASIBLE, and TIME_LIMIT where nothing was found, have no placement and
    the shortfall in words. multipliers: where the climb of the bound ended, for the next solve; absent where
    it had none of its own.
    """

    placement: Placement | None
    status: SolveStatus
    algorithm: str
    objective: float | None
    lower_bound: float | None
    gap_ratio: float | None
    runtime_seconds: float
    shortfall: str | None = None
    multipliers: AnyMultipliers | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Progress:
    """A report from a running solve."""

    algorithm: str
    step: str
    objective: float | None
    lower_bound: float | None
    runtime_seconds: float


def gap_ratio(objective: float | None, lower_bound: float | None) -> float | None:
    """(objective - lower_bound) / objective, 0 where the objective is 0; None where either is absent or not
    finite. Raises `InvalidBound`."""
    if objective is None or lower_bound is None:
        return None
    if not (math.isfinite(objective) and math.isfinite(lower_bound)):
        return None
    bound = bound_of(lower_bound, objective)
    return 0.0 if objective <= 0 else (objective - bound) / objective


def bound_of(lower_bound: float, value: float) -> float:
    """The lower bound, at most `value`, which rounding may have put it above; raises `InvalidBound` where it
    is further above or not a number."""
    if not lower_bound <= value + BOUND_ABOVE * abs(value):
        raise InvalidBound(f"the lower bound {lower_bound!r} is above what it bounds, {value!r}")
    return min(lower_bound, value)
