"""A window as it lies in the cluster's stream: checked, normalised, and packed.

MessagePack, arrays instead of maps (fields in the order given here), numbers packed little-endian:

    [version, node_id, model_id, model_digest, sequence_number, start_us, end_us, tokens, layers, routes,
     step_time_p50_seconds | nil, step_time_p99_seconds | nil]
    layer:  [layer, counts uint32[n], expert_ids uint16[n] | nil]     nil: one count per expert of the layer
    routes: [layer, k, experts uint16[S * k], weights float32[S] | nil]    65535 pads, nil: weight 1 each

Times are microseconds since the epoch. Only the API writes these and only the worker reads them.
"""

from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

VERSION = 1
NO_EXPERT = 65_535
"""Stands after the last expert of a route that has fewer than k; no expert has this id."""

COUNT = np.dtype("<u4")
EXPERT = np.dtype("<u2")
WEIGHT = np.dtype("<f4")

MAX_COUNT = 2**32 - 1
"""Largest count of an expert, and of tokens, in one window."""

_Natural = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class PackedLayer(msgspec.Struct, array_like=True, frozen=True):
    layer: int
    counts: bytes
    expert_ids: bytes | None

    def add_to(self, totals: npt.NDArray[np.int64]) -> None:
        """Add the counts to int64[experts of the layer]."""
        counts = np.frombuffer(self.counts, COUNT)
        if self.expert_ids is None:
            totals += counts
        else:
            totals[np.frombuffer(self.expert_ids, EXPERT)] += counts


class PackedRoutes(msgspec.Struct, array_like=True, frozen=True):
    layer: int
    k: Annotated[int, msgspec.Meta(ge=1)]
    experts: bytes
    weights: bytes | None

    def rows(self) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float64]]:
        """uint16[S, k] and float64[S]."""
        experts = np.frombuffer(self.experts, EXPERT).reshape(-1, self.k)
        if self.weights is None:
            return experts, np.ones(len(experts))
        return experts, np.frombuffer(self.weights, WEIGHT).astype(np.float64)


class PackedWindow(msgspec.Struct, array_like=True, frozen=True):
    version: int
    node_id: str
    model_id: str
    model_digest: str
    sequence_number: int
    start_us: _Natural
    end_us: _Natural
    tokens: Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
    layers: list[PackedLayer]
    routes: list[PackedRoutes]
    step_time_p50_seconds: float | None
    step_time_p99_seconds: float | None


class Undecodable(ValueError):
    """Not a packed window of a version this program knows."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(PackedWindow)


def pack(window: PackedWindow) -> bytes:
    return _encoder.encode(window)


def unpack(packed: bytes) -> PackedWindow:
    try:
        window = _decoder.decode(packed)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Undecodable(str(error)) from None
    if window.version != VERSION:
        raise Undecodable(f"version {window.version}, expected {VERSION}")
    return window
