"""The bytes of one expert's file, wherever they lie."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive bytes: those given, or `length` of a file from `offset`."""

    length: int
    data: bytes | None = None
    path: Path | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Content:
    """Pieces in their order. Nothing is read before it is asked for."""

    pieces: tuple[Piece, ...]

    @classmethod
    def of_file(cls, path: Path, size: int) -> Content:
        return cls((Piece(size, path=path),))

    @property
    def size(self) -> int:
        return sum(piece.length for piece in self.pieces)

    def sha256(self) -> str:
        """In hex; reads everything, a little at a time. Raises OSError."""
        digest = hashlib.sha256()
        with ContentReader(self) as reader:
            for chunk in reader.chunks(0, self.size, READ_BYTES):
                digest.update(chunk)
        return digest.hexdigest()


class Served(NamedTuple):
    """An expert that may be sent: the bytes of its file and their SHA-256 in hex."""

    content: Content
    digest: str


class ContentReader:
    """Open files of a content: what is removed meanwhile can still be read to its end. Blocks: not for the
    event loop."""

    def __init__(self, content: Content) -> None:
        """Raises OSError where a file is not there."""
        self._content = content
        self._files: dict[Path, int] = {}
        try:
            for piece in content.pieces:
                if piece.path is not None and piece.path not in self._files:
                    self._files[piece.path] = os.open(piece.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from `start`, fewer at the end. Raises OSError where a file has become shorter."""
        parts: list[bytes] = []
        at = 0
        for piece in self._content.pieces:
            begin, end = max(start, at), min(start + length, at + piece.length)
            if begin < end:
                parts.append(self._part(piece, begin - at, end - begin))
            at += piece.length
            if at >= start + length:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def chunks(self, start: int, end: int, size: int) -> Iterator[bytes]:
        """The bytes of [start, end) in chunks of at most `size`."""
        for at in range(start, end, size):
            yield self.read(at, min(size, end - at))

    def _part(self, piece: Piece, offset: int, length: int) -> bytes:
        if piece.data is not None:
            return piece.data[offset : offset + length]
        assert piece.path is not None
        descriptor = self._files[piece.path]
        found: list[bytes] = []
        at, left = piece.offset + offset, length
        while left:
            read = os.pread(descriptor, left, at)
            if not read:
                raise OSError(f"{piece.path.name}: ends at byte {at}, {left} bytes too early")
            found.append(read)
            at, left = at + len(read), left - len(read)
        return found[0] if len(found) == 1 else b"".join(found)
