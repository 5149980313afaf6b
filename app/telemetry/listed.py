"""Lists of whole numbers in JSON, packed without making an object of each number.

Eight digits are one 64-bit word, and a word becomes its number by three multiplications (the trick is known
as SWAR), done here for all numbers of a window at once.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from app.telemetry.packed import COUNT, MAX_COUNT

_ZEROS = b"0" * 16
_COMMA = ord(",")
_WHITESPACE = b" \t\n\r"

_WORD = 8

_DIGITS = np.asarray(
    [0] + [0x0F0F_0F0F_0F0F_0F0F >> 8 * other << 8 * other for other in range(_WORD - 1, -1, -1)], np.uint64
)
"""Keeps the values of a word's last n digits."""

_STEPS = [
    (np.uint64(10 << 8 | 1), np.uint64(8), np.uint64(0x00FF_00FF_00FF_00FF)),
    (np.uint64(100 << 16 | 1), np.uint64(16), np.uint64(0x0000_FFFF_0000_FFFF)),
    (np.uint64(10_000 << 32 | 1), np.uint64(32), np.uint64(0x0000_0000_FFFF_FFFF)),
]
"""Digits to pairs, pairs to fours, fours to all eight."""


def pack_lists(lists: Sequence[memoryview]) -> list[bytes] | None:
    """uint32 little-endian of each list. None unless all are lists that are not empty, of plain numbers in
    0..2^32 - 1: whoever wants to know what is wrong must look at them one by one.

    lists: valid JSON values.
    """
    if not lists or any(it[0] != ord("[") for it in lists):
        return None
    inner = [bytes(it[1:-1]) for it in lists]
    return _pack(inner) or _pack([it.translate(None, _WHITESPACE) for it in inner])


def _pack(inner: Sequence[bytes]) -> list[bytes] | None:
    """inner: numbers with a comma between each two, and no white space."""
    text = b",".join([_ZEROS, *inner, b""])
    characters = np.frombuffer(text, np.uint8)
    commas = np.flatnonzero(characters == _COMMA)
    if np.count_nonzero(characters - np.uint8(ord("0")) > 9) != len(commas):
        return None
    ends = commas[1:]
    lengths = ends - commas[:-1]
    lengths -= 1
    longest = int(lengths.max())
    if int(lengths.min()) < 1 or longest > 2 * _WORD:
        return None
    # Eight characters from any place on. As void, which is copied as it is, they are gathered fastest.
    anywhere = np.ndarray(len(text) - _WORD + 1, "V8", text, strides=(1,))
    numbers = _number(anywhere.take(ends - _WORD), np.minimum(lengths, _WORD))
    if longest > _WORD:
        high = _number(anywhere.take(ends - 2 * _WORD), np.maximum(lengths - _WORD, 0))
        numbers += np.uint64(10**_WORD) * high
        if int(numbers.max()) > MAX_COUNT:
            return None
    packed = numbers.astype(COUNT).tobytes()
    last = np.cumsum([len(it) + 1 for it in inner]) + len(_ZEROS)
    after = (np.searchsorted(ends, last) + 1) * COUNT.itemsize
    cuts = [0, *after.tolist()]
    return [packed[start:end] for start, end in pairwise(cuts)]


def _number(words: npt.NDArray[np.void], digits: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """What the last `digits` (0..8) of each word's eight characters say; the first is in the low byte."""
    numbers = words.view("<u8") & _DIGITS.take(digits)
    for factor, shift, mask in _STEPS:
        numbers *= factor
        numbers >>= shift
        numbers &= mask
    return numbers
