"""Layers of equal size in MessagePack, written alike: what agents send, window after window.

They are a table then: its rows begin with the same bytes but for the layer's number, and are taken as one,
which costs a fraction of an object for each layer.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import overload

import numpy as np
import numpy.typing as npt

from app.telemetry.packed import COUNT
from app.telemetry.schemas import MAX_PARTS, LayerCounts

_BEFORE_NUMBER = b"\x82\xa5layer"  # a map of two; the number follows in one byte
_BEFORE_COUNTS = b"\xa6counts"
_NUMBER = len(_BEFORE_NUMBER)
_BIN = _NUMBER + 1 + len(_BEFORE_COUNTS)
_BIN_KINDS = {1: 0xC4, 2: 0xC5, 4: 0xC6}
"""By the bytes that the length has, which follows."""
_FIRST_WIDER_NUMBER = 0x80
_ARRAY_BYTES = 3


class Rows(Sequence[LayerCounts]):
    """numbers: of the layers; counts uint32[layers, experts], where they lie in the body."""

    def __init__(self, numbers: tuple[int, ...], counts: npt.NDArray[np.uint32]) -> None:
        self.numbers = numbers
        self.counts = counts

    @property
    def count_bytes(self) -> tuple[int, ...]:
        """Of each layer."""
        return (self.counts.shape[1] * COUNT.itemsize,) * len(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> LayerCounts: ...
    @overload
    def __getitem__(self, index: slice) -> "Rows": ...
    def __getitem__(self, index: int | slice) -> "LayerCounts | Rows":
        if isinstance(index, slice):
            return Rows(self.numbers[index], self.counts[index])
        return LayerCounts(self.numbers[index], self.counts[index].tobytes())

    def __iter__(self) -> Iterator[LayerCounts]:
        return (self[index] for index in range(len(self)))


def rows(layers: memoryview) -> Rows | None:
    """Of the MessagePack array of a window's layers; None where they are written in any other way."""
    form = _form(len(layers), bytes(layers[:_ARRAY_BYTES]))
    if form is None:
        return None
    begin, number, stride, head = form
    table = np.frombuffer(layers, np.uint8, offset=begin).reshape(number, stride)
    numbers = _numbers(head, stride, table[:, :head].tobytes())
    if numbers is None:
        return None
    return Rows(numbers, table[:, head:].view(COUNT))


# A model's layers are written the same way in each of its windows: they are looked at once.


@lru_cache(maxsize=64)
def _form(size: int, first: bytes) -> tuple[int, int, int, int] | None:
    """Where the first row begins, how many there are, the bytes of one and of its head; of rows of that size
    together, in an array that begins so."""
    begin, number = _array(first)
    if not 0 < number <= MAX_PARTS:
        return None
    stride, rest = divmod(size - begin, number)
    head = _BIN + 1 + _length_bytes(stride)
    if rest or stride <= head or (stride - head) % COUNT.itemsize:
        return None
    return begin, number, stride, head


@lru_cache(maxsize=64)
def _numbers(head: int, stride: int, heads: bytes) -> tuple[int, ...] | None:
    """Of the layers; None unless all heads are alike but for them."""
    width = _length_bytes(stride)
    length = bytes([_BIN_KINDS[width]]) + (stride - head).to_bytes(width, "big")
    numbers = heads[_NUMBER::head]
    alike = (_BEFORE_NUMBER + bytes([number]) + _BEFORE_COUNTS + length for number in numbers)
    if max(numbers) >= _FIRST_WIDER_NUMBER or heads != b"".join(alike):
        return None
    return tuple(numbers)


def _length_bytes(stride: int) -> int:
    """In which the length of a row's counts is written, as few as there may be."""
    return next(width for width in _BIN_KINDS if width == 4 or stride - _BIN - 1 - width < 1 << 8 * width)


def _array(first: bytes) -> tuple[int, int]:
    """Bytes of the array's head, and its elements."""
    if first and 0x90 <= first[0] <= 0x9F:
        return 1, first[0] & 0x0F
    if first and first[0] == 0xDC:
        return _ARRAY_BYTES, int.from_bytes(first[1:], "big")
    return 1, 0
