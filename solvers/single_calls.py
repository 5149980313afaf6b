"""Multipliers of single calls: those of `SlowestCalls` for routes of one expert, at less cost."""

from __future__ import annotations

import numpy as np

from solvers.chunks import ranges, side_by_side
from solvers.kernels import calls as kernel
from solvers.levels import most_earned, places
from solvers.problem import Float32, Float64, Int64

_PACE = 0.25  # of steps on alpha against those on potentials, whose logistic function rises by a quarter


class SingleCalls:
    """Of c(n, e) = nearest + sum over i of gap(i) max(0, 1 - sum over the servers up to i of x(m, e)), the
    maxima as a dual player: alpha float32[N, L, E] in 0..1, L the levels with a gap.

    activity float64[N, E]: calls per second; block_offset int64[B + 1]: the columns are worked on block by
    block. A step is O(N^2 E).
    """

    def __init__(self, activity: Float64, block_offset: Int64, order: Int64, gap: Float64) -> None:
        self.rate = activity
        self._offset = block_offset
        self._order, self._gap = order, gap
        self._place, levels = places(gap > 0.0)
        nodes, experts = activity.shape
        self._alpha: Float32 = np.full((nodes, levels, experts), 0.5, np.float32)
        self._alphas = np.zeros_like(self._alpha)
        self._blocks = ranges(np.diff(block_offset) * nodes**2)
        self._from = self._alpha.copy()

    def most(self, earned: Float64) -> None:
        """As `SlowestCalls.most`."""
        most_earned(self.rate, self._order, self._gap, earned)

    def step(self, held: Float64, length: float, earned: Float64) -> tuple[float, float]:
        """As `SlowestCalls.step`."""

        def some(first: int, last: int) -> Float64:
            told = np.empty(2)
            kernel.single(
                self._offset[first : last + 1],
                self.rate,
                held,
                self._order,
                self._gap,
                self._place,
                _PACE * length,
                self._alpha,
                self._alphas,
                earned,
                told,
            )
            return told

        constant, moved = np.sum(side_by_side(some, self._blocks), axis=0)
        return float(constant), float(moved) / _PACE

    def restart(self, held: Float64, steps: int, earned: Float64) -> tuple[float, float]:
        """As `SlowestCalls.restart`."""
        self._alpha = self._alphas / np.float32(steps)
        constant, _ = self.step(held, 0.0, earned)
        self._alphas[:] = 0.0
        far = kernel.single_apart(self.rate, self._gap, self._place, self._alpha, self._from) / _PACE
        self._from = self._alpha.copy()
        return constant, far
