"""The best placement near another: the programme of `exact` with most of the placement fixed."""

from __future__ import annotations

import numpy as np

from solvers.exact.programme import TooLarge, programme
from solvers.feasible.violations import shortfalls
from solvers.problem import Bools, PlacementProblem, UInt8
from solvers.tolerances import NEIGHBOURHOOD_GAP
from solvers.traffic import Traffic

_VARIABLES = 2_000  # of the whole programme; with more, HiGHS takes longer than many rounds of responses
_BRANCHES = 10  # nodes of its tree, so that the same search ends at the same point
_SECONDS = 2.0  # which so few take on a machine that is stuck only
_PART = (0.2, 0.4)  # of the placement: many parts that HiGHS closes at once find more than few large ones
_MOST_COLUMNS = 0.8  # of the experts, where few nodes are
_SCALE = 1e3  # of the objective given to HiGHS, whose tolerances are absolute


class Neighbourhood:
    """Where best responses change one node after another, HiGHS sees all that is free at once (*published*
    as large neighbourhood search: Shaw 1998; by an integer programme: Danna, Rothberg, Le Pape 2005).

    Raises `TooLarge` where the programme is no longer a small one.
    """

    def __init__(self, problem: PlacementProblem, traffic: Traffic) -> None:
        if problem.nodes * problem.experts > _VARIABLES:
            raise TooLarge
        self._problem = problem
        self._programme = programme(problem, traffic, _VARIABLES)

    def draw(self, generator: np.random.Generator) -> Bools:
        """A part of a placement, bool[N, E]: some experts at some nodes, two at least where there are two."""
        nodes, experts = self._problem.nodes, self._problem.experts
        some = int(generator.integers(min(2, nodes), nodes + 1))
        share = min(_MOST_COLUMNS, generator.uniform(*_PART) * nodes / some)
        part = np.zeros((nodes, experts), np.bool_)
        part[np.ix_(generator.choice(nodes, some, replace=False), generator.random(experts) < share)] = True
        return part

    def best(self, holds: UInt8, cost: float, part: Bools) -> UInt8 | None:
        """The best placement that differs from holds uint8[N, E], of this cost, in part bool[N, E] alone, or
        a good one where that takes branching; None where none was found. For what `draw` makes some
        hundredths of a second, a few tenths at worst."""
        model = self._programme
        fixed = np.flatnonzero(~part)
        lower, upper = model.lower.copy(), model.upper.copy()
        lower[fixed] = upper[fixed] = holds.reshape(-1)[fixed]
        scale = cost / _SCALE if 0.0 < cost < np.inf else 1.0
        answer = model.within(lower, upper).minimise(scale, _SECONDS, NEIGHBOURHOOD_GAP, _BRANCHES)
        if answer.x is None:
            return None
        found: UInt8 = np.rint(answer.x[: holds.size]).astype(np.uint8).reshape(holds.shape)
        return None if shortfalls(self._problem, found) else found
