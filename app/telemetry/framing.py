"""Windows out of a stream of bytes: lines of JSON, or MessagePack values one after another."""

import struct
from collections.abc import Iterator
from typing import Protocol

from app.errors import BodyTooLarge
from app.telemetry.decoding import MAX_LISTED_BYTES, Malformed

MAX_WINDOW_BYTES = 2 << 20
"""One window, inflated; a stream may hold any number."""

MAX_VALUES = MAX_LISTED_BYTES
"""In one window: no more fit in one that may give numbers in lists, and larger ones are packed. Each value
has to be looked at to find where the window ends."""


MAX_BLANK_LINES = 1000
"""In a row: they cost nothing to send when compressed, and time to look at."""


MAX_STRANGE_VALUES = 16
"""In a row that are no maps: no window is one of them, and a byte may be one."""


class Framing(Protocol):
    @property
    def buffered(self) -> int:
        """Bytes kept of a window that is not complete."""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The windows that are complete with this piece. Raises `BodyTooLarge` or `Malformed`."""

    def finish(self) -> Iterator[bytes]:
        """What is left when the stream ended. Raises `Malformed` if that is the beginning of a window."""


class Lines:
    """Newline-delimited JSON; empty lines are skipped, the last newline may be missing."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._blank = 0

    @property
    def buffered(self) -> int:
        return len(self._buffer)

    def feed(self, piece: bytes) -> Iterator[bytes]:
        searched = len(self._buffer)
        self._buffer += piece
        start = 0
        while (end := self._buffer.find(b"\n", max(start, searched))) >= 0:
            if end - start > MAX_WINDOW_BYTES:
                break
            line = bytes(self._buffer[start:end]).strip()
            start = end + 1
            self._blank = 0 if line else self._blank + 1
            if line:
                yield line
            elif self._blank > MAX_BLANK_LINES:
                raise Malformed(f"more than {MAX_BLANK_LINES} blank lines, expected a window")
        del self._buffer[:start]
        _check_size(len(self._buffer))

    def finish(self) -> Iterator[bytes]:
        line = bytes(self._buffer).strip()
        if line:
            yield line


def _check_size(size: int) -> None:
    if size > MAX_WINDOW_BYTES:
        raise BodyTooLarge(f"a window is larger than {MAX_WINDOW_BYTES} bytes")


_UNSIGNED = {1: struct.Struct(">B"), 2: struct.Struct(">H"), 4: struct.Struct(">I")}
# First byte -> (bytes of the head after it, of them bytes that say a length, kind): "v" a value of fixed
# size, "b" bytes of that length follow, "a"/"m" that many values or pairs follow.
_HEADS: dict[int, tuple[int, int, str]] = {
    0xC0: (0, 0, "v"),
    0xC2: (0, 0, "v"),
    0xC3: (0, 0, "v"),
    0xC4: (1, 1, "b"),
    0xC5: (2, 2, "b"),
    0xC6: (4, 4, "b"),
    0xC7: (2, 1, "b"),
    0xC8: (3, 2, "b"),
    0xC9: (5, 4, "b"),
    0xCA: (4, 0, "v"),
    0xCB: (8, 0, "v"),
    0xCC: (1, 0, "v"),
    0xCD: (2, 0, "v"),
    0xCE: (4, 0, "v"),
    0xCF: (8, 0, "v"),
    0xD0: (1, 0, "v"),
    0xD1: (2, 0, "v"),
    0xD2: (4, 0, "v"),
    0xD3: (8, 0, "v"),
    0xD4: (2, 0, "v"),
    0xD5: (3, 0, "v"),
    0xD6: (5, 0, "v"),
    0xD7: (9, 0, "v"),
    0xD8: (17, 0, "v"),
    0xD9: (1, 1, "b"),
    0xDA: (2, 2, "b"),
    0xDB: (4, 4, "b"),
    0xDC: (2, 2, "a"),
    0xDD: (4, 4, "a"),
    0xDE: (2, 2, "m"),
    0xDF: (4, 4, "m"),
}


class Values:
    """MessagePack values without anything between them.

    The end of a value is found by counting how many values are still to come, and the count survives from
    one piece to the next, so every byte is looked at once.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        self._missing = 1
        self._values = 0
        self._strange = 0

    @property
    def buffered(self) -> int:
        return len(self._buffer)

    def feed(self, piece: bytes) -> Iterator[bytes]:
        self._buffer += piece
        while self._advance():
            value = bytes(self._buffer[: self._at])
            del self._buffer[: self._at]
            self._at, self._missing, self._values = 0, 1, 0
            self._strange = 0 if _is_map(value[0]) else self._strange + 1
            if self._strange > MAX_STRANGE_VALUES:
                raise Malformed(
                    f"more than {MAX_STRANGE_VALUES} values in a row are not maps, expected windows"
                )
            yield value
        _check_size(max(len(self._buffer), self._at))

    def finish(self) -> Iterator[bytes]:
        if self._buffer:
            raise Malformed("the last window is truncated")
        yield from ()

    def _advance(self) -> bool:
        """Move on until the value ends (True) or more bytes are needed."""
        buffer, at, missing, values = self._buffer, self._at, self._missing, self._values
        size = len(buffer)
        while missing and at < size:
            values += 1
            if values + missing > MAX_VALUES:
                raise Malformed(f"a window has more than {MAX_VALUES} values: numbers must be packed")
            first = buffer[at]
            if first < 0x80 or first >= 0xE0:
                at += 1
                missing -= 1
            elif first < 0x90:
                at += 1
                missing += 2 * (first & 0x0F) - 1
            elif first < 0xA0:
                at += 1
                missing += (first & 0x0F) - 1
            elif first < 0xC0:
                at += 1 + (first & 0x1F)
                missing -= 1
            else:
                head = _HEADS.get(first)
                if head is None:
                    raise Malformed(f"byte 0x{first:02x} begins no MessagePack value")
                extra, length_bytes, kind = head
                if at + 1 + extra > size and kind != "v":
                    break
                at += 1 + extra
                missing -= 1
                if length_bytes:
                    start = at - extra
                    length = _UNSIGNED[length_bytes].unpack_from(buffer, start)[0]
                    if kind == "b":
                        at += length
                    else:
                        missing += length if kind == "a" else 2 * length
            _check_size(at)
        self._at, self._missing, self._values = at, missing, values
        return missing == 0 and at <= size


def _is_map(first: int) -> bool:
    """Whether the value that begins with this byte is a map."""
    return 0x80 <= first <= 0x8F or first in (0xDE, 0xDF)


def has_several(body: bytes) -> bool:
    """Whether more bytes follow the first MessagePack value."""
    try:
        first = next(iter(Values().feed(body)), None)
    except (Malformed, BodyTooLarge):
        return False
    return first is not None and len(first) < len(body)
