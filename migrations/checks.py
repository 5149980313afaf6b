"""What no order of moves can mend, said before any is looked for."""

from __future__ import annotations

import numpy as np

from migrations.diff import Difference
from migrations.model import Limits
from migrations.naming import Names
from migrations.timing import copy_rates
from solvers.feasible.packing import pack
from solvers.problem import PlacementProblem


def impossible(problem: PlacementProblem, change: Difference, limits: Limits, names: Names) -> str | None:
    """Why no order of moves can exist: memory of the target, or an expert without a source."""
    used = change.target.used_bytes(problem)
    lacking = [
        f"{names.node(n)} lacks {used[n] - problem.capacity_bytes[n]} bytes"
        for n in np.flatnonzero(used > problem.capacity_bytes).tolist()
    ]
    if lacking:
        return "the target exceeds the memory: " + listed(lacking)
    several = np.bincount(problem.devices[0], minlength=problem.nodes) != 1
    for n in np.flatnonzero(several & change.missing.any(axis=1)).tolist():
        if pack(problem, n, np.flatnonzero(change.target.holds[n]).astype(np.int64)) is None:
            return f"the target's experts of {names.node(n)} cannot be packed on its devices"
    orphans = [
        f"{names.expert(problem, column)} ({names.node(n)})"
        for n, column in _without_source(problem, change, limits)
    ]
    if orphans:
        return "no node that can be reached holds, and no origin gives: " + listed(orphans)
    return None


def _without_source(problem: PlacementProblem, change: Difference, limits: Limits) -> list[tuple[int, int]]:
    """(node, column) of missing experts that no chain of copies can bring from a holder or the origin."""
    rates = copy_rates(problem, limits) > 0
    link, origin = rates[: problem.nodes], rates[problem.nodes]
    has = change.source.holds.astype(bool) | origin[:, None]
    columns = np.flatnonzero((change.missing & ~has).any(axis=0))
    reached = has[:, columns]
    from_others = link.T.astype(np.float32)  # sums of ones are exact in it
    for _ in range(problem.nodes):
        grown = reached | (from_others @ reached.astype(np.float32) > 0)
        if (grown == reached).all() or not (change.missing[:, columns] & ~grown).any():
            reached = grown
            break
        reached = grown
    lacking = np.argwhere(change.missing[:, columns] & ~reached)
    return [(int(n), int(columns[c])) for n, c in lacking]


def listed(items: list[str]) -> str:
    """The first eight, and how many more there are."""
    shown = ", ".join(items[:8])
    return shown if len(items) <= 8 else f"{shown} and {len(items) - 8} more"
