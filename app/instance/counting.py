"""Counts that are added up: in as few bits as they need, since what folding does most is to move them.

Telemetry's counts rarely need more than 16 bits in a time bucket, and are kept in no more until they do.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from solvers.compiled import compiled

Counts = npt.NDArray[np.unsignedinteger[Any]]
"""uint16, uint32 or uint64[n]."""

_TYPES = tuple(np.dtype(kind) for kind in (np.uint16, np.uint32, np.uint64))


def no_counts(number: int) -> Counts:
    """That many zeros."""
    return np.zeros(number, _TYPES[0])


def added(counts: Counts, counted: Counts, at: int = 0) -> tuple[Counts, int]:
    """`counts`, which are used up, with uint8, uint16 or uint32[m] added to those from `at` on; and the sum
    of what was added. O(m), and O(n) each time they need more bits."""
    while counted.itemsize > counts.itemsize or not _add(counts[at : at + len(counted)], counted):
        counts = wider(counts)
    return counts, _sum(counted) if counted.itemsize < 4 else int(counted.sum())


def wider(counts: Counts) -> Counts:
    """The same numbers in the next larger type."""
    return counts.astype(next(kind for kind in _TYPES if kind.itemsize > counts.itemsize))


def low_halves(counts: Counts) -> tuple[npt.NDArray[np.uint16], bool]:
    """The low 16 bits of each, and whether any has more."""
    low = counts.astype(np.uint16, copy=False)
    return low, counts.dtype != np.uint16 and bool(counts.max(initial=0) >> 16)


@compiled
def _add(counts: Counts, counted: Counts) -> bool:
    """Whether there was room; where there was not, nothing is added."""
    carried = False
    for index in range(len(counted)):
        before = counts[index]
        counts[index] = before + counted[index]
        carried |= counts[index] < before
    if carried:
        for index in range(len(counted)):
            counts[index] -= counted[index]
    return not carried


@compiled
def _sum(counted: Counts) -> int:
    """Of uint8 or uint16[n]."""
    total = np.uint64(0)
    # In 32 bits, which are enough for so many, twice as many fit into a register.
    for begin in range(0, len(counted), 1 << 16):
        total += np.uint64(_sum_of_some(counted[begin : begin + (1 << 16)]))
    return int(total)


@compiled
def _sum_of_some(counted: Counts) -> int:
    total = np.uint32(0)
    for index in range(len(counted)):
        total = np.uint32(total + np.uint32(counted[index]))
    return int(total)
