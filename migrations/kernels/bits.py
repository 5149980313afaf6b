"""Sets of senders as bits: bit m % 64 of word m // 64."""

from __future__ import annotations

from typing import Final

import numpy as np

from migrations.kernels.arrays import Words
from solvers.compiled import compiled

_ONE: Final = np.uint64(1)
_HALVES: Final = tuple(
    (np.uint64(width), np.uint64((1 << width) - 1), width) for width in (32, 16, 8, 4, 2, 1)
)


@compiled
def has(sets: Words, row: int, member: int) -> bool:
    return bool(sets[row, member // 64] >> np.uint64(member % 64) & _ONE != 0)


@compiled
def put(sets: Words, row: int, member: int) -> None:
    sets[row, member // 64] |= _ONE << np.uint64(member % 64)


@compiled
def remove(sets: Words, row: int, member: int) -> None:
    sets[row, member // 64] &= ~(_ONE << np.uint64(member % 64))


@compiled
def members(sets: Words, row: int, out: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
    """Write the members of a row into `out`, lowest first; how many there are. O(words + members)."""
    count = 0
    for w in range(sets.shape[1]):
        word = sets[row, w]
        while word != 0:
            out[count] = 64 * w + lowest(word)
            count += 1
            word &= word - _ONE
    return count


@compiled
def lowest(word: np.uint64) -> int:
    """The lowest bit of a word that is not 0."""
    at = 0
    for width, mask, step in _HALVES:
        if word & mask == 0:
            word >>= width
            at += step
    return at
