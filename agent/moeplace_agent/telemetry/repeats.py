"""Leaves out what an engine repeats: dummy runs and warm-up push one token through the model thousands of
times, and its experts would win the cache."""

from __future__ import annotations

from math import comb, log2

import numpy as np
import numpy.typing as npt

from moeplace_agent.telemetry.windows import LayerShape

ALLOWANCE = 64
"""Tokens of one routing that always count."""

_TRACKED = 1024

_NEEDED_BITS = 32.0


def tells_tokens_apart(shapes: list[LayerShape]) -> bool:
    """Whether the routing of a whole token has at least 32 bits. With fewer, different tokens are often
    routed alike, and repetition says nothing."""
    return sum(log2(comb(shape.experts, shape.top_k)) for shape in shapes) >= _NEEDED_BITS


class RepeatFilter:
    """Of tokens routed alike in every layer, `max(ALLOWANCE, share * tokens that counted before)` count.

    It follows the `_TRACKED` most frequent routings (Misra and Gries, Finding repeated elements, 1982), so
    a count may be too low by 1/1024 of the tokens, never too high: no token is left out wrongly.
    """

    def __init__(self, share: float, words: int) -> None:
        """`words`: 64-bit words of a row."""
        self._share = share
        self._kept = 0
        self._hashes: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._counts: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        # Odd, so that rows that differ in one word never have one hash.
        factors = np.random.default_rng(0).integers(0, 2**64, words, np.uint64)
        self._factors = factors | np.uint64(1)

    def passing(self, rows: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_] | None:
        """Which of rows uint64[n, words] count; None: all. O(n log n)."""
        hashes, which, found = np.unique(self._hash(rows), return_inverse=True, return_counts=True)
        before = np.zeros(len(hashes), np.int64)
        if len(self._hashes):
            at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
            before = np.where(self._hashes[at] == hashes, self._counts[at], 0)
        limit = max(ALLOWANCE, int(self._share * self._kept))
        allowed = np.clip(limit - before, 0, found)
        kept = int(allowed.sum())
        self._kept += kept
        self._remember(hashes, before + allowed)
        if kept == len(rows):
            return None
        order = np.argsort(which, kind="stable")
        rank = np.arange(len(rows)) - (np.cumsum(found) - found)[which[order]]
        mask = np.empty(len(rows), np.bool_)
        mask[order] = rank < allowed[which[order]]
        return mask

    def _hash(self, rows: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        # The shift brings what differs in high bits down to where a product keeps it apart.
        mixed = rows ^ (rows >> np.uint64(32))
        mixed *= self._factors
        hashed: npt.NDArray[np.uint64] = mixed.sum(axis=1, dtype=np.uint64)
        return hashed

    def _remember(self, hashes: npt.NDArray[np.uint64], counts: npt.NDArray[np.int64]) -> None:
        others = ~np.isin(self._hashes, hashes, assume_unique=True)
        hashes = np.concatenate([hashes, self._hashes[others]])
        counts = np.concatenate([counts, self._counts[others]])
        if len(counts) > _TRACKED:
            counts = counts - np.partition(counts, -_TRACKED - 1)[-_TRACKED - 1]
            hashes, counts = hashes[counts > 0], counts[counts > 0]
        order = np.argsort(hashes)
        self._hashes, self._counts = hashes[order], counts[order]
