"""Telemetry from the stream into statistics, once and only once.

One transaction writes the buckets, the id folded so far and the totals, and trims the stream; it commits
only while the lease is held and the folded id is the one the fold began at. A crash at any point, a lost
answer to the commit, or a second worker therefore folds nothing twice and loses nothing.
"""

import asyncio
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.clusters.schemas import ClusterSettings
from app.instance.bucket_encoding import decode_bucket, encode_bucket
from app.instance.statistics import (
    BUCKETS_PER_WINDOW,
    MICROSECONDS,
    Bucket,
    Layout,
    NodeModel,
    Statistics,
    bucket_us,
    combine,
)
from app.metrics import (
    TELEMETRY_ACTIVATIONS,
    TELEMETRY_DISCARDED,
    TELEMETRY_FOLD_LAG,
    TELEMETRY_FOLDED,
    TELEMETRY_STREAM_BYTES,
    TELEMETRY_TOKENS,
)
from app.models.schemas import ModelRecord
from app.storage.fenced import fenced
from app.storage.keys import ClusterKeys
from app.storage.lease import Lease
from app.telemetry.packed import PackedWindow, unpack

BATCH_BYTES = 8 << 20
"""Windows folded in one transaction, about; at least one. Redis serves nobody else meanwhile."""

BATCH_WINDOWS = 256

START = b"0-0"

log = structlog.stdlib.get_logger(__name__)

Entry = tuple[bytes, dict[bytes, bytes]]


class FoldMoved(Exception):
    """Somebody else folded meanwhile, or a commit whose answer was lost had succeeded: load anew."""


@dataclass(frozen=True, slots=True)
class FoldOutcome:
    """What one call of `fold` did."""

    windows: int
    discarded: int
    tokens: int
    activations: int
    more: bool
    """Windows are waiting that did not fit into the batch: call again."""

    @property
    def changed(self) -> bool:
        return self.windows > 0


NOTHING = FoldOutcome(0, 0, 0, 0, False)


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """A bucket as stored: decoded where it is needed, so that a large fleet's fit into memory."""

    digest: str
    newest_us: int
    stored: bytes

    @classmethod
    def of(cls, bucket: Bucket) -> "Kept":
        return cls(bucket.digest, bucket.newest_us, encode_bucket(bucket))

    def bucket(self) -> Bucket:
        return decode_bucket(self.stored)


@dataclass(frozen=True, eq=False)
class _Decoded:
    """Buckets decoded one after another, each time they are asked for."""

    kept: Collection[Kept]

    def __iter__(self) -> Iterator[Bucket]:
        return (kept.bucket() for kept in self.kept)


@dataclass(frozen=True, eq=False)
class _Folded:
    """What a batch comes to, computed off the event loop."""

    buckets: dict[NodeModel, dict[int, Kept]]
    """Buckets that changed, whole."""
    windows: int
    discarded: int
    tokens: int
    activations: int
    entry_bytes: int
    newest_us: dict[NodeModel, int]


