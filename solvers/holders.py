"""Who holds an expert, nearest first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from solvers.kernels import nearest as kernel
from solvers.problem import Int32, Int64, UInt8


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
