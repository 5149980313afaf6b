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
_SHARPNESS = 8.0  # of the first theta: how much of a route's weight goes to its critical expert
_STALL = 12  # steps without progress after which the step is halved, from the best point


@dataclass(frozen=True, eq=False)
class Dual:
    """A bound with the multipliers that prove it: price float64[N, E], replica_price float64[E], share
    float64[R', K] (theta; ones under `sum`), for the routes of the compiled traffic."""

    bound: float
    price: Float64
    replica_price: Float64
    share: Float64


@dataclass(frozen=True, eq=False)
class _Point:
    value: float
    opened: Float64


class Relaxation:
    """The relaxed problem of one instance: L and its supergradients. O(N^2 E + N E log E) per evaluation."""

    def __init__(self, problem: PlacementProblem, traffic: Traffic) -> None:
        self._problem = problem
        self._traffic = traffic
        allowed = allowance(problem)
        self._pinned = (allowed == 1).astype(np.float64)
        self._free = allowed == 0
        self._size = problem.column_bytes.astype(np.float64)
        room = packable_bytes(problem) - (allowed == 1).astype(np.int64) @ problem.column_bytes
        self._room = np.maximum(room, 0).astype(np.float64)
        self._opening = opening_costs(problem)
        if problem.horizon_seconds is None:
            self._opening[:] = 0.0
        else:
            self._opening /= problem.horizon_seconds
        # no price needs to be above this one; with an origin none may be
        self.highest_price = finite_fallback(problem)[:, None]

    def weights(self, share: Float64) -> Float64:
        """float64[N, E]: w of the shares float64[R', K]."""
        out = np.empty((self._problem.nodes, self._problem.experts))
        traffic = self._traffic
        dual.demand(
            traffic.start,
            traffic.node,
            traffic.experts,
            traffic.rate,
            share,
            self._problem.block_offset,
            out,
        )
        return out

    def evaluate(self, weight: Float64, price: Float64, replica_price: Float64) -> _Point:
        """L, less what rounding may have added, and the relaxed servers float64[N, E] that attain its
        maxima."""
        problem = self._problem
        profit = replica_price[None, :] - self._opening
        dual.profits(weight, price, problem.latency_seconds, profit)
        opened = self._pinned.copy()
        positive = float((weight * price).sum()) + problem.min_replicas * float(replica_price.sum())
        negative = float((self._pinned * profit).sum())
        for m in range(problem.nodes):
            candidates = np.where(self._free[m], profit[m], 0.0)
            order: Int64 = np.argsort(-candidates / self._size, kind="stable").astype(np.int64)
            negative += dual.fill(candidates, order, self._size, float(self._room[m]), opened[m])
        magnitude = positive + float(np.abs(profit).sum())
        return _Point(positive - negative - _ROUNDING * magnitude, opened)

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


def lagrangian_bound(
    problem: PlacementProblem,
    traffic: Traffic,
    holds: UInt8,
    objective: float,
    steps: int,
    stopping: Stopping,
) -> Dual:
    """Ascends L from the serving costs of the placement `holds` towards its `objective`, for at most `steps`
    steps.

    Polyak steps on the prices in the metric of w, halved and restarted from the best point on a stall;
    mirror steps on theta with averaged serving costs. The bound is valid however early it stops. O(steps
    (N^2 E + N E log E + R K)).
    """
    relaxation = Relaxation(problem, traffic)
    costs = np.minimum(serving_costs(problem, holds), relaxation.highest_price)
    spare = 1e-3 * float(relaxation.highest_price.max())
    price = np.minimum(costs * 1.02 + spare * 0.01, relaxation.highest_price)
    replica_price = np.zeros(problem.experts)
    share = (traffic.experts >= 0).astype(np.float64)
    mirrored = problem.coupling is not Coupling.SUM
    if mirrored:
        share /= np.maximum(1.0, share.sum(axis=1, keepdims=True))
        _sharpen(problem, traffic, costs, _SHARPNESS, share)
    weight = relaxation.weights(share)
    best = Dual(cheapest_calls(problem), price, replica_price, share.copy())
    reference = -np.inf  # the best value of the ascent itself, which may start below the cheapest calls
    here = (price, replica_price, share.copy())
    averaged = costs.copy()
    length, stalled = 1.0, 0
    for step in range(steps):
        if stopping() and step > 0:
            break
        point = relaxation.evaluate(weight, price, replica_price)
        if point.value > reference + 1e-6 * abs(reference):
            stalled = 0
        else:
            stalled += 1
        if point.value > reference:
            reference = point.value
            here = (price.copy(), replica_price.copy(), share.copy())
            if reference > best.bound:
                best = Dual(reference, *here)
        if objective - best.bound <= 1e-9 * abs(objective):
            break
        if stalled >= _STALL:
            length *= 0.5
            stalled = 0
            price, replica_price, share = (array.copy() for array in here)
            if length < 1e-4:
                break
            weight = relaxation.weights(share)
            point = relaxation.evaluate(weight, price, replica_price)
        served, cost = relaxation.service(point.opened, price)
        averaged += 0.15 * (cost - averaged)
        slope = 1.0 - served
        total = weight.sum(axis=0)
        metric = np.maximum(total, 1e-3 * float(total.mean()) + 1e-300)
        replica_slope = problem.min_replicas - point.opened.sum(axis=0)
        # a slope that points out of the box does not count
        slope[(slope < 0) & (price <= 0)] = 0.0
        slope[(slope > 0) & (price >= relaxation.highest_price)] = 0.0
        replica_slope[(replica_slope < 0) & (replica_price <= 0)] = 0.0
        norm = float((weight * slope**2).sum() + (replica_slope**2 * metric).sum())
        if norm <= 0.0:
            break
        target = objective if np.isfinite(objective) else 2.0 * abs(point.value) + 1.0
        move = length * max(target - point.value, 1e-9 * abs(target)) / norm
        price = np.clip(price + move * slope, 0.0, relaxation.highest_price)
        replica_price = np.maximum(0.0, replica_price + move * replica_slope * metric)
        if mirrored:
            _sharpen(problem, traffic, np.maximum(averaged, 0.0), 0.3 * length, share)
            weight = relaxation.weights(share)
    return Dual(max(0.0, min(best.bound, objective)), best.price, best.replica_price, best.share)


def _sharpen(
    problem: PlacementProblem, traffic: Traffic, costs: Float64, sharpness: float, share: Float64
) -> None:
    dual.critical_shares(
        traffic.start, traffic.node, traffic.experts, costs, problem.block_offset, sharpness, share
    )
