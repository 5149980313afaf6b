"""Multipliers of single calls: those of `SlowestCalls` for routes of one expert, at less cost."""

from __future__ import annotations

import numpy as np

from solvers.chunks import ranges, side_by_side
from solvers.dual.radius import edges, most_earned
from solvers.kernels import calls as kernel
from solvers.multipliers import Part, Reaches
from solvers.problem import Float64, Int64
from solvers.tolerances import TINY

_PACE = 0.25  # of steps on how far calls pay, in parts of the farthest, against those on potentials
_START = 0.5  # of the way to the farthest level


class SingleCalls:
    """Of c(n, e) = nearest + sum over i of gap(i) max(0, 1 - sum over the servers up to i of x(m, e)), the
    maxima as a dual player.

    What is missing only falls from level to level, so the best multipliers are 1 up to some latency and 0
    beyond: one number per node and expert, how far its calls pay, float64[N, E]. activity float64[N, E]:
    calls per second; block_offset int64[B + 1]: the columns are worked on block by block. A step is
    O(N^2 E), memory O(N E).
    """

    def __init__(self, activity: Float64, block_offset: Int64, order: Int64, gap: Float64) -> None:
        self.rate = activity
        self._offset = block_offset
        self._order, self._gap = order, gap
        self._edge = edges(gap)
        self._scale = _PACE * self._edge[:, -1]
        self._reach: Float64 = np.repeat(_START * self._edge[:, -1:], activity.shape[1], axis=1)
        self._reaches = np.zeros_like(self._reach)
        self._blocks = ranges(np.diff(block_offset) * len(order) ** 2)
        self._from = self._reach.copy()
        self.work = len(order) ** 2 * activity.shape[1] // 6

    def most(self, earned: Float64) -> None:
        """As `SlowestCalls.most`."""
        most_earned(self.rate, self._order, self._gap, earned)

    @property
    def multipliers(self) -> Reaches:
        """Where it stands."""
        return Reaches(self._reach.astype(np.float32))

    def resume(self, given: Part) -> bool:
        """Stands where another did, once `restart` is called after one step; False where it cannot."""
        if not isinstance(given, Reaches) or given.reach.shape != self._reach.shape:
            return False
        self._reaches[:] = given.reach
        return True

    def step(self, held: Float64, length: float, earned: Float64) -> tuple[float, float]:
        """As `SlowestCalls.step`."""
        pace = length * self._scale

        def some(first: int, last: int) -> Float64:
            told = np.empty(2)
            kernel.single(
                self._offset[first : last + 1],
                self.rate,
                held,
                self._order,
                self._edge,
                pace,
                self._reach,
                self._reaches,
                earned,
                told,
            )
            return told

        constant, moved = np.sum(side_by_side(some, self._blocks), axis=0)
        return float(constant), float(moved) * length

    def restart(self, held: Float64, steps: int, earned: Float64) -> tuple[float, float]:
        """As `SlowestCalls.restart`."""
        self._reach = np.clip(self._reaches / steps, 0.0, self._edge[:, -1:])
        constant, _ = self.step(held, 0.0, earned)
        self._reaches[:] = 0.0
        scale = np.maximum(self._scale, TINY)[:, None]
        far = float((self.rate * (self._reach - self._from) ** 2 / scale).sum())
        self._from = self._reach.copy()
        return constant, far
