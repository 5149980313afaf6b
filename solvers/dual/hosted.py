"""Multipliers of routes that one server must serve alone."""

from __future__ import annotations

import numpy as np

from solvers.chunks import ranges, side_by_side
from solvers.dual.radius import edges, most_earned
from solvers.kernels import hosts as kernel
from solvers.multipliers import HostPotentials, Part
from solvers.problem import Float64, Int64, PlacementProblem
from solvers.tolerances import TINY
from solvers.traffic import Traffic, route_keys

_PACE = 0.1  # of steps on how far routes pay, in parts of the farthest, against those on potentials
_START = 0.2  # of the way to the farthest level


class Hosting:
    """Of D >= nearest + sum over i of gap(i) max(0, 1 - sum over the servers m up to i of h(S, m)) with
    h(S, m) = min over e in S of x(m, e), the maxima and the minima as dual players.

    As for `SingleCalls`, one number per route says how far it pays, float64[R]; theta(S, m, e) on the simplex
    says which expert keeps m from hosting, a softmax of potentials float64[E, N], since all routes see the
    same gradient of an expert at a server. A step is O(R K N).
    """

    def __init__(self, problem: PlacementProblem, traffic: Traffic, order: Int64, gap: Float64) -> None:
        self._traffic = traffic
        self._offset = problem.block_offset
        self._order, self._gap = order, gap
        self._edge = edges(gap)
        self._scale = _PACE * self._edge[:, -1]
        self._potential = np.zeros((problem.experts, problem.nodes))
        self._potentials = np.zeros_like(self._potential)
        self._reach: Float64 = _START * self._edge[traffic.node, -1]
        self._reaches = np.zeros_like(self._reach)
        self._earned = np.zeros_like(self._potential)
        self._blocks = ranges(np.diff(traffic.start) * traffic.experts.shape[1] * problem.nodes)
        self._from = (self._reach.copy(), self._potential.copy(), self._earned)
        self.work = traffic.experts.size * problem.nodes // 4

    def most(self, earned: Float64) -> None:
        """As `SlowestCalls.most`."""
        most_earned(self._traffic.activity, self._order, self._gap, earned)

    @property
    def multipliers(self) -> HostPotentials:
        """As `SingleCalls.multipliers`."""
        key = route_keys(self._traffic)
        order = np.argsort(key)
        reach = self._reach[order]
        return HostPotentials(self._potential.astype(np.float32), key[order], reach.astype(np.float32))

    def resume(self, given: Part) -> bool:
        """As `SingleCalls.resume`. Routes that were not there pay as far as the mean of those that were."""
        if not isinstance(given, HostPotentials) or given.potential.shape != self._potential.shape:
            return False
        self._potentials[:] = given.potential
        if len(given.key):
            key = route_keys(self._traffic)
            place = np.minimum(np.searchsorted(given.key, key), len(given.key) - 1)
            known = given.key[place] == key
            self._reaches[:] = np.where(known, given.reach[place], given.reach.mean())
        return True

    def step(self, held: Float64, length: float, earned: Float64) -> tuple[float, float]:
        """As `SlowestCalls.step`."""
        before, past = self._earned, self._potential
        server = np.ascontiguousarray(held.T)  # the kernel runs over the servers of an expert
        self._potential = past - length * server
        self._potentials += self._potential
        constant, moved = self._host(server, length)
        earned += self._earned.T
        return constant, moved + max(0.0, float(((self._earned - before) * (self._potential - past)).sum()))

    def restart(self, held: Float64, steps: int, earned: Float64) -> tuple[float, float]:
        """As `SlowestCalls.restart`."""
        routes = self._traffic
        self._potential = self._potentials / steps
        farthest = self._edge[routes.node, -1]
        self._reach = np.clip(self._reaches / steps, 0.0, farthest)
        constant, _ = self._host(np.ascontiguousarray(held.T), 0.0)
        earned += self._earned.T
        reach, potential, before = self._from
        scale = np.maximum(_PACE * farthest, TINY)
        far = float((routes.rate * (self._reach - reach) ** 2 / scale).sum())
        far += max(0.0, float(((self._earned - before) * (self._potential - potential)).sum()))
        self._from = (self._reach.copy(), self._potential, self._earned)
        self._potentials = np.zeros_like(self._potential)
        self._reaches = np.zeros_like(self._reach)
        return constant, far

    def _host(self, held: Float64, length: float) -> tuple[float, float]:
        routes = self._traffic
        self._earned = np.zeros_like(self._potential)
        pace = length * self._scale

        def some(first: int, last: int) -> Float64:
            told = np.empty(2)
            kernel.host(
                routes.start[first : last + 1],
                routes.node,
                routes.experts,
                routes.rate,
                self._offset[first : last + 1],
                self._order,
                self._edge,
                pace,
                self._potential,
                held,
                self._reach,
                self._reaches,
                self._earned,
                told,
            )
            return told

        constant, moved = np.sum(side_by_side(some, self._blocks), axis=0)
        return float(constant), float(moved) * length
