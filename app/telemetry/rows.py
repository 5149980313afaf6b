"""Layers of equal size in MessagePack, written alike: what agents send, window after window.

They are a table then: its rows begin with the same bytes but for the layer's number, and are taken as one,
which costs a fraction of an object for each layer.
"""

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from app.telemetry.packed import COUNT
from app.telemetry.schemas import LayerCounts

_BEFORE_NUMBER = b"\x82\xa5layer"  # a map of two; the number follows in one byte
_BEFORE_COUNTS = b"\xa6counts"
_NUMBER = len(_BEFORE_NUMBER)
_BIN = _NUMBER + 1 + len(_BEFORE_COUNTS)
_BIN_LENGTH_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_FIRST_WIDER_NUMBER = 0x80


class Rows(Sequence[LayerCounts]):
    """numbers: of the layers; counts uint32[layers, experts]."""

    def __init__(self, numbers: list[int], counts: npt.NDArray[np.uint32]) -> None:
        self.numbers = numbers
        self.counts = counts

    @property
    def count_bytes(self) -> list[int]:
        """Of each layer."""
        return [self.counts.shape[1] * COUNT.itemsize] * len(self.numbers)

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
    begin, number = _array(layers)
    stride, rest = divmod(len(layers) - begin, number or 1)
    if rest or stride <= _BIN or not number:
        return None
    table = np.frombuffer(layers, np.uint8, offset=begin).reshape(number, stride)
    head = _BIN + 1 + _BIN_LENGTH_BYTES.get(int(table[0, _BIN]), stride)
    size = stride - head
    given = layers[begin + _BIN : begin + head].tobytes()
    if size <= 0 or size % COUNT.itemsize or int.from_bytes(given[1:], "big") != size:
        return None
    heads = table[:, :head].copy()
    numbers = heads[:, _NUMBER].tolist()
    heads[:, _NUMBER] = 0
    if heads.tobytes() != (_BEFORE_NUMBER + b"\0" + _BEFORE_COUNTS + given) * number:
        return None
    if max(numbers) >= _FIRST_WIDER_NUMBER:
        return None
    return Rows(numbers, np.ascontiguousarray(table[:, head:]).view(COUNT))


def _array(layers: memoryview) -> tuple[int, int]:
    """Bytes of the array's head, and its elements."""
    first = layers[0] if len(layers) else 0
    if 0x90 <= first <= 0x9F:
        return 1, first & 0x0F
    if first == 0xDC:
        return 3, int.from_bytes(layers[1:3], "big")
    return 1, 0
