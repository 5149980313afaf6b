"""What separates two placements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from migrations.model import PlanError
from solvers.placement import Placement
from solvers.problem import Int64, PlacementProblem, ProblemError, UInt8


@dataclass(frozen=True, eq=False)
class Difference:
    """source, target uint8[N, E]; missing and superfluous bool[N, E]: what to copy in and what to drop. A
    planner adds to what is missing where an expert is only to pass through a node.

    keep int64[E]: serving copies each expert must have at every instant, min(min_replicas, copies in the
    source, copies in the target).
    """

    source: Placement
    target: Placement
    missing: np.ndarray[tuple[int, int], np.dtype[np.bool_]]
    superfluous: np.ndarray[tuple[int, int], np.dtype[np.bool_]]
    keep: Int64


def difference(problem: PlacementProblem, source_holds: UInt8, target_holds: UInt8) -> Difference:
    """Compare two placements uint8[N, E] of one problem.

    Raises `PlanError` naming source_holds or target_holds on a wrong shape or an entry other than 0 or 1.
    O(N E).
    """
    source = _placement(problem, "source_holds", source_holds)
    target = _placement(problem, "target_holds", target_holds)
    before, after = source.holds.astype(bool), target.holds.astype(bool)
    copies = np.minimum(before.sum(axis=0, dtype=np.int64), after.sum(axis=0, dtype=np.int64))
    return Difference(
        source=source,
        target=target,
        missing=after & ~before,
        superfluous=before & ~after,
        keep=np.minimum(copies, problem.min_replicas),
    )


def _placement(problem: PlacementProblem, key: str, holds: UInt8) -> Placement:
    try:
        placement = Placement(holds)
    except ProblemError as error:
        raise PlanError(f"{key}: {error}") from None
    expected = (problem.nodes, problem.experts)
    if placement.holds.shape != expected:
        raise PlanError(f"{key}: has shape {placement.holds.shape}, expected {expected}")
    return placement
