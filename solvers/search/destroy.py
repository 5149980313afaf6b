"""Which part of a placement a round of the search takes out, and what it puts there instead."""

from __future__ import annotations

import numpy as np

from solvers.problem import Float64, Int64, PlacementProblem, UInt8

THRESHOLDS = (0.15, 0.85)
"""A fraction of a relaxed placement above a threshold, drawn per block from this range, becomes a replica."""
_RELAXED_SHARE = 0.5  # of the rounds take the relaxed placement for the part that is taken out
_EXCHANGED_SHARE = 0.2  # of the rounds have the chosen nodes exchange the part with each other
_PART_SHARE = 0.8  # of the rounds spare some experts of every block
_PARTS = (0.1, 0.8)  # of the experts are not spared in those rounds
_NEIGHBOURS_SHARE = 0.7  # of the rounds choose nodes near each other, in a fleet of many nodes
_MANY_NODES = 16  # a fleet of more nodes is one of many
_SHAPES = (  # (share of the nodes, blocks); a share of 0 means two nodes, 0 blocks mean all
    (0.34, 0),
    (0.67, 0),
    (0.0, 0),
    (0.5, 4),
    (0.5, 8),
    (1.0, 2),
    (1.0, 4),
)


class Destroyer:
    """Takes parts out of placements by chance. blocks int64: those with traffic; pinned uint8[N, E] stays."""

    def __init__(self, problem: PlacementProblem, blocks: Int64, pinned: UInt8) -> None:
        self._problem, self._blocks, self._pinned = problem, blocks, pinned

    def ruined(self, holds: UInt8, relaxed: Float64, generator: np.random.Generator) -> UInt8:
        """A copy of holds uint8[N, E] in which some experts at some nodes are taken out, exchanged between
        these nodes, or replaced by relaxed float64[N, E], rounded. It need not be feasible."""
        problem = self._problem
        blocks = len(self._blocks)
        share, width = _SHAPES[int(generator.integers(len(_SHAPES)))]
        chosen = self._nodes(share, generator)
        columns = np.ones(problem.experts, np.bool_)
        if 0 < width < blocks:
            # where the relaxation sees it otherwise there is more to find
            doubt = np.abs(relaxed - holds).sum(axis=0)
            weight = 0.1 + np.add.reduceat(doubt, problem.block_offset[self._blocks])
            picked = generator.choice(self._blocks, width, replace=False, p=weight / weight.sum())
            columns = np.isin(problem.column_block, picked)
        if generator.random() < _PART_SHARE:
            columns &= generator.random(problem.experts) < generator.uniform(*_PARTS)
        found = holds.copy()
        part = np.ix_(chosen, columns)
        kind = generator.random()
        if kind < _RELAXED_SHARE:
            threshold = generator.uniform(*THRESHOLDS, problem.blocks)[problem.column_block[columns]]
            found[part] = np.maximum(relaxed[part] > threshold, self._pinned[part])
        elif kind < _RELAXED_SHARE + _EXCHANGED_SHARE:
            others = holds[np.ix_(generator.permutation(chosen), columns)]
            found[part] = np.maximum(others, self._pinned[part])
        else:
            found[part] = self._pinned[part]
        return found

    def _nodes(self, share: float, generator: np.random.Generator) -> Int64:
        nodes = self._problem.nodes
        number = min(nodes, max(2, round(share * nodes)))
        if nodes > _MANY_NODES and generator.random() < _NEIGHBOURS_SHARE:
            # what many nodes far apart have to gain from each other, they gain in several rounds
            number = min(number, int(generator.integers(2, _MANY_NODES + 1)))
            centre = int(generator.integers(nodes))
            near = np.argsort(self._problem.latency_seconds[centre], kind="stable")
            return near[:number].astype(np.int64)
        return generator.choice(nodes, number, replace=False)
