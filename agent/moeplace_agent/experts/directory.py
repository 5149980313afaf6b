"""The experts a node has on disk.

    experts/{device_id}/{model_id}/{layer}/{expert}.{sha256}.safetensors    whole and verified
    partial/{model_id}/{layer}/{expert}.{sha256}                            what has arrived so far

The tree is the only record: a file gets its place by rename, once its bytes are on disk and have the digest
that its name says. So whenever the process is killed, what lies under `experts` was whole; and since disks
and people change bytes afterwards, everything is hashed again at the start. Nothing here may run on the event
loop but `find` and `entries`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from moeplace_agent.experts.content import Content
from moeplace_agent.experts.safetensors import EXPERT_FORMAT, MalformedFile, read_contents
from moeplace_agent.holdings import ExpertKey, is_id

logger = logging.getLogger(__name__)

MAX_PARTIALS = 8
"""Interrupted downloads kept; the newest."""

_TELL_SECONDS = 5.0
"""Between two lines on how far verifying has come."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(r"(\d{1,5})\.([0-9a-f]{64})\.safetensors")
_PARTIAL = re.compile(r"(\d{1,5})\.([0-9a-f]{64})")


class DirectoryInUse(Exception):
    """Another process keeps its experts there; one line for an operator."""


@dataclass(frozen=True, slots=True)
class StoredExpert:
    """A whole expert on disk. `data_bytes`: what its tensors take in memory; `stamp` tells whether the file
    is still the one that was verified."""

    key: ExpertKey
    device_id: str
    path: Path
    digest: str
    size: int
    data_bytes: int
    stamp: tuple[int, int, int, int]

    @property
    def content(self) -> Content:
        return Content.of_file(self.path, self.size)

    def unchanged(self) -> bool:
        try:
            return _stamp(self.path) == self.stamp
        except OSError:
            return False