class TelemetryFold:
    """The statistics of one cluster and their growth, for as long as one lease lasts.

    Make a new one with every lease. Not for use by two tasks at once.
    """

    def __init__(self, redis: Redis, keys: ClusterKeys, lease: Lease) -> None:
        self._redis = redis
        self._keys = keys
        self._lease = lease
        self._loaded = False
        self._last_id = START
        self._buckets: dict[NodeModel, dict[int, Kept]] = {}
        self._newest_us: dict[NodeModel, int] = {}

    @property
    def until_us(self) -> int | None:
        """End of the newest window folded, microseconds since the epoch."""
        return max(self._newest_us.values(), default=None)

    def newest_us_of_nodes(self) -> dict[str, int]:
        """node_id -> end of its newest window folded, microseconds since the epoch."""
        newest: dict[str, int] = {}
        for (node_id, _), us in self._newest_us.items():
            newest[node_id] = max(us, newest.get(node_id, 0))
        return newest

    async def load(self) -> None:
        """Read what was folded so far; `fold` does it by itself where needed."""
        self._loaded = False
        redis, keys = self._redis, self._keys
        index = cast("dict[bytes, bytes]", await redis.hgetall(keys.statistics_index))
        names = [(node_id, model_id) for node_id, _, model_id in (n.decode().partition("/") for n in index)]
        self._newest_us = dict(zip(names, map(int, index.values()), strict=True))
        self._buckets = {}
        for name in names:
            stored = cast("dict[bytes, bytes]", await redis.hgetall(keys.statistics(*name)))
            self._buckets[name] = await asyncio.to_thread(_decode, keys.cluster_id, name, stored)
        self._last_id = cast("bytes | None", await redis.hget(keys.folded, "last_id")) or START
        self._loaded = True

    async def fold(
        self, models: Mapping[str, ModelRecord], nodes: Collection[str], settings: ClusterSettings
    ) -> FoldOutcome:
        """Fold one batch of the stream, and forget what is too old or no longer registered.

        models: model_id -> record, nodes: node ids, as registered now. Raises `LeaseLost`; `FoldMoved` when
        the batch was given up because the stream had been folded further, after which the next call loads
        anew; and redis-py's errors, likewise.
        """
        if not self._loaded:
            await self.load()
        try:
            return await self._fold(models, nodes, settings)
        except BaseException:
            # Whether the transaction was committed may be unknown: only Redis can say what is folded.
            self._loaded = False
            raise

    async def statistics(
        self,
        models: Mapping[str, ModelRecord],
        settings: ClusterSettings,
        *,
        since_us: int | None = None,
    ) -> Statistics:
        """Rates as of the last `fold`; with `since_us`, of the time buckets that began then or later."""
        if not self._loaded:
            await self.load()
        buckets = {name: _Decoded(list(spans.values())) for name, spans in self._buckets.items()}
        return await asyncio.to_thread(combine, buckets, dict(models), settings, self.until_us, since_us)

    async def _fold(
        self, models: Mapping[str, ModelRecord], nodes: Collection[str], settings: ClusterSettings
    ) -> FoldOutcome:
        entries, waiting = await self._read()
        gone = {
            name
            for name, spans in self._buckets.items()
            if name[0] not in nodes
            or name[1] not in models
            or any(b.digest != models[name[1]].digest for b in spans.values())
        }
        if not entries and not gone:
            TELEMETRY_FOLD_LAG.set(self._keys.cluster_id, 0.0)
            TELEMETRY_STREAM_BYTES.set(self._keys.cluster_id, waiting)
            return NOTHING
        known = {name: spans for name, spans in self._buckets.items() if name not in gone}
        span = bucket_us(settings)
        folded = await asyncio.to_thread(
            _fold_batch, self._keys.cluster_id, entries, known, dict(models), frozenset(nodes), span
        )
        newest = {n: us for n, us in self._newest_us.items() if n not in gone}
        for name, us in folded.newest_us.items():
            newest[name] = max(us, newest.get(name, us))
        oldest = max(newest.values(), default=0) - round(settings.statistics_window_seconds * MICROSECONDS)
        buckets = {name: dict(spans) for name, spans in known.items()}
        for name, spans in folded.buckets.items():
            buckets.setdefault(name, {}).update(spans)
        expired = {
            name: [start for start, bucket in spans.items() if bucket.newest_us <= oldest]
            for name, spans in buckets.items()
        }
        for name, starts in expired.items():
            for start in starts:
                del buckets[name][start]
            if not buckets[name]:
                del buckets[name]
        last_id = entries[-1][0] if entries else self._last_id
        expected = self._last_id

        async def check(pipe: Pipeline) -> None:
            found = await cast("object", pipe.hget(self._keys.folded, "last_id")) or START  # type: ignore[misc]
            if found != expected:
                raise FoldMoved(
                    f"cluster {self._keys.cluster_id}: folded up to {found!r}, expected {expected!r}"
                )

        def queue(pipe: Pipeline) -> None:
            keys = self._keys
            dropped = {name for name in expired if name not in buckets} | gone
            for name in dropped:
                pipe.delete(keys.statistics(*name))
                pipe.hdel(keys.statistics_index, "/".join(name))
            for name, starts in expired.items():
                if name not in dropped and starts:
                    pipe.hdel(keys.statistics(*name), *map(str, starts))
            for name, spans in folded.buckets.items():
                kept = {
                    str(start): it.stored for start, it in spans.items() if start in buckets.get(name, ())
                }
                if kept:
                    pipe.hset(keys.statistics(*name), mapping=cast("Any", kept))
                    pipe.hset(keys.statistics_index, "/".join(name), newest[name])
            if entries:
                pipe.hset(keys.folded, "last_id", last_id)
                pipe.hincrby(keys.folded, "windows_total", folded.windows)
                pipe.hincrby(keys.folded, "discarded_total", folded.discarded)
                pipe.hincrby(keys.folded, "tokens_total", folded.tokens)
                pipe.hincrby(keys.folded, "activations_total", folded.activations)
                pipe.xtrim(keys.telemetry, minid=_after(last_id), approximate=False)
                pipe.decrby(keys.telemetry_bytes, folded.entry_bytes)

        await fenced(self._redis, self._lease, queue, watch=(self._keys.folded,), check=check)
        self._last_id = last_id
        self._buckets = buckets
        self._newest_us = {name: us for name, us in newest.items() if name in buckets}
        cluster = self._keys.cluster_id
        TELEMETRY_FOLDED.inc(folded.windows)
        TELEMETRY_DISCARDED.inc(folded.discarded)
        TELEMETRY_TOKENS.inc(folded.tokens)
        TELEMETRY_ACTIVATIONS.inc(folded.activations)
        TELEMETRY_STREAM_BYTES.set(cluster, max(0, waiting - folded.entry_bytes))
        more = waiting > folded.entry_bytes
        lag = time.time() - _milliseconds(last_id) / 1000 if more else 0.0
        TELEMETRY_FOLD_LAG.set(cluster, max(0.0, lag))
        return FoldOutcome(folded.windows, folded.discarded, folded.tokens, folded.activations, more)

    async def _read(self) -> tuple[list[Entry], int]:
        """The next windows of the stream, and the bytes of all that wait."""
        keys = self._keys
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.xlen(keys.telemetry)
            pipe.get(keys.telemetry_bytes)
            length, size = cast("tuple[int, bytes | None]", await pipe.execute())
        waiting = int(size or 0)
        if length == 0:
            return [], 0
        mean = max(1, waiting // length)
        count = max(1, min(BATCH_WINDOWS, BATCH_BYTES // mean))
        entries = await self._redis.xrange(
            keys.telemetry, min="(" + self._last_id.decode(), max="+", count=count
        )
        return cast("list[Entry]", entries), waiting


def _milliseconds(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])


def _after(entry_id: bytes) -> str:
    """The lowest id after this one."""
    milliseconds, _, sequence = entry_id.partition(b"-")
    return f"{int(milliseconds)}-{int(sequence) + 1}"


def _seed(entry_id: bytes) -> int:
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds) << 20 ^ int(sequence)


def _decode(cluster_id: str, name: NodeModel, stored: Mapping[bytes, bytes]) -> dict[int, Kept]:
    buckets = {}
    for start, value in stored.items():
        try:
            bucket = decode_bucket(value)
            buckets[int(start)] = Kept(bucket.digest, bucket.newest_us, value)
        except ValueError as error:
            log.error(
                "a bucket of statistics cannot be read and is left out",
                cluster_id=cluster_id,
                node_id=name[0],
                model_id=name[1],
                bucket=start.decode(errors="replace"),
                error=str(error),
            )
    return buckets


Window = tuple[PackedWindow, int]
"""With the seed that names its stream entry."""


def _fold_batch(
    cluster_id: str,
    entries: list[Entry],
    known: Mapping[NodeModel, Mapping[int, Kept]],
    models: Mapping[str, ModelRecord],
    nodes: Collection[str],
    span_us: int,
) -> _Folded:
    parts: dict[tuple[NodeModel, int], list[tuple[bytes, Window]]] = {}
    size = 0
    left_out: list[tuple[bytes, Exception]] = []
    for entry_id, fields in entries:
        packed = fields.get(b"w", b"")
        size += len(packed)
        try:
            window = unpack(packed)
            _require_registered(window, models, nodes)
        except ValueError as error:
            left_out.append((entry_id, error))
            continue
        place = (window.node_id, window.model_id), window.end_us // span_us * span_us
        parts.setdefault(place, []).append((entry_id, (window, _seed(entry_id))))
    windows = tokens = activations = 0
    buckets: dict[NodeModel, dict[int, Kept]] = {}
    newest: dict[NodeModel, int] = {}
    blocks = _blocks_of_all(known, parts, models)
    layouts = {model_id: Layout.of(model) for model_id, model in models.items()}
    for (name, start), windows_of in parts.items():
        before = known.get(name, {}).get(start)
        folding = _Folding(layouts[name[1]], span_us, before)
        folding.add(windows_of, left_out)
        if folding.bucket is None:
            continue
        windows += folding.windows
        tokens += folding.tokens
        activations += folding.activations
        newest[name] = max(folding.bucket.newest_us, newest.get(name, 0))
        buckets.setdefault(name, {})[start] = Kept.of(folding.bucket.trimmed(blocks))
    for entry_id, reason in left_out:
        log.warning(
            "a window in the stream is left out",
            cluster_id=cluster_id,
            entry=entry_id.decode(),
            reason=str(reason),
        )
    return _Folded(buckets, windows, len(left_out), tokens, activations, size, newest)


def _require_registered(
    window: PackedWindow, models: Mapping[str, ModelRecord], nodes: Collection[str]
) -> None:
    if window.node_id not in nodes:
        raise ValueError(f"node {window.node_id!r} is no longer registered")
    model = models.get(window.model_id)
    if model is None or model.digest != window.model_digest:
        raise ValueError(f"model {window.model_id!r} is no longer registered with these blocks")


class _Folding:
    """One bucket and the windows that go into it."""

    def __init__(self, layout: Layout, span_us: int, before: Kept | None) -> None:
        self._layout = layout
        self._span_us = span_us
        self._before = before
        self.bucket: Bucket | None = None
        """As it is now; None while nothing was added."""
        self.windows = self.tokens = self.activations = 0
        """What was added."""

    def add(self, windows: list[tuple[bytes, Window]], left_out: list[tuple[bytes, Exception]]) -> None:
        """All windows but those that do not fit the model."""
        try:
            self._add_all([window for _, window in windows])
        except (ValueError, IndexError, OverflowError) as error:
            if len(windows) == 1:
                left_out.append((windows[0][0], error))
                return
            for window in windows:
                self.add([window], left_out)

    def _add_all(self, windows: list[Window]) -> None:
        # A window that does not fit may have been added in part: what was there is decoded anew each time.
        stored = Kept.of(self.bucket) if self.bucket is not None else self._before
        before = None if stored is None else stored.bucket()
        bucket = Bucket.of(windows, self._layout, self._span_us, before)
        self.bucket = bucket
        self.windows += len(windows)
        self.tokens += sum(window.tokens for window, _ in windows)
        self.activations += sum(int(window.counted().sum()) for window, _ in windows)


def _blocks_of_all(
    known: Mapping[NodeModel, object],
    parts: Iterable[tuple[NodeModel, int]],
    models: Mapping[str, ModelRecord],
) -> int:
    """Blocks over all buckets there may be."""
    names = {*known, *(name for name, _ in parts)}
    return (BUCKETS_PER_WINDOW + 1) * sum(len(models[model_id].blocks) for _, model_id in names)
