"""What a node's tokens activated: counted and sampled as the engine goes, cut into windows to be posted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import zstandard

_MAX_COUNT = 2**32 - 1
_MAX_IDLE = timedelta(minutes=10)
"""The service takes no windows longer than an hour."""

_RECORDED_IDS = (np.uint8, np.uint16, np.int16, np.int32, np.int64, np.uint32)


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One MoE layer as the recorder sees it: `top_k` different experts out of `experts` per token."""

    experts: int
    top_k: int

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.experts <= 65_535:
            raise ValueError(
                f"experts {self.experts}, top_k {self.top_k}: expected 1 <= top_k <= experts <= 65535"
            )


@dataclass(frozen=True, slots=True)
class LayerWindow:
    """counts uint32[experts]; routes uint16[rows, top_k] ascending in each row, all different; weights
    float32[rows]: tokens each row stands for."""

    layer: int
    counts: npt.NDArray[np.uint32]
    routes: npt.NDArray[np.uint16]
    weights: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Window:
    """What one model's tokens activated between two moments."""

    model_id: str
    start_at: datetime
    end_at: datetime
    tokens: int
    layers: tuple[LayerWindow, ...]


class Recorder:
    """Counts every activation and keeps a uniform sample of the routes, layer by layer.

    `record` costs one bincount and one vector of random numbers per call. The sample is the
    `routes_per_layer` rows with the smallest random numbers: uniform without replacement whatever the number
    of calls.
    Not thread-safe: an engine with several threads gives each its own recorder or takes turns.
    """

    def __init__(
        self,
        model_id: str,
        layers: Mapping[int, LayerShape],
        *,
        routes_per_layer: int = 512,
        seed: int | None = None,
        now: datetime | None = None,
    ) -> None:
        """`layers`: true layer number to shape. `now`: when the first window starts."""
        if not layers:
            raise ValueError("layers: is empty, expected at least one")
        if routes_per_layer < 0:
            raise ValueError(f"routes_per_layer: is {routes_per_layer}, expected at least 0")
        self.model_id = model_id
        self._samples = routes_per_layer
        self._random = np.random.default_rng(seed)
        self._layers = {layer: _LayerRecord(shape) for layer, shape in sorted(layers.items())}
        self._started = now or datetime.now(UTC)
        self._tokens = 0

    @property
    def tokens(self) -> int:
        """Tokens of the window being recorded."""
        return self._tokens

    def add_tokens(self, tokens: int) -> None:
        """`tokens` more tokens went through the model; once per forward pass, not per layer."""
        if tokens < 0:
            raise ValueError(f"tokens: is {tokens}, expected at least 0")
        self._tokens += tokens

    def record(self, layer: int, experts: npt.ArrayLike) -> None:
        """The top-k ids of one layer for some tokens: whole numbers, [tokens, top_k]. A row that repeats an
        id is counted, and is no route.

        Raises ValueError or KeyError that names the layer and what was expected. O(tokens * top_k).
        """
        record = self._layers.get(layer)
        if record is None:
            raise KeyError(
                f"layer {layer}: not a MoE layer of {self.model_id}, expected {list(self._layers)}"
            )
        ids = np.asarray(experts)
        if ids.ndim != 2 or ids.shape[1] != record.shape.top_k:
            raise ValueError(
                f"layer {layer}: ids have shape {ids.shape}, expected (tokens, {record.shape.top_k})"
            )
        if ids.dtype not in _RECORDED_IDS:
            raise ValueError(f"layer {layer}: ids have type {ids.dtype}, expected whole numbers")
        if ids.shape[0] == 0:
            return
        if int(ids.min()) < 0 or int(ids.max()) >= record.shape.experts:
            raise ValueError(
                f"layer {layer}: ids are in {int(ids.min())}..{int(ids.max())}, "
                f"expected 0..{record.shape.experts - 1}"
            )
        record.counts += np.bincount(ids.reshape(-1), minlength=record.shape.experts)
        record.sample(ids, self._random, self._samples)

    def cut(self, now: datetime | None = None) -> Window | None:
        """End the window and begin the next. None when nothing was recorded: the window goes on, since idle
        time belongs to a rate, but no further back than `_MAX_IDLE`."""
        end = now or datetime.now(UTC)
        if end <= self._started:
            return None
        if not (self._tokens or any(record.counts.any() for record in self._layers.values())):
            self._started = max(self._started, end - _MAX_IDLE)
            return None
        window = Window(
            model_id=self.model_id,
            start_at=self._started,
            end_at=end,
            tokens=self._tokens,
            layers=tuple(record.cut(layer, self._samples) for layer, record in self._layers.items()),
        )
        self._started, self._tokens = end, 0
        return window


