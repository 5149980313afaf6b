"""Counts that are added up: in as few bits as they need, since what folding does most is to move them.

Telemetry's counts rarely need more than 16 bits in a time bucket, and are kept in no more until they do.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from solvers.compiled import brief

Counts = npt.NDArray[np.unsignedinteger[Any]]
"""uint16, uint32 or uint64[n]."""

_TYPES = tuple(np.dtype(kind) for kind in (np.uint16, np.uint32, np.uint64))
NARROWEST_BYTES = _TYPES[0].itemsize


def no_counts(number: int) -> Counts:
    """That many zeros."""
    return np.zeros(number, _TYPES[0])


def added(counts: Counts, counted: Counts, at: int = 0) -> tuple[Counts, int]:
    """`counts`, which are used up, with uint8, uint16 or uint32[m] added to those from `at` on; and the sum
    of what was added. O(m), and O(n) each time they need more bits."""
    while True:
        if counted.itemsize <= counts.itemsize:
            total = _add(counts[at : at + len(counted)], counted)
            if total >= 0:
                return counts, total
        counts = wider(counts)


def wider(counts: Counts) -> Counts:
    """The same numbers in the next larger type."""
    return counts.astype(next(kind for kind in _TYPES if kind.itemsize > counts.itemsize))


def low_halves(counts: Counts) -> tuple[npt.NDArray[np.uint16], bool]:
    """The low 16 bits of each, and whether any has more."""
    low = counts.astype(np.uint16, copy=False)
    return low, counts.dtype != np.uint16 and bool(counts.max(initial=0) >> 16)


def warm() -> None:
    """Compiles, or loads from numba's cache, the kernel with all types it is used with: some tenths of a
    second with a warm cache, seconds without."""
    for kind in _TYPES:
        for counted in (np.frombuffer(bytes(4), size) for size in ("<u1", "<u2", "<u4")):
            if counted.itemsize <= kind.itemsize:
                _add(np.zeros(len(counted), kind), counted)


@brief
def _sum(counted: Counts) -> int:
    total = np.uint32(0)
    for index in range(len(counted)):
        total = np.uint32(total + np.uint32(counted[index]))
    return int(total)


@brief
def _add(counts: Counts, counted: Counts) -> int:
    """The sum of what was added; -1 where there was no room, and nothing is."""
    carried = False
    for index in range(len(counted)):
        before = counts[index]
        counts[index] = before + counted[index]
        carried |= counts[index] < before
    if carried:
        for index in range(len(counted)):
            counts[index] -= counted[index]
        return -1
    total = 0
    if counted.itemsize > 2:
        for index in range(len(counted)):
            total += int(counted[index])
        return total
    # In 32 bits, which are enough for so many of 16, twice as many fit into a register.
    for begin in range(0, len(counted), 1 << 16):
        total += _sum(counted[begin : begin + (1 << 16)])
    return total
