"""Who holds an expert, nearest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from solvers.chunks import even_ranges, side_by_side
from solvers.kernels import nearest as kernel
from solvers.problem import Float64, Int16, Int32, Int64, UInt8

_AnyArray = TypeVar("_AnyArray", bound=npt.NDArray[Any])


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


def nearest_holder(latency: Float64, within: Float64, holds: UInt8) -> Int16:
    """int16[E, N]: the node whose latency float64[N, N] to hold an expert is least, the lower index among
    equals; -1 where none is below within float64[N]. holds uint8[N, E]. O(N E sqrt(N)), in threads; of at
    most 32,767 nodes."""
    held = _read_only(np.ascontiguousarray(holds, dtype=np.uint8))
    latency, within = _read_only(np.ascontiguousarray(latency)), _read_only(np.ascontiguousarray(within))
    nodes, experts = held.shape
    held_by: UInt8 = np.ascontiguousarray(held.T)
    offset = np.empty(experts + 1, np.int64)
    holders = kernel.holders_of(held, offset)
    order = np.argsort(latency, axis=1, kind="stable").astype(np.int64)
    costs, others = (np.empty(held_by.shape, np.float32) for _ in range(2))
    hosts, seconds = (np.empty(held_by.shape, np.int16) for _ in range(2))

    def some(first: int, last: int) -> None:
        kernel.two_nearest(
            held_by,
            holders,
            offset,
            order,
            latency,
            within,
            first,
            last,
            costs,
            others,
            hosts,
            seconds,
        )

    side_by_side(some, even_ranges(experts, nodes))
    return hosts


def _read_only(array: _AnyArray) -> _AnyArray:
    """A view that nobody can write through: one type for the kernels, whoever made the array."""
    view = array.view()
    view.flags.writeable = False
    return view
