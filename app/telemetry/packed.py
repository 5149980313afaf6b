"""A window as it lies in the cluster's stream: checked, normalised, and packed.

MessagePack, arrays instead of maps (fields in the order given here), numbers packed little-endian:

    [version, node_id, model_id, model_digest, sequence_number, start_us, end_us, tokens,
     layers [layer, ..] | nil, count_bytes, counts, experts uint32[n] | nil, routes,
     nil, nil]
    layers: those that have counts, in the model's order; nil: all of them
    counts: n numbers of count_bytes (1, 2 or 4) each, whatever the largest needs
    experts: whose counts they are, numbered over the whole model, layer after layer; nil: one count for each
        expert of the layers
    routes: [layer, k, experts uint16[S * k], weights float32[S] | nil]    65535 pads, nil: weight 1 each

So the common window, of all experts, is one array that is added in one go. Times are microseconds since the
epoch. Only the API writes these and only the worker reads them, and during a rolling upgrade the two may be
of different versions. A field that older workers may ignore is appended, has a default, and leaves `version`
as it is. A change that they would misread raises `version`; they leave such windows for a newer worker.
"""

from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt

VERSION = 2
"""The oldest reader that understands a window has this version of the format."""

NO_EXPERT = 65_535
"""Stands after the last expert of a route that has fewer than k; no expert has this id."""

COUNT = np.dtype("<u4")
EXPERT = np.dtype("<u2")
WEIGHT = np.dtype("<f4")
POSITION = np.dtype("<u4")

MAX_COUNT = 2**32 - 1
"""Largest count of an expert, and of tokens, in one window."""

_Natural = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Versioned(msgspec.Struct, array_like=True, frozen=True):
    version: int


class PackedRoutes(msgspec.Struct, array_like=True, frozen=True):
    layer: int
    k: Annotated[int, msgspec.Meta(ge=1)]
    experts: bytes
    weights: bytes | None

    @property
    def length(self) -> int:
        """S."""
        return len(self.experts) // (self.k * EXPERT.itemsize)

    def sets(self) -> npt.NDArray[np.uint16]:
        """uint16[S, k]."""
        return np.frombuffer(self.experts, EXPERT).reshape(-1, self.k)

    def weighed(self) -> npt.NDArray[np.float32]:
        """float32[S]."""
        if self.weights is None:
            return np.ones(self.length, np.float32)
        return np.frombuffer(self.weights, WEIGHT).astype(np.float32, copy=False)


class PackedWindow(msgspec.Struct, array_like=True, frozen=True):
    """counts: of an unpacked window, a view of the bytes that it was unpacked from. Copies of this size would
    be given back to the system one by one, and cost more than all the rest."""

    version: int
    node_id: str
    model_id: str
    model_digest: str
    sequence_number: int
    start_us: _Natural
    end_us: _Natural
    tokens: Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
    layers: tuple[int, ...] | None
    count_bytes: Literal[1, 2, 4]
    counts: memoryview
    experts: bytes | None
    routes: list[PackedRoutes]
    step_time_p50_seconds: float | None
    """Of earlier versions, which never used it and cannot read a window without it; likewise the next."""
    step_time_p99_seconds: float | None

    def counted(self) -> npt.NDArray[np.unsignedinteger]:
        """uint8, uint16 or uint32[n]."""
        return np.frombuffer(self.counts, _COUNTS[self.count_bytes])

    def counted_experts(self) -> npt.NDArray[np.uint32] | None:
        return None if self.experts is None else np.frombuffer(self.experts, POSITION)


_COUNTS: dict[int, np.dtype[np.unsignedinteger]] = {
    1: np.dtype("<u1"),
    2: np.dtype("<u2"),
    4: COUNT,
}


def narrow(counts: npt.NDArray[np.uint32]) -> tuple[Literal[1, 2, 4], memoryview]:
    """The counts, of any shape, in as many bytes each as the largest of them needs."""
    largest = int(np.maximum.reduce(counts, axis=None, initial=0))
    count_bytes: Literal[1, 2, 4] = 1 if largest < 1 << 8 else 2 if largest < 1 << 16 else 4
    return count_bytes, counts.astype(_COUNTS[count_bytes], order="C", copy=False).data


class Undecodable(ValueError):
    """Not a packed window."""


class NewerWindow(Exception):
    """A process of a newer version wrote the window, in a form that this one does not know. It is not lost: a
    worker of that version will read it."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(PackedWindow)
_version_decoder = msgspec.msgpack.Decoder(_Versioned)


def pack(window: PackedWindow) -> bytes:
    return _encoder.encode(window)


def unpack(packed: bytes) -> PackedWindow:
    """Raises `Undecodable`, or `NewerWindow`."""
    try:
        window = _decoder.decode(packed)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        _require_version(packed)
        raise Undecodable(str(error)) from None
    if window.version != VERSION:
        _require_version(packed)
        raise Undecodable(f"version {window.version}, expected {VERSION}")
    return window


def _require_version(packed: bytes) -> None:
    try:
        version = _version_decoder.decode(packed).version
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return
    if version > VERSION:
        raise NewerWindow(f"version {version} of the format, this process reads version {VERSION}")