class ExpertDirectory:
    """One process at a time; `close` lets go of it."""

    def __init__(self, root: Path) -> None:
        """Raises `DirectoryInUse` and OSError."""
        self._experts = root / "experts"
        self._partials = root / "partial"
        for directory in (root, self._experts, self._partials):
            directory.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise DirectoryInUse(f"{root}: another agent keeps its experts there") from None
        self._whole: dict[ExpertKey, StoredExpert] = {}
        self._closed = False

    def close(self) -> None:
        self._closed = True
        os.close(self._lock)

    def find(self, key: ExpertKey) -> StoredExpert | None:
        return self._whole.get(key)

    def entries(self) -> list[StoredExpert]:
        return list(self._whole.values())

    # --- at the start
    def recover(self) -> list[StoredExpert]:
        """Verify every file; what is not whole is deleted. Returns what is, in order of key; `close`, from
        another thread, ends it early."""
        begun = told = time.monotonic()
        files = list(self._files())
        # hashlib and pread let go of the interpreter: threads are enough.
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            for count, stored in enumerate(pool.map(self._verified, files), start=1):
                if stored is not None:
                    self._recover(stored)
                if time.monotonic() - told >= _TELL_SECONDS:
                    told = time.monotonic()
                    logger.info("verified %d of %d experts on disk", count, len(files))
        self._prune()
        if files:
            size = sum(stored.size for stored in self._whole.values())
            seconds = time.monotonic() - begun
            logger.info(
                "%d of %d experts on disk are whole: %d bytes, %.1f s",
                len(self._whole),
                len(files),
                size,
                seconds,
            )
        return sorted(self._whole.values(), key=lambda stored: stored.key)

    def _verified(self, file: tuple[Path, str, ExpertKey, str]) -> StoredExpert | None:
        if self._closed:
            return None
        try:
            return _verify(*file)
        except (OSError, MalformedFile) as error:
            logger.warning("%s is deleted: %s", file[0], error)
            with contextlib.suppress(OSError):
                file[0].unlink()
            return None

    def _recover(self, stored: StoredExpert) -> None:
        known = self._whole.setdefault(stored.key, stored)
        if known is not stored:
            # Killed between giving a new version its place and forgetting the old: either will do.
            logger.warning("%s is deleted: %s lies in %s too", stored.path, stored.key, known.path)
            stored.path.unlink(missing_ok=True)

    def _files(self) -> Iterator[tuple[Path, str, ExpertKey, str]]:
        for path in sorted(self._experts.glob("*/*/*/*")):
            device_id, model_id, layer = path.parts[-4:-1]
            name = _FILE.fullmatch(path.name)
            if name is None or not layer.isdecimal():
                logger.warning("%s is left in place: it is not an expert's file", path)
                continue
            yield path, device_id, ExpertKey(model_id, int(layer), int(name[1])), name[2]

    # --- arriving
    def partial(self, key: ExpertKey, digest: str) -> Path:
        """Where the bytes of that digest are collected. Raises ValueError for what is no name."""
        _check(key, digest)
        path = self._partials / key.model_id / str(key.layer) / f"{key.expert}.{digest}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def begun(self, key: ExpertKey) -> str | None:
        """The digest of the newest interrupted download of the expert."""
        found = [
            (path.stat().st_mtime_ns, name[2])
            for path in (self._partials / key.model_id / str(key.layer)).glob(f"{key.expert}.*")
            if (name := _PARTIAL.fullmatch(path.name))
        ]
        return max(found)[1] if found else None

    def keep(self, key: ExpertKey, digest: str, device_id: str, partial: Path) -> StoredExpert:
        """Give what has arrived, whole and of that digest, its place; on disk when this returns.

        Raises `MalformedFile` where the bytes are not the expert's file, however right their digest.
        """
        _check(key, digest, device_id)
        _check_contents(partial, key)
        target = (
            self._experts / device_id / key.model_id / str(key.layer) / f"{key.expert}.{digest}.safetensors"
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        _sync(partial)
        partial.replace(target)
        for directory in (target.parent, partial.parent):
            _sync(directory)
        stored = _stored(target, device_id, key, digest)
        self._forget_other(stored)
        self._whole[key] = stored
        self._prune()
        return stored

    def rehome(self, stored: StoredExpert, device_id: str) -> StoredExpert:
        """Note that the expert belongs to another device."""
        if stored.device_id == device_id:
            return stored
        return self.keep(stored.key, stored.digest, device_id, stored.path)

    def _forget_other(self, stored: StoredExpert) -> None:
        before = self._whole.get(stored.key)
        if before is not None and before.path != stored.path:
            before.path.unlink(missing_ok=True)

    # --- going
    def remove(self, key: ExpertKey) -> None:
        """Delete the expert; whoever is reading it may go on to its end."""
        stored = self._whole.pop(key, None)
        if stored is not None:
            stored.path.unlink(missing_ok=True)

    def reverify(self, stored: StoredExpert) -> StoredExpert | None:
        """Hash a file that has changed since it was verified; it is deleted and None returned where it is
        not what it was."""
        if self._whole.get(stored.key) != stored:
            return self._whole.get(stored.key)
        try:
            again = _verify(stored.path, stored.device_id, stored.key, stored.digest)
        except (OSError, MalformedFile) as error:
            logger.error("%s was changed on disk and is deleted: %s", stored.path, error)
            self.remove(stored.key)
            return None
        self._whole[stored.key] = again
        return again

    def _prune(self) -> None:
        partials = sorted(
            (path for path in self._partials.glob("*/*/*") if path.is_file()),
            key=lambda path: path.stat().st_mtime_ns,
        )
        for path in partials[:-MAX_PARTIALS]:
            path.unlink(missing_ok=True)


def _check(key: ExpertKey, digest: str, device_id: str = "0") -> None:
    """Orders come over the network: no path is made of anything but ids."""
    for name in (key.model_id, device_id):
        if not is_id(name):
            raise ValueError(f"{name!r}: is not an id")
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"{digest!r}: is not a SHA-256 in hex")


def _check_contents(path: Path, key: ExpertKey) -> int:
    """Bytes of its tensors. Raises `MalformedFile`."""
    contents = read_contents(path)
    named = {name: contents.metadata.get(name) for name in ("format", "layer", "expert")}
    expected = {"format": EXPERT_FORMAT, "layer": str(key.layer), "expert": str(key.expert)}
    if named != expected:
        raise MalformedFile(f"it says of itself {named}, expected {expected}")
    return contents.data_bytes


def _stored(path: Path, device_id: str, key: ExpertKey, digest: str) -> StoredExpert:
    data_bytes = _check_contents(path, key)
    stamp = _stamp(path)
    return StoredExpert(key, device_id, path, digest, stamp[0], data_bytes, stamp)


def _verify(path: Path, device_id: str, key: ExpertKey, digest: str) -> StoredExpert:
    """Raises `MalformedFile` unless the bytes have the digest."""
    stored = _stored(path, device_id, key, digest)
    found = stored.content.sha256()
    if found != digest:
        raise MalformedFile(f"its bytes have SHA-256 {found}, expected {digest}")
    return stored


def _stamp(path: Path) -> tuple[int, int, int, int]:
    """The time of the last change of the inode is part of it: who writes can set the other time back."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
