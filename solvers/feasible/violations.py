"""The constraints of a placement, each violation in words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from solvers.cost.evaluate import checked_holds
from solvers.feasible.packing import pack
from solvers.problem import PlacementProblem, UInt8


def node_by_index(node: int) -> str:
    return f"node {node}"


def expert_by_index(block: int, expert: int) -> str:
    return f"expert {expert} of block {block}"


def shortfalls(
    problem: PlacementProblem,
    holds: UInt8,
    *,
    node: Callable[[int], str] = node_by_index,
    expert: Callable[[int, int], str] = expert_by_index,
) -> tuple[str, ...]:
    """One line per constraint violated (memory or packing of a node, coverage, pins, a drained node); empty
    means feasible. Each line names the first offender and how many there are. O(N E).

    node, expert: the words for a node, by index, and for an expert, by block and id within it.
    """

    def expert_of(column: int) -> str:
        block = int(problem.column_block[column])
        return expert(block, column - int(problem.block_offset[block]))

    held = checked_holds(problem, holds)
    found: list[str] = []
    used = held.astype(np.int64) @ problem.column_bytes
    for row in range(problem.nodes):
        if used[row] > problem.capacity_bytes[row]:
            found.append(
                f"{node(row)} holds {used[row]} bytes, its capacity is {problem.capacity_bytes[row]}"
            )
        elif pack(problem, row, np.flatnonzero(held[row]).astype(np.int64)) is None:
            found.append(f"{node(row)} cannot pack its experts on its devices")
    missing = np.flatnonzero(held.sum(axis=0, dtype=np.int64) < problem.min_replicas)
    if len(missing):
        column = int(missing[0])
        found.append(
            f"{len(missing)} experts have fewer than {problem.min_replicas} replicas, "
            f"first {expert_of(column)} with {int(held[:, column].sum())}"
        )
    if problem.pins is not None:
        for value, words in ((1, "absent where they are pinned"), (-1, "held where they must not be")):
            wrong = np.argwhere((problem.pins == value) & (held != (value == 1)))
            if len(wrong):
                row, column = (int(i) for i in wrong[0])
                found.append(f"{len(wrong)} experts are {words}, first {expert_of(column)} at {node(row)}")
    if problem.drained is not None:
        holding = np.flatnonzero((problem.drained == 1) & held.any(axis=1)).tolist()
        found.extend(
            f"{node(row)} may hold nothing, and holds {int(held[row].sum())} experts" for row in holding
        )
    return tuple(found)


def expert_name(problem: PlacementProblem, column: int) -> str:
    """The expert of a column, in words."""
    block = int(problem.column_block[column])
    return expert_by_index(block, column - int(problem.block_offset[block]))
