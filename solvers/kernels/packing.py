"""Kernels that put what is to be held where there is room."""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.problem import Int32, Int64, UInt8


@compiled
def pack(sizes: Int64, order: Int64, capacity: Int64, roomiest: bool, free: Int64, out: Int32) -> bool:
    """Puts items int64[I], in `order` int64[I], on devices of `capacity` int64[D]; False where one does not
    fit.

    Each goes to the device with the most free memory (`roomiest`), else to the one it leaves least free; the
    lower index wins among equals. Writes `free` int64[D] and `out` int32[I], the device of each item. O(I
    D).
    """
    for d in range(capacity.shape[0]):
        free[d] = capacity[d]
    for position in range(order.shape[0]):
        item = order[position]
        size = sizes[item]
        chosen = np.int32(-1)
        for d in range(capacity.shape[0]):
            if free[d] < size:
                continue
            if chosen < 0 or (free[d] > free[chosen] if roomiest else free[d] < free[chosen]):
                chosen = np.int32(d)
        if chosen < 0:
            return False
        out[item] = chosen
        free[chosen] -= size
    return True


@compiled
def fill_in_order(order: Int64, size: Int64, free: int, row: UInt8) -> None:
    """Sets row uint8[E] at each expert of order int64[C] that still fits into `free` bytes. O(C)."""
    for e in order:
        if size[e] <= free:
            row[e] = 1
            free -= size[e]
