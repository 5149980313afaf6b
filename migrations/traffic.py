"""What tokens wait while a plan unfolds, as the arrays the planner's kernels keep up to date."""

from __future__ import annotations

from typing import Final

import numpy as np

from migrations.diff import Difference
from migrations.kernels.arrays import ROUTE
from solvers.cost.evaluate import serving_costs
from solvers.placement import Placement
from solvers.problem import Coupling, Float64, Int32, Int64, PlacementProblem
from solvers.response.holders import nearest_holder

_UNREACHABLE: Final = 10.0
"""Times the slowest call: what a call counts that nobody serves, as infinities can't be added up."""

_ENTRIES: Final = 400_000
"""Experts of routes, in all: of a larger problem, a sample of the routes guides the order of moves."""


class Traffic:
    """The routes of a problem, and what they wait before and after a change; made once for all attempts.

    `colocated` is treated as `slowest`: for both, little is saved before the last expert of a route has come.
    O(N E sqrt(N) + R K log(R K)).
    """

    def __init__(self, problem: PlacementProblem, change: Difference) -> None:
        nodes, experts = problem.nodes, problem.experts
        latency, origin = problem.latency_seconds, problem.origin_latency_seconds
        calls = np.concatenate([latency[np.isfinite(latency)], origin[np.isfinite(origin)]])
        self._never = _UNREACHABLE * float(calls.max(initial=0.0)) + 1e-6
        self.distance = np.minimum(latency, self._never)
        self.origin = np.minimum(origin, self._never)
        self.coupled = problem.coupling is not Coupling.SUM and problem.route_experts.shape[1] > 1

        chosen = problem.route_experts >= 0
        route, place = np.nonzero(chosen)
        column = problem.block_offset[problem.route_block[route]] + problem.route_experts[route, place]
        use = problem.route_node[route].astype(np.int64) * experts + column
        weight = np.bincount(use, problem.route_rate[route], nodes * experts)
        self.weight: Float64 = weight.astype(np.float64).reshape(nodes, experts)

        picked, rate = _sample(problem.route_rate, _ENTRIES // max(1, chosen.shape[1]))
        if not self.coupled:
            picked, rate = picked[:0], rate[:0]
        self.routes = np.zeros(len(picked), ROUTE)
        self.routes["rate"] = rate
        self._node, chosen = problem.route_node[picked], chosen[picked]
        offset = problem.block_offset[problem.route_block[picked]][:, None]
        self.columns = np.where(chosen, offset + problem.route_experts[picked], -1).astype(np.int32)
        route, place = np.nonzero(chosen)
        use = self._node[route].astype(np.int64) * experts + self.columns[route, place]
        self.first = np.concatenate([[0], np.cumsum(np.bincount(use, minlength=nodes * experts))])
        self.index = route[np.argsort(use, kind="stable")].astype(np.int32)
        self.after = self._wait(self._costs(problem, change.target), self.routes["goal"])
        self.cost = self._costs(problem, change.source)
        self.before = self._wait(self.cost, self.routes["value"])
        # node `nodes` stands for the origin; it serves where no node is nearer
        holder = nearest_holder(self.distance, self.origin, change.source.holds).T
        self.nearest: Int32 = np.where(holder < 0, nodes, holder).astype(np.int32)

    def _costs(self, problem: PlacementProblem, placement: Placement) -> Float64:
        costs = serving_costs(problem, placement.holds)
        return np.minimum(costs, self._never, out=costs)

    def _wait(self, costs: Float64, slowest: Float64) -> float:
        """What all tokens wait, seconds per second; that of each route goes to `slowest`."""
        if not self.coupled:
            return float((self.weight * costs).sum())
        calls = costs[self._node[:, None], np.maximum(self.columns, 0)]
        slowest[:] = np.where(self.columns >= 0, calls, 0.0).max(axis=1, initial=0.0)
        return float(self.routes["rate"] @ slowest)


def _sample(rate: Float64, most: int) -> tuple[Int64, Float64]:
    """Routes that stand for all, and their rates: all, or `most` taken at equal steps of the summed rate."""
    total = float(rate.sum())
    if len(rate) <= most or total <= 0:
        return np.arange(len(rate)), rate
    steps = (np.arange(most) + 0.5) * (total / most)
    picked, count = np.unique(np.searchsorted(np.cumsum(rate), steps), return_counts=True)
    picked = np.minimum(picked, len(rate) - 1).astype(np.int64)
    return picked, np.asarray(count * (total / most), np.float64)
