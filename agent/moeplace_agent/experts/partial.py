"""The part of an expert's file that has arrived. Everything here blocks: not for the event loop."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

from moeplace_agent.experts.content import READ_BYTES


class PartialFile:
    """Grows by `append`. What an earlier process left is hashed at the start and counts as arrived; whether
    it is right shows when the digest of the whole is known."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self.path = path
        self._file = path.open("a+b", buffering=0)
        self._hash = hashlib.sha256()
        self._in_use = threading.Lock()
        self.size = 0
        self._file.seek(0)
        while chunk := self._file.read(READ_BYTES):
            self._hash.update(chunk)
            self.size += len(chunk)

    def append(self, parts: Sequence[bytes]) -> None:
        """Raises OSError, after which the file's end is that of before. A fetch that is given up does not
        wait for the thread that writes: what comes after `close` is dropped."""
        data = b"".join(parts)
        view = memoryview(data)
        with self._in_use:
            if self._file.closed:
                return
            try:
                while view:
                    view = view[self._file.write(view) :]
            except OSError:
                self._file.truncate(self.size)
                raise
            self._hash.update(data)
            self.size += len(data)

    def restart(self) -> None:
        """Forget everything that has arrived."""
        self._file.truncate(0)
        self._hash = hashlib.sha256()
        self.size = 0

    def sha256(self) -> str:
        """In hex, of what has arrived."""
        return self._hash.hexdigest()

    def prefix_digests(self, ends: Sequence[int]) -> list[str]:
        """SHA-256 in hex of the first `ends[i]` bytes, for ends in ascending order. Raises OSError."""
        digest, at, found = hashlib.sha256(), 0, []
        with self.path.open("rb") as file:
            for end in ends:
                while at < end and (chunk := file.read(min(READ_BYTES, end - at))):
                    digest.update(chunk)
                    at += len(chunk)
                found.append(digest.hexdigest())
        return found

    def close(self) -> None:
        """Waits for an `append` under way."""
        with self._in_use:
            self._file.close()
