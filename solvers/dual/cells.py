"""Multipliers of routes that wait for their slowest call, kept only for the calls that are made."""

from __future__ import annotations

import numpy as np

from solvers.cost.evaluate import nearest_nodes
from solvers.kernels import cells as kernel
from solvers.multipliers import CellPotentials, Part
from solvers.problem import Float32, Float64, Int32, Int64, PlacementProblem
from solvers.traffic import Traffic

_LEAST_POTENTIAL = -30.0  # every expert stays able to come back
_MOST_POTENTIAL = 60_000.0  # that is kept, in 16 bits
_FARTHEST = 4.0  # how much lower the potentials of the last level begin than those of the first


class CellCalls:
    """The multipliers of `SlowestCalls`, each level with its own, for the pairs of a node and an expert that
    it calls: where a node calls few of the experts, much less than a multiplier for all of them.

    Servers whose latencies from a node lie within a factor of 1 + `near` of each other are one level, at its
    near end, which no call is below. A step is O(C (N + L) + R K L) for C pairs and L levels; memory 16 bytes
    per pair and level.

    `reward` float64[N, E], at least 0, is what every replica earns beside what calls pay for it.
    """

    def __init__(
        self, problem: PlacementProblem, traffic: Traffic, near: float, reward: Float64 | None = None
    ) -> None:
        self._reward = reward
        self._order, self._ends, self._gap = _levels(problem, near)
        self._rate = traffic.rate
        block = np.repeat(np.arange(problem.blocks), np.diff(traffic.start))
        groups = block * np.int64(problem.nodes) + traffic.node
        first_of_group = np.flatnonzero(np.diff(groups, prepend=-1))
        self._route: Int64 = np.append(first_of_group, len(groups)).astype(np.int64)
        given = traffic.experts >= 0
        columns = problem.block_offset[block][:, None] + traffic.experts
        key = (groups[:, None] * np.int64(max(1, problem.experts)) + columns)[given]
        cells, inverse = np.unique(key, return_inverse=True)
        self._routes: Int32 = np.full(traffic.experts.shape, -1, np.int32)
        self._routes[given] = inverse
        self._column = (cells % max(1, problem.experts)).astype(np.int32)
        owner = cells // max(1, problem.experts)
        self._node = (owner % problem.nodes).astype(np.int32)
        self._group: Int64 = np.append(np.flatnonzero(np.diff(owner, prepend=-1)), len(cells)).astype(
            np.int64
        )
        self._cell = self._node * np.int64(max(1, problem.experts)) + self._column
        self._activity = traffic.activity[self._node, self._column]
        shape = (len(cells), self._gap.shape[1])
        self._total: Float32 = np.zeros(shape, np.float32)
        self._calls: Float32 = np.zeros(shape, np.float32)
        # Begun alike, the multipliers of far levels, whose gaps are large, would first have to fall.
        self._potential: Float32 = np.zeros(shape, np.float32)
        self._potential -= np.linspace(0.0, _FARTHEST, shape[1], dtype=np.float32)
        self._from = (self._calls.copy(), self._potential.copy())
        self.work = traffic.experts.size * shape[1] // 8 + shape[0] * (problem.nodes + shape[1]) // 5

    def most(self, earned: Float64) -> None:
        """As `SlowestCalls.most`."""
        kernel.most(self._node, self._column, self._activity, self._order, self._ends, self._gap, earned)
        if self._reward is not None:
            earned += self._reward

    @property
    def multipliers(self) -> CellPotentials:
        """As `SingleCalls.multipliers`."""
        order = np.argsort(self._cell)
        kept = np.clip(self._potential[order], -_MOST_POTENTIAL, _MOST_POTENTIAL)
        return CellPotentials(self._cell[order], kept.astype(np.float16))

    def resume(self, given: Part) -> bool:
        """As `SlowestCalls.resume`; pairs that were not called then get the mean of the others."""
        if not isinstance(given, CellPotentials) or 0 in given.potential.shape or 0 in self._total.shape:
            return False
        place = np.minimum(np.searchsorted(given.cell, self._cell), len(given.cell) - 1)
        known = given.cell[place] == self._cell
        then: Float32 = given.potential.astype(np.float32)
        levels = self._total.shape[1]
        if then.shape[1] != levels:
            same = min(then.shape[1], levels) - 1
            last = np.repeat(then[:, -1:], levels - same, axis=1)
            then = np.concatenate((then[:, :same], last), axis=1)
        self._total[:] = np.where(known[:, None], then[place], then.mean(axis=0, dtype=np.float64))
        return True

    def step(self, held: Float64, length: float, earned: Float64) -> tuple[float, float]:
        """As `SlowestCalls.step`."""
        constant, moved = self._share(held, length, earned)
        return constant, max(0.0, length * moved)

    def restart(self, held: Float64, steps: int, earned: Float64) -> tuple[float, float]:
        """As `SlowestCalls.restart`."""
        self._potential = self._total / np.float32(steps)
        self._total[:] = 0.0
        constant, _ = self._share(held, 0.0, earned)
        calls, potential = self._from
        far = kernel.apart(self._node, self._gap, self._calls, calls, self._potential, potential)
        self._from = (self._calls.copy(), self._potential.copy())
        return constant, max(0.0, far)

    def _share(self, held: Float64, length: float, earned: Float64) -> tuple[float, float]:
        told = np.empty(2)
        of_experts = np.zeros((held.shape[1], held.shape[0]))  # the kernel runs over the servers of an expert
        kernel.share(
            self._group,
            self._route,
            self._node,
            self._column,
            self._routes,
            self._rate,
            self._order,
            self._ends,
            self._gap,
            np.ascontiguousarray(held.T),
            length,
            _LEAST_POTENTIAL,
            self._potential,
            self._total,
            self._calls,
            of_experts,
            told,
        )
        earned += of_experts.T
        if self._reward is not None:
            earned += self._reward
        return float(told[0]), float(told[1])


def _levels(problem: PlacementProblem, near: float) -> tuple[Int64, Int64, Float64]:
    """order int64[N, N]; ends int64[N, L + 1], where each level's servers begin and end in it; gap float64[N,
    L], what going beyond each costs, the last one up to the origin. Every node has an origin."""
    order = nearest_nodes(problem)
    nodes = problem.nodes
    latency = np.take_along_axis(problem.latency_seconds, order, axis=1)
    latency = np.minimum(latency, problem.origin_latency_seconds[:, None])
    starts: list[list[int]] = []
    for row in latency:
        begin = [0]
        for i in range(1, nodes):
            if row[i] > row[begin[-1]] * (1.0 + near):
                begin.append(i)
        starts.append(begin)
    levels = max(map(len, starts))
    ends = np.full((nodes, levels + 1), nodes, np.int64)
    gap = np.zeros((nodes, levels))
    for n, begin in enumerate(starts):
        ends[n, : len(begin)] = begin
        edge = np.append(latency[n, begin], problem.origin_latency_seconds[n])
        gap[n, : len(begin)] = np.diff(edge)
    return order, ends, gap
