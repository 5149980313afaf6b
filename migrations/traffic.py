"""What tokens wait while a plan unfolds, as the arrays the planner's kernels keep up to date."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from migrations.diff import Difference
from migrations.kernels import latency
from migrations.kernels.arrays import CALL, ROUTE, Words
from solvers.problem import Coupling, Float64, Int32, Int64, PlacementProblem, UInt8

_UNREACHABLE: Final = 10.0
"""Times the slowest call: what a call counts that nobody serves, as infinities can't be added up."""

_ENTRIES: Final = 400_000
"""Experts of routes, in all: of a larger problem, a sample of the routes guides the order of moves."""


class Traffic:
    """What nodes call, and what the routes of a problem wait before and after a change; made once for all
    attempts.

    calls CALL[C]: before the change, by column, then node: those of column e from first_call[e] on. Their
    routes, where `coupled`, are described at `State`. `colocated` is treated as `slowest`: for both, little
    is saved before the last expert of a route has come. O(R K log(R K) + C holders).
    """

    def __init__(self, problem: PlacementProblem, change: Difference) -> None:
        nodes, experts = problem.nodes, problem.experts
        call, origin = problem.latency_seconds, problem.origin_latency_seconds
        finite = np.concatenate([call[np.isfinite(call)], origin[np.isfinite(origin)]])
        never = _UNREACHABLE * float(finite.max(initial=0.0)) + 1e-6
        self.distance: Float64 = np.minimum(call, never)
        self.origin: Float64 = np.minimum(origin, never)
        self.coupled = problem.coupling is not Coupling.SUM and problem.route_experts.shape[1] > 1

        width = problem.route_experts.shape[1]
        picked, rate = np.arange(problem.routes), problem.route_rate
        if self.coupled:
            picked, rate = _sample(problem.route_rate, _ENTRIES // max(1, width))
        chosen = problem.route_experts[picked] >= 0
        route, place = np.nonzero(chosen)
        offset = problem.block_offset[problem.route_block[picked]]
        column = offset[route] + problem.route_experts[picked[route], place]
        use = column * nodes + problem.route_node[picked[route]]
        made, of = np.unique(use, return_inverse=True)
        self.calls = np.zeros(len(made), CALL)
        self.calls["node"] = made % nodes
        self.calls["weight"] = np.bincount(of, rate[route], len(made))
        self.first_call: Int64 = np.searchsorted(made, np.arange(experts + 1) * nodes)

        self.routes = np.zeros(len(picked) if self.coupled else 0, ROUTE)
        self.route_calls: Int32 = np.full((len(self.routes), width), -1, np.int32)
        self.first_route: Int64 = np.zeros(len(made) + 1, np.int64)
        self.route_index: Int32 = np.zeros(0, np.int32)
        if self.coupled:
            self.routes["rate"] = rate
            self.route_calls[route, place] = of
            self.first_route[1:] = np.cumsum(np.bincount(of, minlength=len(made)))
            self.route_index = route[np.argsort(of, kind="stable")].astype(np.int32)
        self.after = self._wait(change.target.holds, "goal")
        self.before = self._wait(change.source.holds, "value")

    def _wait(self, holds: UInt8, field: str) -> float:
        """What all tokens wait, seconds per second; that of each route goes to its `field`. The calls are as
        these placements serve them."""
        columns = np.arange(len(self.first_call) - 1)
        latency.serve(self.calls, self.first_call, words_of(holds.T), self.distance, self.origin, columns)
        slowest = np.zeros(len(self.routes))
        total = latency.wait(self.calls, self.routes, self.route_calls, self.coupled, slowest)
        self.routes[field] = slowest
        return float(total)


def words_of(members: npt.NDArray[np.uint8] | npt.NDArray[np.bool_]) -> Words:
    """uint64[rows, N // 64 + 1]: each row of `members`, which has a column per node, as bits; there is one
    more than nodes, for the origin."""
    rows, nodes = members.shape
    packed = np.zeros((rows, 8 * (nodes // 64 + 1)), np.uint8)
    bits = np.packbits(members, axis=1, bitorder="little")
    packed[:, : bits.shape[1]] = bits
    return packed.view("<u8").astype(np.uint64)


def _sample(rate: Float64, most: int) -> tuple[Int64, Float64]:
    """Routes that stand for all, and their rates: all, or `most` taken at equal steps of the summed rate."""
    total = float(rate.sum())
    if len(rate) <= most or total <= 0:
        return np.arange(len(rate)), rate
    steps = (np.arange(most) + 0.5) * (total / most)
    picked, count = np.unique(np.searchsorted(np.cumsum(rate), steps), return_counts=True)
    picked = np.minimum(picked, len(rate) - 1).astype(np.int64)
    return picked, np.asarray(count * (total / most), np.float64)
