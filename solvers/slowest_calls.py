"""Multipliers of routes that wait for their slowest call; of single calls where a route has one expert."""

from __future__ import annotations

import numpy as np

from solvers.chunks import ranges, side_by_side
from solvers.kernels import calls as kernel
from solvers.problem import Float32, Float64, Int64, PlacementProblem
from solvers.traffic import Traffic

_MOST_CALLS, _LEAST_GROUPS = 15_000_000, 4  # experts of routes times groups; with more, levels share groups
_LEAST_POTENTIAL = -30.0  # every expert stays able to come back


class SlowestCalls:
    """Of D >= nearest + sum over i of gap(i) max over e in S of left(i, e), the maxima as a dual player.

    theta(r, i, e) >= 0 with a sum of at most 1 over the experts of a route says whose absence a route pays
    for at level i. All routes of a node see the same gradient of an expert, so an entropic step keeps theta a
    softmax of potentials float64[N, E, G], which are all that is stored; G groups of neighbouring levels
    share their theta. A step is O(N^2 E + R K G), memory O(N E G).
    """

    def __init__(self, problem: PlacementProblem, traffic: Traffic, order: Int64, gap: Float64) -> None:
        self._offset = problem.block_offset
        self._order, self._gap = order, gap
        most = max(_LEAST_GROUPS, int(_MOST_CALLS // max(1, traffic.experts.size)))
        self._group, self._weight = groups(gap, most)
        shape = (problem.nodes, problem.experts, self._weight.shape[1])
        number = np.zeros_like(self._weight)
        np.add.at(number, (np.arange(problem.nodes)[:, None], self._group), gap > 0.0)
        self._shared = (np.take_along_axis(number, self._group, axis=1) > 1).astype(np.uint8)
        self._own = np.zeros_like(self._shared)
        size = (*shape[:2], problem.nodes) if self._shared.any() else (0, 0, 0)
        self._alpha: Float32 = np.zeros(size, np.float32)
        self._alphas = np.zeros_like(self._alpha)
        self._potential = np.zeros(shape)
        self._potentials = np.zeros(shape)
        self._calls = np.zeros(shape)
        self._other = np.empty(shape)
        self._slope = np.empty(shape)
        self.take(traffic)
        self._from = (self._calls.copy(), self._potential.copy())

    def take(self, traffic: Traffic) -> None:
        """Takes other routes, a sample or all of one: potentials belong to nodes and experts."""
        self._traffic = traffic
        self._potentials[:] = 0.0
        self._alphas[:] = 0.0
        work = np.diff(traffic.start) * traffic.experts.shape[1] * self._weight.shape[1]
        self._blocks = ranges(work)

    def most(self, earned: Float64) -> None:
        """Adds to earned float64[E, N] what replicas could earn at most."""
        calls = np.repeat(self._traffic.activity[:, :, None], self._weight.shape[1], axis=2)
        kernel.profits(
            calls, self._order, self._gap, self._group, self._own, self._alpha, earned, 0, len(earned)
        )

    def step(self, held: Float64, length: float, earned: Float64) -> tuple[float, float]:
        """A step against held float64[E, N]. Adds what replicas earn to earned float64[E, N]; returns the
        multipliers' own part of the bound, and how far they moved."""
        self._calls, self._other = self._other, self._calls
        constant = self._share(earned, held, length)
        return constant, max(
            0.0, length * kernel.product(self._calls, self._other, self._slope, self._weight)
        )

    def restart(self, held: Float64, steps: int, earned: Float64) -> tuple[float, float]:
        """Goes to the average potentials of the last `steps` steps, `held` being theirs; as `step`, but says
        how far that is from the last restart."""
        self._potential = self._potentials / steps
        self._alpha = self._alphas / np.float32(steps)
        self._alphas = np.zeros_like(self._alpha)
        constant = self._share(earned, held, None)
        calls, potential = self._from
        far = kernel.product(self._calls, calls, self._potential - potential, self._weight)
        self._from = (self._calls.copy(), self._potential.copy())
        self._potentials[:] = 0.0
        return constant, max(0.0, far)

    def _share(self, earned: Float64, held: Float64, length: float | None) -> float:
        """The calls at the potentials, raised first by `length` where that is given."""
        routes = self._traffic

        def some(first: int, last: int) -> float:
            offset = self._offset[first : last + 1]
            columns = (int(offset[0]), int(offset[-1]))
            if length is not None:
                kernel.raise_potentials(
                    held,
                    self._order,
                    self._gap,
                    self._group,
                    self._weight,
                    self._shared,
                    length,
                    _LEAST_POTENTIAL,
                    self._potential,
                    self._potentials,
                    self._alpha,
                    self._alphas,
                    self._slope,
                    *columns,
                )
            kernel.shares(
                routes.start[first : last + 1],
                routes.node,
                routes.experts,
                routes.rate,
                offset,
                self._potential,
                self._calls,
            )
            total = kernel.profits(
                self._calls,
                self._order,
                self._gap,
                self._group,
                self._shared,
                self._alpha,
                earned,
                *columns,
            )
            return float(total)

        return sum(side_by_side(some, self._blocks))


def groups(gap: Float64, most: int) -> tuple[Int64, Float64]:
    """The group of every level, int64[N, N], and the gaps of every group together, float64[N, G], for at most
    `most` groups: the last gap, mostly the largest, is one, and ranges of about equal latency the others."""
    nodes = gap.shape[0]
    most = min(most, nodes)
    group = np.tile(np.arange(nodes), (nodes, 1))
    if most < nodes:
        group[:, -1] = most - 1
        upper = np.cumsum(gap[:, :-1], axis=1)
        middle = upper - gap[:, :-1] / 2
        reach = np.maximum(upper[:, -1:], 1e-300)
        group[:, :-1] = np.minimum(most - 2, (middle / reach * (most - 1)).astype(np.int64))
    weight = np.zeros((nodes, most))
    np.add.at(weight, (np.arange(nodes)[:, None], group), gap)
    return group, weight
