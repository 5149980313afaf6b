"""Multipliers of routes that wait for their slowest call; of single calls where a route has one expert."""

from __future__ import annotations

import numpy as np

from solvers.chunks import ranges, side_by_side
from solvers.dual.radius import most_earned, places
from solvers.kernels import calls as kernel
from solvers.multipliers import Part, Potentials
from solvers.problem import Float64, Int64, PlacementProblem
from solvers.traffic import Traffic

_LEAST_POTENTIAL = -30.0  # every expert stays able to come back


class SlowestCalls:
    """Of D >= nearest + sum over i of gap(i) max over e in S of left(i, e), the maxima as a dual player.

    theta(r, i, e) >= 0 with a sum of at most 1 over the experts of a route says whose absence a route pays
    for at level i. All routes of a node see the same gradient of an expert, so an entropic step keeps theta a
    softmax of potentials float64[N, L, E], which are all that is stored, L the levels with a gap. A step is
    O(N E L + R K L), memory O(N E L).
    """

    def __init__(self, problem: PlacementProblem, traffic: Traffic, order: Int64, gap: Float64) -> None:
        self._problem = problem
        self._offset = problem.block_offset
        self._order, self._gap = order, gap
        self._place, levels = places(gap > 0.0)
        number = np.arange(1, problem.nodes)
        self._near: Int64 = np.where(self._place[:, :-1] >= 0, number, 0).max(axis=1, initial=0)
        shape = (problem.nodes, levels, problem.experts)
        # not copies of each other: zeros that nobody has written to take no memory
        self._potential, self._potentials, self._calls = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self._from = (np.zeros(shape), np.zeros(shape))
        self._serve(traffic)

    def take(self, traffic: Traffic) -> None:
        """Takes other routes, a sample or all of one: potentials belong to nodes and experts."""
        self._serve(traffic)
        self._calls[:] = 0.0  # where nobody calls a step leaves them alone

    def _serve(self, traffic: Traffic) -> None:
        self.traffic = traffic
        work = np.diff(traffic.start) * traffic.experts.shape[1] * self._potential.shape[1]
        work += (int(self._near.sum()) + 2 * len(self._near)) * np.diff(self._offset)
        self._blocks = ranges(work)
        self.work = int(work.sum()) // 8

    def most(self, earned: Float64) -> None:
        """Adds to earned float64[N, E] what replicas could earn at most."""
        most_earned(self.traffic.activity, self._order, self._gap, earned)

    def refined(self, order: Int64, gap: Float64) -> SlowestCalls:
        """The same multipliers on more levels, in which each level of `self` is split: every part of a level
        begins with the potentials of the whole. `restart` with one step goes there."""
        fine = SlowestCalls(self._problem, self.traffic, order, gap)
        for n in range(len(order)):
            mine = self._place[n]
            for i in np.flatnonzero(fine._place[n] >= 0).tolist():
                last = i + int(np.argmax(mine[i:] >= 0))  # of the servers that share a level with i
                if mine[last] >= 0:
                    fine._potential[n, fine._place[n, i]] = self._potential[n, mine[last]]
        fine._potentials[:] = fine._potential
        return fine

    @property
    def multipliers(self) -> Potentials:
        """As `SingleCalls.multipliers`."""
        return Potentials(self._potential.astype(np.float32))

    def resume(self, given: Part) -> bool:
        """As `SingleCalls.resume`. Of levels that were more or fewer the nearest ones and the last are the
        same."""
        if not isinstance(given, Potentials) or given.potential.shape[::2] != self._potential.shape[::2]:
            return False
        same = min(given.potential.shape[1], self._potential.shape[1]) - 1
        if same >= 0:
            self._potentials[:, :same] = given.potential[:, :same]
            self._potentials[:, same:] = given.potential[:, -1:]
        return True

    def step(self, held: Float64, length: float, earned: Float64) -> tuple[float, float]:
        """A step against held float64[N, E]. Adds what replicas earn to earned float64[N, E]; returns the
        multipliers' own part of the bound, and how far they moved."""
        routes = self.traffic

        def some(first: int, last: int) -> Float64:
            told = np.empty(2)
            kernel.slowest(
                routes.start[first : last + 1],
                routes.node,
                routes.experts,
                routes.rate,
                self._offset[first : last + 1],
                held,
                self._order,
                self._gap,
                self._place,
                self._near,
                length,
                _LEAST_POTENTIAL,
                self._potential,
                self._potentials,
                self._calls,
                earned,
                told,
            )
            return told

        constant, moved = np.sum(side_by_side(some, self._blocks), axis=0)
        return float(constant), max(0.0, length * float(moved))

    def restart(self, held: Float64, steps: int, earned: Float64) -> tuple[float, float]:
        """Goes to the average potentials of the last `steps` steps, `held` being theirs; as `step`, but says
        how far that is from the last restart."""
        self._potential = self._potentials / steps
        constant, _ = self.step(held, 0.0, earned)
        self._potentials[:] = 0.0
        far = kernel.apart(self._calls, self._from[0], self._potential, self._from[1], self._gap, self._place)
        self._from = (self._calls.copy(), self._potential.copy())
        return constant, max(0.0, far)