class _LayerRecord:
    def __init__(self, shape: LayerShape) -> None:
        self.shape = shape
        self._begin()

    def _begin(self) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros(self.shape.experts, np.int64)
        self._rows: list[npt.NDArray[np.uint16]] = []
        self._draws: list[npt.NDArray[np.float32]] = []
        self._kept = 0
        self._limit = float("inf")

    def sample(self, ids: npt.NDArray[Any], random: np.random.Generator, size: int) -> None:
        draws = random.random((ids.shape[0],), dtype=np.float32)
        chosen = np.flatnonzero(draws < self._limit)
        if size == 0 or chosen.size == 0:
            return
        self._rows.append(ids[chosen].astype(np.uint16))
        self._draws.append(draws[chosen])
        self._kept += chosen.size
        if self._kept > 4 * size:
            self._thin(size)

    def _thin(self, size: int) -> None:
        rows: npt.NDArray[np.uint16] = np.concatenate(self._rows)
        draws: npt.NDArray[np.float32] = np.concatenate(self._draws)
        if draws.size > size:
            smallest = np.argpartition(draws, size - 1)[:size]
            rows, draws = rows[smallest], draws[smallest]
            self._limit = float(draws.max())
        self._rows, self._draws, self._kept = [rows], [draws], draws.size

    def cut(self, layer: int, size: int) -> LayerWindow:
        counts = np.minimum(self.counts, _MAX_COUNT).astype(np.uint32)
        if self._kept:
            self._thin(size)
            ordered = np.sort(self._rows[0], axis=1)
            proper = (ordered[:, 1:] != ordered[:, :-1]).all(axis=1)
            rows, weights = _merged(ordered[proper])
        else:
            rows, weights = _merged(np.zeros((0, self.shape.top_k), np.uint16))
        self._begin()
        return LayerWindow(layer, counts, rows, weights.astype(np.float32))


def _merged(rows: npt.NDArray[np.uint16]) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64]]:
    """The different rows in lexicographic order, and how often each occurs. numpy.unique over an axis does
    the same six times as slowly."""
    if len(rows) == 0:
        return rows, np.zeros(0, np.int64)
    ordered = rows[np.lexsort(rows.T[::-1])]
    begins = np.ones(len(ordered), np.bool_)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.flatnonzero(begins)
    return ordered[first], np.diff(np.append(first, len(ordered)))


def encode_window(window: Window, instance_uid: str, sequence_number: int) -> bytes:
    """The window in MessagePack, numbered within its node's instance; arrays packed little-endian: uint32
    counts, uint16 ids, float32 weights."""
    return msgspec.msgpack.encode(
        {
            "model_id": window.model_id,
            "instance_uid": instance_uid,
            "sequence_number": sequence_number,
            "window": {"start_at": _rfc3339(window.start_at), "end_at": _rfc3339(window.end_at)},
            "tokens": window.tokens,
            "layers": [
                {"layer": layer.layer, "counts": layer.counts.astype("<u4").tobytes()}
                for layer in window.layers
            ],
            "routes": [
                {
                    "layer": layer.layer,
                    "k": layer.routes.shape[1],
                    "experts": layer.routes.astype("<u2").tobytes(),
                    "weights": layer.weights.astype("<f4").tobytes(),
                }
                for layer in window.layers
                if layer.routes.size
            ],
            "step_time_seconds": None,
        }
    )


def compress(body: bytes) -> bytes:
    """Zstandard, level 1: counts compress to about half at little cost to the node."""
    return zstandard.ZstdCompressor(level=1).compress(body)


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
