"""Counts and a sample of the tokens of one phase, over some layers at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from moeplace_agent.telemetry.repeats import RepeatFilter
from moeplace_agent.telemetry.sample import RowSample, SampledRows, merged
from moeplace_agent.telemetry.windows import NO_EXPERT, LayerShape, LayerWindow

_STAGE_BYTES = 1 << 19
_STAGE_ROWS = 2048
_MAX_COUNT = 2**32 - 1


class LayerTally(NamedTuple):
    """counts int64[experts]; sampled rows [n, at least top_k], negative where there is no expert."""

    counts: npt.NDArray[np.int64]
    sampled: SampledRows


class Layout:
    """How a token's ids lie side by side: `width` columns, those of a layer next to each other and as many
    in each layer (`top_k`, the largest there is). Engines hand in `fused` ids more, of shared experts."""

    def __init__(self, layers: Mapping[int, LayerShape], fused: int = 0) -> None:
        self.layers = tuple(layers)
        self.shapes = tuple(layers.values())
        self.top_k_of = {layer: shape.top_k for layer, shape in layers.items()}
        self.top_k = max(shape.top_k for shape in self.shapes)
        self.fused = fused
        self.width = len(self.shapes) * self.top_k
        self.fewest = min(shape.experts for shape in self.shapes)
        most = max(shape.experts for shape in self.shapes)
        self.dtype = np.dtype(np.int16 if most <= np.iinfo(np.int16).max else np.int32)
        self.words = -(-self.width * self.dtype.itemsize // 8)
        self.rows = max(16, min(_STAGE_ROWS, _STAGE_BYTES // (self.words * 8)))
        # Each layer has one slot more than experts, its first: where -1 is counted, and forgotten.
        slots = np.array([shape.experts + 1 for shape in self.shapes])
        self.first = np.cumsum(slots) - slots
        self.slots = int(slots.sum())
        self.column_first = np.repeat(self.first + 1, self.top_k)

    def ids_of(self, layer: int) -> int:
        """How many ids of a token the engine hands in for a layer."""
        return self.top_k_of[layer] + self.fused

    def hint(self) -> str:
        """What to do where there are ids beyond the experts."""
        return "" if self.fused else " (ids of shared experts: see Recorder's fused_shared_experts)"

    def without_fused(self, ids: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], int]:
        """Ids [tokens, layers, top_k] out of those with shared experts' beside them, at any place of a row,
        and how many ids beyond the experts that leaves out. Raises ValueError that names the layer where a
        token then has more than `top_k`."""
        if not self.fused:
            return ids, 0
        experts = np.array([shape.experts for shape in self.shapes])
        beyond = ids >= experts[:, None]
        routed = np.where(beyond, -1, ids.astype(np.int64))
        order = np.argsort(routed < 0, axis=2, kind="stable")
        routed = np.take_along_axis(routed, order, axis=2)
        for at, (layer, shape) in enumerate(zip(self.layers, self.shapes, strict=True)):
            most = int((routed[:, at] >= 0).sum(axis=1).max(initial=0))
            if most > shape.top_k:
                raise ValueError(
                    f"layer {layer}: a token has {most} experts, expected at most {shape.top_k}, and ids "
                    f"from {shape.experts} on for shared experts"
                )
        return routed[:, :, : self.top_k], int(beyond.sum())

    def check(self, ids: npt.NDArray[Any]) -> bool:
        """Whether ids [tokens, layers, k] are all there, none -1. Raises ValueError that names layer, ids
        found and what was expected."""
        lowest, highest = int(ids.min()), int(ids.max())
        if lowest < -1 or highest >= self.fewest:
            for at, (layer, shape) in enumerate(zip(self.layers, self.shapes, strict=True)):
                found = ids[:, at]
                if int(found.min()) < -1 or int(found.max()) >= shape.experts:
                    raise ValueError(
                        f"layer {layer}: ids are in {int(found.min())}..{int(found.max())}, "
                        f"expected 0..{shape.experts - 1}, or -1 for none"
                        f"{self.hint() if int(found.max()) >= shape.experts else ''}"
                    )
        return lowest >= 0


class Tally:
    """Ids are put side by side into a buffer of fixed size and looked at when it is full: a decode step then
    costs little more than a copy."""

    def __init__(
        self, layout: Layout, sample_size: int, random: np.random.Generator, repeat_share: float | None
    ) -> None:
        self._layout = layout
        self._sample = RowSample(sample_size, random)
        self._repeats = None if repeat_share is None else RepeatFilter(repeat_share, layout.words)
        columns = layout.words * 8 // layout.dtype.itemsize
        self._stage = np.zeros((layout.rows, columns), layout.dtype)
        self._staged = 0
        self._counts: npt.NDArray[np.int64] = np.zeros(layout.slots, np.int64)
        self._tokens = 0
        self.repeated = 0
        """Tokens left out as repetitions."""

    @property
    def tokens(self) -> int:
        """Tokens that counted so far."""
        self._fold()
        return self._tokens

    def put(self, ids: npt.NDArray[Any]) -> None:
        """Ids [tokens, layers, top_k] that `Layout.check` has passed. Copied. Rows without any id are no
        tokens and must not come."""
        rows = ids.reshape(len(ids), self._layout.width)
        at = 0
        while at < len(rows):
            size = min(len(rows) - at, self._layout.rows - self._staged)
            end = self._staged + size
            self._stage[self._staged : end, : self._layout.width] = rows[at : at + size]
            self._staged, at = end, at + size
            if end == self._layout.rows:
                self._fold()

    def _fold(self) -> None:
        staged, self._staged = self._stage[: self._staged], 0
        if len(staged) == 0:
            return
        passing = None if self._repeats is None else self._repeats.passing(staged.view(np.uint64))
        rows = staged[:, : self._layout.width]
        if passing is not None:
            rows = rows[passing]
            self.repeated += len(staged) - len(rows)
        self._tokens += len(rows)
        slots = (rows + self._layout.column_first).reshape(-1)
        self._counts += np.bincount(slots, minlength=self._layout.slots)
        self._sample.add(rows)

    def close(self) -> None:
        """Look at what is still in the buffer: nothing more will come."""
        self._fold()

    def layers(self) -> Iterator[tuple[int, LayerTally]]:
        """Each layer by its number, of a tally that is closed."""
        layout = self._layout
        sampled = self._sample.result(np.zeros((0, layout.width), layout.dtype))
        rows = sampled.rows.reshape(-1, len(layout.layers), layout.top_k)
        for at, (layer, shape) in enumerate(zip(layout.layers, layout.shapes, strict=True)):
            first = int(layout.first[at]) + 1
            counts = self._counts[first : first + shape.experts]
            yield layer, LayerTally(counts, SampledRows(rows[:, at], sampled.draws, sampled.seen))


def layer_window(layer: int, shape: LayerShape, tallies: list[LayerTally], size: int) -> LayerWindow:
    """All `tallies` of one layer together, with at most `size` sampled tokens. Each of n sampled tokens out
    of N stands for N / n, an unbiased estimate of how many took its route (Horvitz and Thompson, 1952)."""
    counts = np.zeros(shape.experts, np.int64)
    for tally in tallies:
        counts += tally.counts
    width = max((tally.sampled.rows.shape[1] for tally in tallies), default=shape.top_k)
    widened = [tally.sampled._replace(rows=_widened(tally.sampled.rows, width)) for tally in tallies]
    rows, times, stands_for = np.zeros((0, shape.top_k), np.uint16), np.zeros(0, np.int64), 0.0
    if widened:
        sampled = merged(widened, size)
        stands_for = sampled.seen / max(1, len(sampled.rows))
        rows, times = _distinct(_routes(sampled.rows, shape.top_k))
    weights = (times * stands_for).astype(np.float32)
    return LayerWindow(layer, np.minimum(counts, _MAX_COUNT).astype(np.uint32), rows, weights)


def _widened(rows: npt.NDArray[Any], width: int) -> npt.NDArray[Any]:
    if rows.shape[1] == width:
        return rows
    wide = np.full((len(rows), width), -1, rows.dtype)
    wide[:, : rows.shape[1]] = rows
    return wide


def _routes(rows: npt.NDArray[Any], top_k: int) -> npt.NDArray[np.uint16]:
    """Ascending, filled up with `NO_EXPERT` (which -1 becomes as uint16). Rows that name no expert, or one
    twice, are no routes."""
    ordered: npt.NDArray[np.uint16] = np.sort(rows.astype(np.uint16), axis=1)[:, :top_k]
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != NO_EXPERT)
    proper: npt.NDArray[np.uint16] = ordered[(ordered[:, 0] != NO_EXPERT) & ~twice.any(axis=1)]
    return proper


def _distinct(rows: npt.NDArray[np.uint16]) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64]]:
    """The different rows in lexicographic order, and how often each occurs. numpy.unique over an axis does
    the same six times as slowly."""
    if len(rows) == 0:
        return rows, np.zeros(0, np.int64)
    ordered = rows[np.lexsort(rows.T[::-1])]
    begins = np.ones(len(ordered), np.bool_)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.flatnonzero(begins)
    return ordered[first], np.diff(np.append(first, len(ordered)))
