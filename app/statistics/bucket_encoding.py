"""A time bucket as it lies in Redis: exact, and as small as it can be made in a few microseconds.

MessagePack, an array of the fields of `_Stored` in their order; numbers are packed little-endian:

    version, digest, start_us, newest_us, windows, tokens, duration_us: as in `Bucket`
    observed_us: int64[B], or one where all blocks were observed for as long; for programs that read no
        further than `threshold`
    low: uint16[E], the low halves of the counts
    high_at, high: uint32[n] and uint64[n], which counts have more than that, and their rest
    rows: uint16[B], kept routes of each block
    k, padded, experts: uint8[n * k] where all ids fit, else uint16[n * k]; the highest value pads if `padded`
    weight: float32[n], or empty where all are 1
    priority: float32[n]
    threshold: float32[B]
    part: uint16[B], or empty where there is one stretch: `Coverage.part`
    stretches: [[edges, grid_us, apart_us, tokens], ..], as in `Stretch`

The last two were appended. Where an older program wrote the bucket they are missing, and the time that its
blocks were observed is known as a sum of durations alone.
"""

import contextlib
from dataclasses import replace
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from app.statistics.counting import Counts, low_halves
from app.statistics.coverage import Coverage, Stretch
from app.statistics.reservoir import Reservoir
from app.statistics.statistics import Bucket
from app.telemetry.packed import NO_EXPERT

_SMALL_NO_EXPERT = 255
_LOW = 0xFFFF
VERSION: Literal[2] = 2
"""The oldest reader that understands a bucket has this version. Fields that it may ignore are appended."""

_NONE = np.zeros(0, np.int64)


class _Versioned(msgspec.Struct, array_like=True, frozen=True):
    version: int


class _Stored(msgspec.Struct, array_like=True, frozen=True, gc=False):
    version: Literal[2]
    digest: str
    start_us: int
    newest_us: int
    windows: int
    tokens: int
    duration_us: int
    observed_us: bytes
    low: memoryview
    high_at: bytes
    high: bytes
    rows: bytes
    k: Annotated[int, msgspec.Meta(ge=1)]
    padded: bool
    experts: bytes
    weight: bytes
    priority: bytes
    threshold: bytes
    part: bytes = b""
    stretches: list[tuple[list[int], int, int, int]] | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Stored)
_version_decoder = msgspec.msgpack.Decoder(_Versioned)


class NewerBucket(Exception):
    """A worker of a newer version wrote the bucket, in a form that this one does not know.

    This worker would lose what is in it, so it leaves the cluster to a worker of that version.
    """


def encode_bucket(bucket: Bucket) -> bytes:
    routes, counts, coverage = bucket.routes, bucket.counts, bucket.coverage
    high: npt.NDArray[np.integer] = _NONE
    high_at = _NONE
    low, more = low_halves(counts)
    if more:
        high_at = np.flatnonzero(counts > _LOW)
        high = counts[high_at] >> 16
    return _encoder.encode(
        _Stored(
            VERSION,
            bucket.digest,
            bucket.start_us,
            bucket.newest_us,
            bucket.windows,
            bucket.tokens,
            bucket.duration_us,
            _observed_us(coverage),
            low.astype("<u2", copy=False).data,
            high_at.astype("<u4").tobytes(),
            high.astype("<u8").tobytes(),
            *_packed_routes(routes),
            routes.threshold.astype("<f4").tobytes(),
            np.asarray(coverage.part, "<u2").tobytes() if len(coverage.stretches) > 1 else b"",
            [(it.edges, it.grid_us, it.apart_us, it.tokens) for it in coverage.stretches],
        )
    )


def decode_bucket(stored: bytes) -> Bucket:
    """Raises ValueError on bytes that `encode_bucket` did not write, `NewerBucket` where a newer one did."""
    try:
        it = _decoder.decode(stored)
    except msgspec.MsgspecError as error:
        with contextlib.suppress(msgspec.MsgspecError):
            if (version := _version_decoder.decode(stored).version) > VERSION:
                raise NewerBucket(f"version {version}, this process reads version {VERSION}") from None
        raise ValueError(f"not a bucket of statistics: {error}") from None
    rows = np.frombuffer(it.rows, "<u2")
    low = np.frombuffer(it.low, "<u2")
    counts: Counts
    if not it.high_at:
        counts = low.astype(np.uint16)
    else:
        high = np.frombuffer(it.high, "<u8")
        counts = low.astype(np.uint64 if high.max() > _LOW else np.uint32)
        counts[np.frombuffer(it.high_at, "<u4")] += (high << np.uint64(16)).astype(counts.dtype)
    threshold = np.frombuffer(it.threshold, "<f4").astype(np.float32, copy=False)
    return Bucket(
        it.digest,
        it.start_us,
        it.newest_us,
        it.windows,
        it.tokens,
        it.duration_us,
        _coverage(it, len(rows)),
        counts,
        _routes(it, rows, threshold),
    )


def _coverage(it: _Stored, blocks: int) -> Coverage:
    if it.stretches is not None:
        stretches = [Stretch(*stored) for stored in it.stretches]
        part = np.frombuffer(it.part, "<u2").tolist() if it.part else [0] * blocks
        return Coverage(part, stretches)
    # Blocks observed for as long had the same share of the tokens, as far as is known.
    observed = np.frombuffer(it.observed_us, "<i8").tolist()
    times = sorted({*observed})
    part = [times.index(us) for us in observed] if len(observed) > 1 else [0] * blocks
    longest = max(1, it.duration_us)
    return Coverage(part, [Stretch(apart_us=us, tokens=it.tokens * us // longest) for us in times])


def _observed_us(coverage: Coverage) -> bytes:
    if len(coverage.stretches) == 1:
        return coverage.stretches[0].covered_us.to_bytes(8, "little")
    return np.asarray(coverage.observed_us, "<i8").tobytes()


def _packed_routes(routes: Reservoir) -> tuple[bytes, int, bool, bytes, bytes, bytes]:
    """rows, k, padded, experts, weight, priority."""
    k = routes.experts.shape[1]
    if not len(routes):
        return bytes(2 * len(routes.threshold)), k, False, b"", b"", b""
    padded = bool((routes.experts == NO_EXPERT).any())
    return (
        np.bincount(routes.block, minlength=len(routes.threshold)).astype("<u2").tobytes(),
        k,
        padded,
        _packed_ids(routes.experts, padded),
        b"" if (routes.weight == 1).all() else routes.weight.astype("<f4").tobytes(),
        routes.priority.astype("<f4").tobytes(),
    )


def _routes(it: _Stored, rows: npt.NDArray[np.uint16], threshold: npt.NDArray[np.float32]) -> Reservoir:
    if not it.priority:
        return replace(Reservoir.empty(len(rows)), threshold=threshold)
    priority = np.frombuffer(it.priority, "<f4").astype(np.float32, copy=False)
    return Reservoir(
        np.repeat(np.arange(len(rows), dtype=np.int32), rows),
        _ids(it.experts, len(priority) * it.k, it.padded).reshape(-1, it.k),
        np.frombuffer(it.weight, "<f4").astype(np.float32, copy=False)
        if it.weight
        else np.ones(len(priority), np.float32),
        priority,
        threshold,
        ordered=True,
    )


def _packed_ids(experts: npt.NDArray[np.uint16], padded: bool) -> bytes:
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
