"""Recorded routing of a model as the routes of a problem."""

from __future__ import annotations

import os
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from solvers.io.files import write_archive
from solvers.problem import Float64, Int32, ProblemError

# what reading an archive with wrong bytes raises; TypeError: a lone array, which has no files
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)


@dataclass(frozen=True, eq=False)
class Recording:
    """Who was activated: by token, integers [tokens, layers, K], or counted, integers [layers, experts]."""

    domain: str
    activations: npt.NDArray[np.integer]

    @property
    def counted(self) -> bool:
        return self.activations.ndim == 2

    @property
    def layers(self) -> int:
        return int(self.activations.shape[0 if self.counted else 1])

    @property
    def experts(self) -> int:
        """Experts per layer that the recording proves there are."""
        if self.counted:
            return int(self.activations.shape[1])
        return int(self.activations.max(initial=0)) + 1

    def part(self, begin: float, end: float) -> Recording:
        """The tokens from fraction `begin` to `end`; a recording of counts has no parts."""
        if self.counted:
            raise ProblemError(f"{self.domain}: holds counts, expected tokens to take a part of")
        if not 0 <= begin < end <= 1:
            raise ProblemError(f"{self.domain}: part {begin}:{end}, expected 0 <= from < to <= 1")
        tokens = len(self.activations)
        chosen = self.activations[int(begin * tokens) : int(end * tokens)]
        if len(chosen) == 0:
            raise ProblemError(f"{self.domain}: part {begin}:{end} of {tokens} tokens is empty")
        return Recording(self.domain, chosen)


@dataclass(frozen=True, eq=False)
class Routes:
    """Different routes and how often a token takes each: block int32[R], experts int32[R, K] (-1 pads),
    share float64[R] (routes per token; in every block the shares sum to 1, or to K where only counts are
    known and each route is one expert)."""

    block: Int32
    experts: Int32
    share: Float64


def read_recordings(path: str | os.PathLike[str]) -> dict[str, Recording]:
    """The recordings of an `.npz`, by domain: its arrays of whole numbers with three dimensions (tokens) or
    two (counts); others are passed over. `ProblemError` where it is none or damaged, `OSError` where it
    cannot be opened."""
    found: dict[str, Recording] = {}
    with Path(path).open("rb") as stream:
        try:
            with np.load(stream, allow_pickle=False) as archive:
                for key in archive.files:
                    values = archive[key]
                    if values.dtype.kind in "iu" and values.ndim in (2, 3) and values.size:
                        found[key] = Recording(key, values)
        except _DAMAGE:
            raise ProblemError("file: not a readable .npz archive of arrays") from None
    if not found:
        raise ProblemError("file: no array [tokens, layers, K] or [layers, experts] of whole numbers in it")
    return found


def write_recordings(path: str | os.PathLike[str], recordings: Mapping[str, npt.NDArray[np.integer]]) -> None:
    """Writes what `read_recordings` reads, whole or not at all."""
    write_archive(path, recordings)


def routes_of(recording: Recording, top_k: int | None = None) -> Routes:
    """The routes of a recording; one of counts needs `top_k`, the experts a token activates per layer.
    `ProblemError` where a token has an expert twice or a negative one. O(tokens layers K log tokens)."""
    if recording.counted:
        return _routes_of_counts(recording, top_k)
    tokens = recording.activations.astype(np.int32)
    ordered = np.sort(tokens, axis=2)
    wrong = (ordered[:, :, :1] < 0).any(axis=2) | (ordered[:, :, 1:] == ordered[:, :, :-1]).any(axis=2)
    if wrong.any():
        token, layer = (int(i) for i in np.argwhere(wrong)[0])
        chosen = tokens[token, layer].tolist()
        raise ProblemError(
            f"{recording.domain}[{token},{layer}]: experts {chosen}, expected different ones of at least 0"
        )
    block, experts, share = [], [], []
    for layer in range(recording.layers):
        routes, counts = np.unique(ordered[:, layer], axis=0, return_counts=True)
        block.append(np.full(len(routes), layer, np.int32))
        experts.append(routes)
        share.append(counts / len(tokens))
    return Routes(np.concatenate(block), np.concatenate(experts), np.concatenate(share))


def _routes_of_counts(recording: Recording, top_k: int | None) -> Routes:
    counts = recording.activations.astype(np.float64)
    if top_k is None:
        raise ProblemError(f"{recording.domain}: holds counts, expected top_k with them")
    if (counts < 0).any():
        layer, expert = (int(i) for i in np.argwhere(counts < 0)[0])
        raise ProblemError(f"{recording.domain}[{layer},{expert}]: is negative, expected a count")
    blocks, experts = np.nonzero(counts)
    share = top_k * counts[blocks, experts] / counts.sum(axis=1)[blocks]
    return Routes(blocks.astype(np.int32), experts.astype(np.int32)[:, None], share)
