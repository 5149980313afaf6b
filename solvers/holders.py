"""Who holds an expert, nearest first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from solvers.chunks import ranges, side_by_side
from solvers.kernels import nearest as kernel
from solvers.objective import checked_holds, nearest_nodes
from solvers.problem import Int16, Int32, Int64, PlacementProblem, UInt8


def first_holders(
    held_by: UInt8, order: Sequence[int], columns: Int64, most: int, everywhere: int | None = None
) -> Int32:
    """int32[C, most]: for each of the columns int64[C] the positions in `order`, of nodes, of the first that
    hold the expert; -1 where there are no more. Whatever stands at position `everywhere` holds all.

    held_by uint8[E, N], contiguous: a column's holders are then looked up next to each other. O(positions
    passed).
    """
    found = np.empty((len(columns), most), np.int32)
    places = np.maximum(np.asarray(order, np.int32), 0)
    kernel.first_in_order(held_by, places, columns, -1 if everywhere is None else everywhere, found)
    return found


def nearest_holder(problem: PlacementProblem, holds: UInt8) -> Int16:
    """int16[E, N]: the node that serves each node's calls of each expert, the lower index among equals; -1
    where the origin is nearer, or nobody can. O(N E sqrt(N)), in threads; of at most 32,767 nodes."""
    held = checked_holds(problem, holds)
    held_by: UInt8 = np.ascontiguousarray(held.T)
    offset = np.empty(problem.experts + 1, np.int64)
    holders = kernel.holders_of(held, offset)
    order = nearest_nodes(problem)
    beyond = np.nextafter(problem.origin_latency_seconds, np.inf)  # a node as near as the origin serves
    costs, others = (np.empty(held_by.shape, np.float32) for _ in range(2))
    hosts, seconds = (np.empty(held_by.shape, np.int16) for _ in range(2))

    def some(first: int, last: int) -> None:
        kernel.two_nearest(
            held_by,
            holders,
            offset,
            order,
            problem.latency_seconds,
            beyond,
            first,
            last,
            costs,
            others,
            hosts,
            seconds,
        )

    side_by_side(some, ranges(np.full(problem.experts, problem.nodes)))
    return hosts
