"""The constraints of a placement, each violation in words."""

from __future__ import annotations

import numpy as np

from solvers.objective import checked_holds
from solvers.packing import pack
from solvers.problem import PlacementProblem, UInt8


def shortfalls(problem: PlacementProblem, holds: UInt8) -> tuple[str, ...]:
    """One line per constraint violated (memory or packing of a node, coverage, pins, a drained node); empty
    means feasible. Each line names the first offender and how many there are. O(N E)."""
    held = checked_holds(problem, holds)
    found: list[str] = []
    used = held.astype(np.int64) @ problem.column_bytes
    for node in range(problem.nodes):
        if used[node] > problem.capacity_bytes[node]:
            found.append(
                f"node {node} holds {used[node]} bytes, its capacity is {problem.capacity_bytes[node]}"
            )
        elif pack(problem, node, np.flatnonzero(held[node]).astype(np.int64)) is None:
            found.append(f"node {node} cannot pack its experts on its devices")
    missing = np.flatnonzero(held.sum(axis=0, dtype=np.int64) < problem.min_replicas)
    if len(missing):
        column = int(missing[0])
        found.append(
            f"{len(missing)} experts have fewer than {problem.min_replicas} replicas, "
            f"first {expert_name(problem, column)} with {int(held[:, column].sum())}"
        )
    if problem.pins is not None:
        for value, words in ((1, "absent where they are pinned"), (-1, "held where they must not be")):
            wrong = np.argwhere((problem.pins == value) & (held != (value == 1)))
            if len(wrong):
                node, column = (int(i) for i in wrong[0])
                found.append(
                    f"{len(wrong)} experts are {words}, first {expert_name(problem, column)} at node {node}"
                )
    if problem.drained is not None:
        holding = np.flatnonzero((problem.drained == 1) & held.any(axis=1)).tolist()
        found.extend(f"drained node {node} holds {int(held[node].sum())} experts" for node in holding)
    return tuple(found)


def expert_name(problem: PlacementProblem, column: int) -> str:
    """The expert of a column, in words."""
    block = int(problem.column_block[column])
    return f"expert {column - int(problem.block_offset[block])} of block {block}"
