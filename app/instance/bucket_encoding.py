"""A time bucket as it lies in Redis: exact, and as small as it can be made in a few microseconds.

MessagePack, an array of the fields of `_Stored` in their order; numbers are packed little-endian:

    version, digest, start_us, newest_us, windows, tokens, duration_us: as in `Bucket`
    observed_us: int64[B], or one where all blocks were observed for as long
    low: uint16[E], the low halves of the counts
    high_at, high: uint32[n] and uint64[n], which counts have more than that, and their rest
    rows: uint16[B], kept routes of each block
    k, padded, experts: uint8[n * k] where all ids fit, else uint16[n * k]; the highest value pads if `padded`
    weight: float32[n], or empty where all are 1
    priority: float32[n]
    threshold: float32[B]
"""

from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from app.instance.reservoir import Reservoir
from app.instance.statistics import Bucket, Integers
from app.telemetry.packed import NO_EXPERT

_SMALL_NO_EXPERT = 255
_NONE = np.zeros(0, np.int64)


class _Stored(msgspec.Struct, array_like=True, frozen=True, gc=False):
    version: Literal[2]
    digest: str
    start_us: int
    newest_us: int
    windows: int
    tokens: int
    duration_us: int
    observed_us: bytes
    low: bytes
    high_at: bytes
    high: bytes
    rows: bytes
    k: Annotated[int, msgspec.Meta(ge=1)]
    padded: bool
    experts: bytes
    weight: bytes
    priority: bytes
    threshold: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Stored)


def encode_bucket(bucket: Bucket) -> bytes:
    routes, observed, counts = bucket.routes, bucket.observed_us, bucket.counts
    high: Integers = _NONE
    high_at = _NONE
    if counts.max(initial=0) >> 16:
        high = counts >> 16
        high_at = np.flatnonzero(high)
        high = high[high_at]
    return _encoder.encode(
        _Stored(
            2,
            bucket.digest,
            bucket.start_us,
            bucket.newest_us,
            bucket.windows,
            bucket.tokens,
            bucket.duration_us,
            (observed[:1] if (observed == observed[0]).all() else observed).astype("<i8").tobytes(),
            counts.astype("<u2").tobytes(),
            high_at.astype("<u4").tobytes(),
            high.astype("<u8").tobytes(),
            np.bincount(routes.block, minlength=len(observed)).astype("<u2").tobytes(),
            routes.experts.shape[1],
            padded := bool((routes.experts == NO_EXPERT).any()),
            _packed_ids(routes.experts, padded),
            b"" if (routes.weight == 1).all() else routes.weight.astype("<f4").tobytes(),
            routes.priority.astype("<f4").tobytes(),
            routes.threshold.astype("<f4").tobytes(),
        )
    )


def decode_bucket(stored: bytes) -> Bucket:
    """Raises ValueError on bytes that `encode_bucket` did not write."""
    try:
        it = _decoder.decode(stored)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a bucket of statistics: {error}") from None
    rows = np.frombuffer(it.rows, "<u2")
    observed = np.frombuffer(it.observed_us, "<i8").astype(np.int64)
    counts: Integers = np.frombuffer(it.low, "<u2").astype(np.int64 if it.high_at else np.uint32)
    if it.high_at:
        counts[np.frombuffer(it.high_at, "<u4")] += np.frombuffer(it.high, "<u8").astype(np.int64) << 16
    priority = np.frombuffer(it.priority, "<f4").astype(np.float32, copy=False)
    return Bucket(
        it.digest,
        it.start_us,
        it.newest_us,
        it.windows,
        it.tokens,
        it.duration_us,
        np.full(len(rows), observed[0]) if len(observed) == 1 else observed,
        counts,
        Reservoir(
            np.repeat(np.arange(len(rows), dtype=np.int32), rows),
            _ids(it.experts, len(priority) * it.k, it.padded).reshape(-1, it.k),
            np.frombuffer(it.weight, "<f4").astype(np.float32, copy=False)
            if it.weight
            else np.ones(len(priority), np.float32),
            priority,
            np.frombuffer(it.threshold, "<f4").astype(np.float32, copy=False),
            ordered=True,
        ),
    )


def _packed_ids(experts: npt.NDArray[np.uint16], padded: bool) -> bytes:
    if not experts.size:
        return b""
    largest = int(experts.max(initial=0, where=experts != NO_EXPERT))
    if largest < _SMALL_NO_EXPERT or (largest == _SMALL_NO_EXPERT and not padded):
        return experts.astype(np.uint8).tobytes()  # the low half of what pads is what pads here
    return experts.astype("<u2").tobytes()


def _ids(packed: bytes, number: int, padded: bool) -> npt.NDArray[np.uint16]:
    if len(packed) != number:
        return np.frombuffer(packed, "<u2").astype(np.uint16, copy=False)
    ids = np.frombuffer(packed, np.uint8).astype(np.uint16)
    if padded:
        ids[ids == _SMALL_NO_EXPERT] = NO_EXPERT
    return ids
