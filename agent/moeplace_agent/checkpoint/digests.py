"""SHA-256 of every expert, computed once per checkpoint and kept beside it."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from platformdirs import user_cache_path

from moeplace_agent.checkpoint.checkpoint import Checkpoint, CheckpointExpert
from moeplace_agent.checkpoint.shards import CheckpointError

logger = logging.getLogger(__name__)

FILE = ".moeplace-digests.json"
_FORMAT = "moeplace-digests/2"


class _Kept(msgspec.Struct):
    """`files`: what the digests were computed from, as name, bytes and the times at which its bytes and its
    inode were changed: the first can be set back."""

    format: str
    files: list[tuple[str, int, int, int]]
    digests: dict[str, str]


def expert_digests(
    checkpoint: Checkpoint, *, progress: Callable[[int], None] = lambda _: None
) -> dict[tuple[int, int], str]:
    """(layer, expert) -> SHA-256 in hex of the expert's file.

    Reads the whole checkpoint the first time; later those kept are taken as long as no file has changed in
    size or time. `progress` is told the bytes of each expert done, from several threads. Raises
    `CheckpointError`.
    """
    files = [_stamp(path) for path in checkpoint.files]
    kept = _read_kept(checkpoint, files)
    experts = checkpoint.experts

    def digest(expert: CheckpointExpert) -> str:
        known = kept.get(_name(expert))
        found = known if known is not None else expert.content.sha256()
        progress(expert.content.size)
        return found

    try:
        # hashlib and pread let go of the interpreter: threads are enough.
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            digests = list(pool.map(digest, experts))
    except OSError as error:
        raise CheckpointError(f"{checkpoint.directory}: {error}") from None
    if any(_name(expert) not in kept for expert in experts):
        _keep(checkpoint, files, dict(zip(map(_name, experts), digests, strict=True)))
    return {(expert.layer, expert.expert): found for expert, found in zip(experts, digests, strict=True)}


def _name(expert: CheckpointExpert) -> str:
    # The head says which bytes were hashed: should it be written otherwise one day, old digests don't count.
    head = expert.content.pieces[0].data
    assert head is not None
    return f"{expert.layer}/{expert.expert}/{hashlib.sha256(head).hexdigest()[:16]}"


def _stamp(path: Path) -> tuple[str, int, int, int]:
    stat = path.stat()
    return path.name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _places(checkpoint: Checkpoint) -> list[Path]:
    """Beside the checkpoint, or in the user's cache where that may not be written."""
    name = hashlib.sha256(str(checkpoint.directory.resolve()).encode()).hexdigest()[:32]
    return [checkpoint.directory / FILE, user_cache_path("moeplace") / "digests" / f"{name}.json"]


def _read_kept(checkpoint: Checkpoint, files: list[tuple[str, int, int, int]]) -> dict[str, str]:
    for path in _places(checkpoint):
        try:
            kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if kept.format == _FORMAT and kept.files == files:
            return kept.digests
    return {}


def _keep(checkpoint: Checkpoint, files: list[tuple[str, int, int, int]], digests: dict[str, str]) -> None:
    body = msgspec.json.encode(_Kept(_FORMAT, files, digests))
    for path in _places(checkpoint):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{FILE}.", delete=False) as file:
                file.write(body)
            Path(file.name).replace(path)
        except OSError as error:
            logger.debug("digests are not kept in %s: %s", path.parent, error)
        else:
            return
