"""Lower bounds on J(X) + M(X0, X) / H over all feasible placements.

Lagrangian decomposition (*ours*). With multipliers price(n, e) in [0, d(n, o)] on who serves whom, v(e) >= 0
on the replicas of an expert, and weights w(n, e) >= 0 for which J(X) >= sum w(n, e) c(n, e; X):
    L = sum w price + r sum v - sum over m of max over A that fits m of
        sum over e in A of (v(e) - opening(m, e) + sum over n of w(n, e) max(0, price(n, e) - d(n, m)))
is a bound for every price, v and w, since c(n, e; X) >= price - sum over holders m of max(0, price - d(n,
m)), and every knapsack may be replaced by its linear relaxation.
    sum:       w = the rate of calls.
    slowest:   max over k of c_k >= sum over k of theta_k c_k for theta on the simplex of the route, w from
    rate * theta. colocated: D >= max over k of c_k, whoever serves (a host of all of S holds each expert; an
    origin is an origin of
               each; the fallback is a sum of costs that are >= 0), so the bound of `slowest` holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from solvers.coverage import allowance, finite_fallback
from solvers.kernels import dual
from solvers.objective import opening_costs, serving_costs
from solvers.packing import packable_bytes
from solvers.problem import Coupling, Float64, Int64, PlacementProblem, UInt8
from solvers.stopping import Stopping
from solvers.traffic import Traffic

_ROUNDING = 1e-11  # relative to the sums the bound is made of; taken off so that it stays a bound in floats
_SHARPNESS = 3.0  # of the first theta: how much of a route's weight goes to its critical expert
_MEMORY = 0.25  # how much of the averaged serving costs each step replaces
_MIRROR = 1.0  # of the steps on theta, in units of the dearest cost of a route
_RESTART, _LAST_RESTART = (
    0.25,
    1e-3,
)  # length of the steps when a descent of them begins again, halved each time
_REPLICA_STEP = 1.0  # of the steps on replica prices against those on prices


@dataclass(frozen=True)
class _Pace:
    """progress: relative gain per step of full length below which a step counts as stalled; stall: such steps
    after which the length is halved, from the best point; shortest: part of the restart's length at which the
    descent of lengths begins again."""

    progress: float
    stall: int
    shortest: float


# steps that move theta cost far more than the others, and theta needs long ones
_PACE = {False: _Pace(1e-4, 10, 0.02), True: _Pace(5e-3, 5, 0.1)}


@dataclass(frozen=True, eq=False)
class Dual:
    """A bound with the multipliers that prove it: price float64[N, E], replica_price float64[E], share
    float64[R', K] (theta; absent under `sum`), for the routes of the compiled traffic."""

    bound: float
    price: Float64
    replica_price: Float64
    share: Float64 | None


@dataclass(frozen=True, eq=False)
class _Point:
    value: float
    opened: Float64


class Relaxation:
    """The relaxed problem of one instance: L and its supergradients. O(N^2 E) per evaluation, and O(N E log
    E) more where the experts have several sizes."""

    def __init__(self, problem: PlacementProblem) -> None:
        self._problem = problem
        allowed = allowance(problem)
        self._pinned = (allowed == 1).astype(np.float64)
        self._free = allowed == 0
        self._size = problem.column_bytes.astype(np.float64)
        self._one_size = len(self._size) > 0 and bool((self._size == self._size[0]).all())
        room = packable_bytes(problem) - (allowed == 1).astype(np.int64) @ problem.column_bytes
        self._room = np.maximum(room, 0).astype(np.float64)
        self._opening = opening_costs(problem)
        if problem.horizon_seconds is None:
            self._opening[:] = 0.0
        else:
            self._opening /= problem.horizon_seconds
        # no price needs to be above this one; with an origin none may be
        self.highest_price = finite_fallback(problem)[:, None]

    def profits(self, weight: Float64, price: Float64, replica_price: Float64) -> Float64:
        """float64[N, E]: what a replica earns at these prices, less the cost of opening it."""
        profit: Float64 = replica_price[None, :] - self._opening
        dual.profits(weight, price, self._problem.latency_seconds, profit)
        return profit

    def evaluate(self, weight: Float64, price: Float64, replica_price: Float64) -> _Point:
        """L, less what rounding may have added, and the relaxed servers float64[N, E] that attain its
        maxima."""
        problem = self._problem
        profit = self.profits(weight, price, replica_price)
        opened = self._pinned.copy()
        positive = float((weight * price).sum()) + problem.min_replicas * float(replica_price.sum())
        negative = float((self._pinned * profit).sum())
        for m in range(problem.nodes):
            candidates = np.where(self._free[m], profit[m], 0.0)
            order = self._order(candidates, float(self._room[m]))
            negative += dual.fill(candidates, order, self._size, float(self._room[m]), opened[m])
        magnitude = positive + float(np.abs(profit).sum())
        return _Point(positive - negative - _ROUNDING * magnitude, opened)

    def _order(self, candidates: Float64, room: float) -> Int64:
        """The experts a fractional knapsack takes first: by profit per byte. Of one size, only which are
        taken matters, and the one that is taken in part comes last."""
        if not self._one_size:
            return np.argsort(-candidates / self._size, kind="stable").astype(np.int64)
        taken = min(len(candidates), int(room // self._size[0]))
        if taken == len(candidates):
            return np.argsort(-candidates, kind="stable").astype(np.int64)
        # any order of those that earn more than the last one taken, then those that earn as much
        last = len(candidates) - taken - 1
        least = max(0.0, float(np.partition(candidates, last)[last]))
        return np.concatenate(
            (np.flatnonzero(candidates > least), np.flatnonzero(candidates == least))
        ).astype(np.int64)

    def service(self, opened: Float64, price: Float64) -> tuple[Float64, Float64]:
        """How often each call is served by the relaxed servers, and at what cost; float64[N, E] both."""
        served = np.empty_like(price)
        cost = np.empty_like(price)
        dual.service(opened, price, self._problem.latency_seconds, served, cost)
        return served, cost


def cheapest_calls(problem: PlacementProblem) -> float:
    """A bound that needs no search: every call at the least latency its node has. O(N^2 + R K)."""
    least = np.minimum(problem.latency_seconds.min(axis=1), problem.origin_latency_seconds)
    calls = np.ones(problem.routes)
    if problem.coupling is Coupling.SUM:
        calls = (problem.route_experts >= 0).sum(axis=1).astype(np.float64)
    bound = float((problem.route_rate * calls * least[problem.route_node]).sum())
    return bound * (1.0 - _ROUNDING)


class Ascent:
    """A climb on L, from the serving costs of a placement `holds` towards its `objective`.

    Polyak steps on the prices in the metric of w, halved and restarted from the best point on a stall;
    mirror steps on theta with averaged serving costs. The bound is valid however early it stops. A step is
    O(N^2 E + R K), without R K under `sum`; memory O(N E + R K), resp. O(N E).
    """

    def __init__(
        self,
        problem: PlacementProblem,
        traffic: Traffic,
        holds: UInt8,
        objective: float,
    ) -> None:
        self._problem = problem
        self._traffic = traffic
        self._relaxation = Relaxation(problem)
        self._objective = objective
        self._pace = _PACE[problem.coupling is not Coupling.SUM]
        highest = self._relaxation.highest_price
        costs = np.minimum(serving_costs(problem, holds), highest)
        spare = 1e-3 * float(highest.max())
        self._price = np.minimum(costs * 1.02 + spare * 0.01, highest)
        self.replica_price = np.zeros(problem.experts)
        self._averaged = costs
        self._share: Float64 | None = None
        self._spare: list[Float64] = []
        self.weight = traffic.activity
        self.best = Dual(cheapest_calls(problem), self._price, self.replica_price, None)
        self._here: tuple[Float64, Float64, Float64 | None] = (self._price, self.replica_price, None)
        if problem.coupling is not Coupling.SUM:
            share = (traffic.experts >= 0).astype(np.float64)
            share /= np.maximum(1.0, share.sum(axis=1, keepdims=True))
            self._share = share
            self._spare.append(share)
            self.weight = np.empty_like(traffic.activity)
            self._sharpen(costs, _SHARPNESS)
            self._here = (self._price, self.replica_price, self._share)
        self._reference = -np.inf  # the best value of the climb itself, which may start below the best bound
        self._length, self._restart, self._stalled = 1.0, _RESTART, 0
        self.opened: Float64 = np.zeros_like(self._price)
        self.done = False

    def aim(self, objective: float) -> None:
        """A placement of this cost is known: climb towards it, with long steps again."""
        self._objective = objective
        self._length, self._stalled, self.done = max(self._length, _RESTART), 0, False
        self._restart = _RESTART

    def step(self) -> None:
        """Evaluates L where the climb stands, and moves on; sets `done` where no step helps any more."""
        relaxation, problem = self._relaxation, self._problem
        point = relaxation.evaluate(self.weight, self._price, self.replica_price)
        self.opened = point.opened
        if point.value > self._reference + self._pace.progress * self._length * abs(self._reference):
            self._stalled = 0
        else:
            self._stalled += 1
        if point.value > self._reference:
            self._reference = point.value
            self._here = (self._price, self.replica_price, self._share)
            if point.value > self.best.bound:
                self.best = Dual(point.value, *self._here)
        if self._objective - self.best.bound <= 1e-9 * abs(self._objective):
            self.done = True
            return
        if self._stalled >= self._pace.stall:
            self._length *= 0.5
            self._stalled = 0
            if self._length < self._pace.shortest * self._restart:
                if self._restart < _LAST_RESTART:
                    self.done = True
                    return
                self._length = self._restart
                self._restart *= 0.5
            self._price, self.replica_price, share = self._here
            if share is not self._share:
                self._share = share
                self._sharpen(self._averaged, 0.0)
            point = relaxation.evaluate(self.weight, self._price, self.replica_price)
        served, cost = relaxation.service(point.opened, self._price)
        self._averaged = self._averaged + _MEMORY * (cost - self._averaged)
        slope = 1.0 - served
        metric = self.weight.sum(axis=0)
        replica_slope = problem.min_replicas - point.opened.sum(axis=0)
        # a slope that points out of the box does not count
        slope[(slope < 0) & (self._price <= 0)] = 0.0
        slope[(slope > 0) & (self._price >= relaxation.highest_price)] = 0.0
        replica_slope[(replica_slope < 0) & (self.replica_price <= 0)] = 0.0
        # a replica price is a price times a weight: its metric is the inverse
        metric *= _REPLICA_STEP
        norm = float((self.weight * slope**2).sum() + (replica_slope**2 * metric).sum())
        if norm <= 0.0:
            self.done = True
            return
        target = self._objective if np.isfinite(self._objective) else 2.0 * abs(point.value) + 1.0
        move = self._length * max(target - point.value, 1e-9 * abs(target)) / norm
        self._price = np.clip(self._price + move * slope, 0.0, relaxation.highest_price)
        self.replica_price = np.maximum(0.0, self.replica_price + move * replica_slope * metric)
        if self._share is not None:
            self._sharpen(np.maximum(self._averaged, 0.0), _MIRROR * self._length)

    def _sharpen(self, costs: Float64, sharpness: float) -> None:
        """Moves theta towards the dearest experts of each route, and the weights with it."""
        old = self._share
        assert old is not None
        # theta is large and steps are many: a few arrays take turns, those in use elsewhere aside
        used = [array for array in (old, self._here[2], self.best.share) if array is not None]
        free = [array for array in self._spare if all(array is not other for other in used)]
        if sharpness == 0.0:
            new = old
        elif free:
            new = free[0]
        else:
            new = np.empty_like(old)
            self._spare.append(new)
        traffic = self._traffic
        dual.critical_shares(
            traffic.start,
            traffic.node,
            traffic.experts,
            traffic.rate,
            costs,
            self._problem.block_offset,
            sharpness,
            old,
            new,
            self.weight,
        )
        self._share = new


def lagrangian_bound(
    problem: PlacementProblem,
    traffic: Traffic,
    holds: UInt8,
    objective: float,
    steps: int,
    stopping: Stopping,
    begun: Ascent | None = None,
) -> Dual:
    """The best dual after at most `steps` steps of an `Ascent`, the one `begun` or a new one; at least one
    step is made."""
    ascent = begun or Ascent(problem, traffic, holds, objective)
    ascent.aim(objective)
    for step in range(steps):
        if ascent.done or (stopping() and step > 0):
            break
        ascent.step()
    best = ascent.best
    return Dual(max(0.0, min(best.bound, objective)), best.price, best.replica_price, best.share)
