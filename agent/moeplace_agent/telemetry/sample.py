"""A uniform sample of rows without replacement, of bounded size, whatever the number of rows and calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class SampledRows(NamedTuple):
    """rows [n, ...] out of `seen`, and float32[n] the random number each was drawn with."""

    rows: npt.NDArray[Any]
    draws: npt.NDArray[np.float32]
    seen: int


class RowSample:
    """Every row gets a random number; the `size` rows with the smallest ones stay (bottom-k sampling). Once
    many rows were seen, most later ones are left out by a comparison with the largest number kept.
    """

    def __init__(self, size: int, random: np.random.Generator) -> None:
        self._size = size
        self._random = random
        self._rows: list[npt.NDArray[Any]] = []
        self._draws: list[npt.NDArray[np.float32]] = []
        self._kept = 0
        self._seen = 0
        self._limit = float("inf")

    def add(self, rows: npt.NDArray[Any]) -> None:
        """More rows, each as likely to stay as any before. Those that stay are copied. Amortised
        O(len(rows))."""
        self._seen += len(rows)
        draws = self._random.random((len(rows),), dtype=np.float32)
        chosen = np.flatnonzero(draws < self._limit)
        if self._size == 0 or chosen.size == 0:
            return
        self._rows.append(rows[chosen])
        self._draws.append(draws[chosen])
        self._kept += chosen.size
        if self._kept > 4 * self._size:
            self._thin()

    def _thin(self) -> None:
        rows, draws = _smallest(np.concatenate(self._rows), np.concatenate(self._draws), self._size)
        self._rows, self._draws, self._kept = [rows], [draws], draws.size
        self._limit = float(draws.max())

    def result(self, empty: npt.NDArray[Any]) -> SampledRows:
        """What was kept: at least the `size` smallest. `empty`: no rows, in the shape of rows."""
        if not self._rows:
            return SampledRows(empty, np.zeros(0, np.float32), self._seen)
        return SampledRows(np.concatenate(self._rows), np.concatenate(self._draws), self._seen)


def merged(samples: Sequence[SampledRows], size: int) -> SampledRows:
    """The sample of all rows of all samples together: the `size` smallest of the union are among the `size`
    smallest of each."""
    rows = np.concatenate([sample.rows for sample in samples])
    draws = np.concatenate([sample.draws for sample in samples])
    return SampledRows(*_smallest(rows, draws, size), sum(sample.seen for sample in samples))


def _smallest(
    rows: npt.NDArray[Any], draws: npt.NDArray[np.float32], size: int
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    if draws.size <= size:
        return rows, draws
    chosen = np.argpartition(draws, size - 1)[:size]
    return rows[chosen], draws[chosen]
