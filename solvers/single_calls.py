"""Multipliers of single calls: those of `SlowestCalls` for routes of one expert, at a fraction of the cost."""

from __future__ import annotations

import numpy as np

from solvers.chunks import ranges, side_by_side
from solvers.kernels import calls as kernel
from solvers.problem import Float64, Int64


class SingleCalls:
    """Of c(n, e) = nearest + sum over i of gap(i) max(0, 1 - sum over the servers up to i of x(m, e)), the
    maxima as a dual player: alpha in 0..1, a logistic function of potentials float64[N, E, N].

    activity float64[N, E]: calls per second. A step is O(N^2 E).
    """

    def __init__(self, activity: Float64, order: Int64, gap: Float64) -> None:
        self.rate = activity
        self._order, self._gap = order, gap
        self._potential = np.zeros((*activity.shape, len(order)))
        self._potentials = np.zeros_like(self._potential)
        self._columns = ranges(np.full(activity.shape[1], len(order) ** 2))
        self._from = self._potential.copy()

    def most(self, earned: Float64) -> None:
        """As `SlowestCalls.most`."""
        within = np.cumsum(self._gap[:, ::-1], axis=1)[:, ::-1]
        for n in range(len(self._order)):
            for i, m in enumerate(self._order[n].tolist()):
                earned[:, m] += within[n, i] * self.rate[n]

    def step(self, held: Float64, length: float, earned: Float64) -> tuple[float, float]:
        """As `SlowestCalls.step`."""
        def some(first: int, last: int) -> Float64:
            told = np.empty(2)
            kernel.single(
                self.rate,
                held,
                self._order,
                self._gap,
                length,
                self._potential,
                self._potentials,
                earned,
                told,
                first,
                last,
            )
            return told

        constant, moved = np.sum(side_by_side(some, self._columns), axis=0)
        return float(constant), float(moved)

    def restart(self, held: Float64, steps: int, earned: Float64) -> tuple[float, float]:
        """As `SlowestCalls.restart`."""
        self._potential = self._potentials / steps
        self._potentials[:] = 0.0
        constant, _ = self.step(held, 0.0, earned)
        self._potentials[:] = 0.0
        far = kernel.logistic_apart(self.rate, self._gap, self._potential, self._from)
        self._from = self._potential.copy()
        return constant, far
