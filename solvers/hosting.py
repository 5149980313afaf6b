"""Multipliers of routes that one server must serve alone."""

from __future__ import annotations

import numpy as np

from solvers.chunks import ranges, side_by_side
from solvers.kernels import hosts as kernel
from solvers.levels import most_earned
from solvers.problem import Float32, Float64, Int64, PlacementProblem
from solvers.traffic import Traffic

_PACE = 0.25  # of steps on alpha against those on potentials


class Hosting:
    """Of D >= nearest + sum over i of gap(i) max(0, 1 - sum over the servers m up to i of h(S, m)) with
    h(S, m) = min over e in S of x(m, e), the maxima and the minima as dual players.

    alpha(r, i) float32[R, N] in 0..1 says how much a route pays at level i; theta(S, m, e) on the simplex
    says which expert keeps m from hosting, a softmax of potentials float64[E, N], since all routes see the
    same gradient of an expert at a server. A step is O(R K N).
    """

    def __init__(self, problem: PlacementProblem, traffic: Traffic, order: Int64, gap: Float64) -> None:
        self._traffic = traffic
        self._offset = problem.block_offset
        self._order, self._gap = order, gap
        self._potential = np.zeros((problem.experts, problem.nodes))
        self._potentials = np.zeros_like(self._potential)
        self._alpha: Float32 = np.full((len(traffic.node), problem.nodes), 0.5, np.float32)
        self._alphas = np.zeros_like(self._alpha)
        self._earned = np.zeros_like(self._potential)
        self._blocks = ranges(np.diff(traffic.start) * traffic.experts.shape[1] * problem.nodes)
        self._from = (self._alpha.copy(), self._potential.copy(), self._earned)

    def most(self, earned: Float64) -> None:
        """As `SlowestCalls.most`."""
        most_earned(self._traffic.activity, self._order, self._gap, earned)

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
        self._potential = self._potentials / steps
        self._alpha = self._alphas / np.float32(steps)
        constant, _ = self._host(np.ascontiguousarray(held.T), 0.0)
        earned += self._earned.T
        alpha, potential, before = self._from
        routes = self._traffic
        far = kernel.apart(routes.node, routes.rate, self._gap, self._alpha, alpha) / _PACE
        far += max(0.0, float(((self._earned - before) * (self._potential - potential)).sum()))
        self._from = (self._alpha.copy(), self._potential, self._earned)
        self._potentials = np.zeros_like(self._potential)
        self._alphas = np.zeros_like(self._alpha)
        return constant, far

    def _host(self, held: Float64, length: float) -> tuple[float, float]:
        routes = self._traffic
        self._earned = np.zeros_like(self._potential)

        def some(first: int, last: int) -> Float64:
            told = np.empty(2)
            kernel.host(
                routes.start[first : last + 1],
                routes.node,
                routes.experts,
                routes.rate,
                self._offset[first : last + 1],
                self._order,
                self._gap,
                self._potential,
                held,
                _PACE * length,
                self._alpha,
                self._alphas,
                self._earned,
                told,
            )
            return told

        constant, moved = np.sum(side_by_side(some, self._blocks), axis=0)
        return float(constant), float(moved) / _PACE
