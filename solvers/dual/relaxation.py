"""Lower bounds on J(X) + M(X0, X) / H over all feasible placements.

The linear relaxation by levels (*ours*). Node n calls its servers in the order of their latency, so with
left(n, i, e) = max(0, 1 - sum over the first i + 1 servers m of x(m, e)) a call costs
    c(n, e) = nearest(n) + sum over i of gap(n, i) left(n, i, e),
and where x is whole, with h(S, m) = min over e in S of x(m, e),
    sum:       D = sum over e in S of c(n, e), each a route of its own;
    slowest:   D = nearest(n) + sum over i of gap(n, i) max over e in S of left(n, i, e), since the maximum of
               the calls is beyond level i exactly where one of them is;
    colocated: D = nearest(n) + sum over i of gap(n, i) max(0, 1 - sum over the first i + 1 servers of
               h(S, m)). Without an origin, a route makes single calls where they cost less than its nearest
               host. At least two servers serve it then, so that it costs at least the second nearest latency
               and the nearest one for each further expert, and at least its slowest call and the same. Up to
               the first, D is at least the sum over the levels as above, beyond it that of `slowest`.
These are convex in x, so their minimum over the fractional knapsacks of all nodes is a bound. Multipliers
on the maxima and minima (`solvers.dual.slowest`, `solvers.dual.hosted`) make them linear: any multipliers
give
    constant + v @ min_replicas + minimum over the knapsacks of (opening - earned - v) @ x
with v >= 0 on the replicas of every expert, a bound that costs one knapsack per node. One multiplier per
level is what makes it so much better than the bound by the mean costs of calls. The climb is on fractional
knapsacks. Its multipliers are valid for whole experts, too, so that the bound is taken over whole knapsacks:
where experts of several sizes leave room, no part of one fills it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from solvers.chunks import even_ranges, side_by_side
from solvers.cost.evaluate import opening_costs
from solvers.feasible.packing import packable_bytes
from solvers.feasible.repair import allowance
from solvers.kernels import fractional, whole
from solvers.problem import Float64, Int64, PlacementProblem
from solvers.tolerances import BOUND_ROUNDING, PER_TERM

_BRANCHES = 2_000  # of the search for the whole knapsack of one node; beyond them the fractional one counts


@dataclass(frozen=True, eq=False)
class Dual:
    """A bound with what proves it: constant, what replicas earn, earned float64[N, E], and replica_price
    float64[E]."""

    bound: float
    constant: float
    earned: Float64
    replica_price: Float64


class State:
    """Where a climb stands on the side of the placement: x, ahead (x and its last move once more), the profit
    that moved it, sums over the steps of a run, all float64[N, E], and the prices of memory float64[N]."""

    def __init__(self, x: Float64) -> None:
        self.x = x.copy()
        self.ahead = x.copy()
        self.profit = np.zeros_like(x)
        self.sum_x = np.zeros_like(x)
        self.sum_earned = np.zeros_like(x)
        self.memory_price = np.zeros(len(x))


class Relaxation:
    """The fractional knapsacks of one instance: 0 <= x <= 1 within the memory of every node, pins kept."""

    def __init__(self, problem: PlacementProblem) -> None:
        self._replicas = problem.min_replicas
        pairs, calls = problem.nodes * problem.experts, problem.route_experts.size
        # calls at levels, of which there are at most as many as nodes; the calls behind them; the knapsacks
        self.rounding = max(BOUND_ROUNDING, PER_TERM * (min(pairs, calls) * problem.nodes + calls + pairs))
        self._nodes = even_ranges(problem.nodes, problem.experts)
        allowed = allowance(problem)
        unit = float(problem.column_bytes.max(initial=1))
        self._size = problem.column_bytes / unit
        self._free = allowed == 0
        self._pinned = (allowed == 1).astype(np.float64)
        room = packable_bytes(problem) - (allowed == 1).astype(np.int64) @ problem.column_bytes
        self._room = np.maximum(room, 0) / unit
        self._room_bytes: Int64 = np.maximum(room, 0)
        sizes, kind = np.unique(-problem.column_bytes, return_inverse=True)
        self._kind_bytes: Int64 = -sizes  # of the experts' sizes, the largest first
        self._kind: Int64 = kind.astype(np.int64)
        self._opening = opening_costs(problem)
        if problem.horizon_seconds is None:
            self._opening[:] = 0.0
        else:
            self._opening /= problem.horizon_seconds

    def value(self, constant: float, earned: Float64, price: Float64) -> float:
        """The bound, less what rounding may have added. O(N E log)."""
        return self.best(constant, earned, price)[0]

    def best(self, constant: float, earned: Float64, price: Float64) -> tuple[float, Float64]:
        """As `value`, and where experts have several sizes the whole placement float64[N, E] that it is the
        value of; empty where they have one size."""
        profit = np.ascontiguousarray(earned + price - self._opening)
        constant += self._replicas * float(price.sum())
        negative = float((self._pinned * profit).sum())
        most, held = self._knapsacks(np.where(self._free, profit, 0.0))
        negative += most
        # what earns nothing is left out whatever its opening costs, so only that of pins is in the sums
        summed = np.abs(earned + price) + self._pinned * self._opening
        return constant - negative - self.rounding * (constant + float(summed.sum())), held

    def least_price(self) -> Float64:
        """float64[E], a price on replicas that makes their opening a bound: what the `min_replicas`-th
        cheapest costs, so that the cheapest ones are paid for exactly. O(N E log N)."""
        nodes, experts = self._opening.shape
        if not 0 < self._replicas <= nodes:
            return np.zeros(experts)
        possible = self._free | (self._pinned == 1.0)
        cheapest = np.sort(np.where(possible, self._opening, np.inf), axis=0)[self._replicas - 1]
        return np.where(np.isfinite(cheapest), cheapest, 0.0)

    def profit(self, earned: Float64, price: Float64) -> Float64:
        """What replicas earn, float64[N, E], less their opening, with the price on replicas."""
        found: Float64 = earned + price - self._opening
        return found

    def advance(
        self, state: State, earned: Float64, price: Float64, metric: Float64, tau: float
    ) -> tuple[float, float]:
        """A projected gradient step of `state` by `tau` in `metric` float64[N, E]; returns how far it went,
        squared in the metric, and what the profit changed along it. O(N E log)."""

        def some(first: int, last: int) -> Float64:
            told = np.empty(2)
            fractional.advance(
                earned,
                price,
                self._opening,
                self._free,
                self._size,
                self._room,
                metric,
                tau,
                state.memory_price,
                state.x,
                state.ahead,
                state.profit,
                state.sum_x,
                state.sum_earned,
                told,
                first,
                last,
            )
            return told

        near, mixed = np.sum(side_by_side(some, self._nodes), axis=0)
        return float(near), float(mixed)

    def within(self, x: Float64) -> Float64:
        """x float64[N, E] with the pins kept."""
        kept: Float64 = np.where(self._free, x, self._pinned)
        return kept

    @property
    def several_sizes(self) -> bool:
        """Whether whole knapsacks are worth less than fractional ones: room is whole experts' of one size."""
        return len(self._kind_bytes) > 1

    def _knapsacks(self, profit: Float64) -> tuple[float, Float64]:
        held: Float64 = np.zeros(profit.shape if self.several_sizes else (0, 0))

        def some(first: int, last: int) -> float:
            part = profit[first:last]
            if not self.several_sizes:
                return float(fractional.knapsacks(part, self._size, self._room[first:last]))
            room = self._room_bytes[first:last]
            return float(
                whole.knapsacks(part, self._kind, self._kind_bytes, room, _BRANCHES, held[first:last])
            )

        total = sum(side_by_side(some, self._nodes))
        return total, held if len(held) == 0 else self.within(held)
