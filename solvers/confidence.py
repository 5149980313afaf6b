"""How far a placement may be from the best one on the traffic behind the samples, with a confidence.

A lower bound proves something of the sample that was solved on, and a placement fits that sample. Here the
placement is held against samples that it was not made from (Mak, Morton, Wood: Monte Carlo bounding
techniques for determining solution quality in stochastic programs, Operations Research Letters 24, 1999).

Let J(X) be the true cost of a placement and J_i(X) its cost on batch i, with E[J_i(X)] = J(X) for every X.
Whatever the batch, min over X of J_i(X) has an expectation of at most min over X of J(X): the optimum of a
sample is optimistic. So for a lower bound L_i on the optimum of batch i

    G_i = J_i(placement) - L_i        has        E[G_i] >= J(placement) - min over X of J(X),

and an upper confidence bound on the mean of G_i is one on the true gap. A bound L_i that is not tight, and
small batches, whose optima are more optimistic, only raise it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from solvers.cost.evaluate import checked_holds, total_cost
from solvers.dual.pdhg import lagrangian_bound
from solvers.problem import Float64, PlacementProblem, UInt8
from solvers.result import bound_of
from solvers.search.region import is_large, region_bound
from solvers.stopping import FirstOf, MaxRuntime, Stopping, never
from solvers.traffic import compile_traffic

LEAST_BATCHES = 2
BOUND_STEPS = 400
"""Of the climb of a batch's lower bound, at most."""


class Judged(NamedTuple):
    """What a placement costs on a batch, and a lower bound on what any placement costs there."""

    cost: float
    lower_bound: float


@dataclass(frozen=True, eq=False)
class GapInterval:
    """The true gap is in [0, gap_upper] with the confidence given.

    costs float64[M]: the placement's cost on each batch; lower_bounds float64[M]: on the batch's optimum.
    Both are in seconds per second, as an objective.
    """

    confidence: float
    costs: Float64
    lower_bounds: Float64

    @property
    def batches(self) -> int:
        return len(self.costs)

    @property
    def objective(self) -> float:
        """An unbiased estimate of the placement's true cost."""
        return float(self.costs.mean())

    @property
    def optimum_lower(self) -> float:
        """An estimate of a number that is at most the true optimum."""
        return float(self.lower_bounds.mean())

    @property
    def gap(self) -> float:
        """An estimate of a number that is at least the true gap."""
        return float((self.costs - self.lower_bounds).mean())

    @property
    def gap_upper(self) -> float:
        """One-sided upper confidence bound on the true gap: mean + t * deviation / sqrt(M)."""
        deviation = float((self.costs - self.lower_bounds).std(ddof=1))
        quantile = float(stdtrit(self.batches - 1, self.confidence))
        return self.gap + quantile * deviation / math.sqrt(self.batches)

    @property
    def gap_upper_ratio(self) -> float:
        """`gap_upper` as a part of `objective`; 0 where nothing costs anything."""
        return 0.0 if self.objective <= 0 else self.gap_upper / self.objective


def gap_interval(
    batches: Sequence[PlacementProblem],
    holds: UInt8,
    *,
    confidence: float = 0.95,
    time_limit_seconds: float | None = None,
    stopping: Stopping = never,
) -> GapInterval | None:
    """Of the placement uint8[N, E], which must be feasible; None where traffic of a batch is served by nobody
    under it, and where `stopping` came before every batch had a bound.

    batches: M >= 2 problems that differ in their routes alone. What is claimed holds if they are drawn
    independently from one distribution, the placement was made without them, and the cost on a batch has the
    true cost as its expectation: the routes of a batch are scaled by numbers that do not depend on which
    were drawn. Student's t supposes that the mean of M gaps is normal. With many routes in a batch it nearly
    is. time_limit_seconds: for all batches together; a lower bound cut short is weaker and still valid.

    Raises `ValueError` for fewer batches or a confidence outside (0.5, 1), `ProblemError` for a placement of
    another shape.
    """
    if len(batches) < LEAST_BATCHES:
        raise ValueError(f"batches: are {len(batches)}, expected at least {LEAST_BATCHES}")
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence: is {confidence}, expected a number in (0.5, 1)")
    each = None if time_limit_seconds is None else time_limit_seconds / len(batches)
    judged = []
    for batch in batches:
        one = judge(batch, holds, each, stopping)
        if stopping() or one is None:
            return None
        judged.append(one)
    return interval(judged, confidence)


def interval(judged: Sequence[Judged], confidence: float) -> GapInterval:
    """Of M >= 2 batches that were judged one by one."""
    return GapInterval(
        confidence,
        np.asarray([one.cost for one in judged]),
        np.asarray([one.lower_bound for one in judged]),
    )


def judge(
    batch: PlacementProblem, holds: UInt8, seconds: float | None = None, stopping: Stopping = never
) -> Judged | None:
    """One batch; None where traffic is served by nobody under the placement. The bound takes about `seconds`,
    and a step of the climb at least."""
    given = checked_holds(batch, holds)
    cost = total_cost(batch, given)
    if not math.isfinite(cost):
        return None
    limit = stopping if seconds is None else FirstOf((stopping, MaxRuntime(seconds)))
    if is_large(batch):
        return Judged(cost, bound_of(region_bound(batch, limit, seconds), cost))
    dual = lagrangian_bound(batch, compile_traffic(batch), given, cost, BOUND_STEPS, limit)
    return Judged(cost, dual.bound)
