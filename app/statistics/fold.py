"""Telemetry from the stream into statistics, once and only once.

Windows are read piece by piece and added up in memory, so that a bucket is stored once however many windows
of a backlog go into it.

One transaction writes the buckets, the id folded so far and the totals, and trims the stream; it commits
only while the lease is held and the folded id is the one the fold began at. A crash at any point, a lost
answer to the commit, or a second worker therefore folds nothing twice and loses nothing.
"""

import asyncio
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.clusters.schemas import ClusterSettings
from app.models.schemas import ModelRecord
from app.observability.metrics import (
    TELEMETRY_ACTIVATIONS,
    TELEMETRY_DISCARDED,
    TELEMETRY_FOLD_LAG,
    TELEMETRY_FOLDED,
    TELEMETRY_STREAM_BYTES,
    TELEMETRY_TOKENS,
)
from app.statistics.fold_batch import Entry, FoldBatch, Kept
from app.statistics.statistics import MICROSECONDS, Bucket, NodeModel, Statistics, bucket_us, combine
from app.storage.clock import server_seconds
from app.storage.fenced import fenced
from app.storage.keys import ClusterKeys
from app.storage.lease import Lease

PIECE_BYTES = 8 << 20
"""Windows read at once, about; at least one. Redis serves nobody else meanwhile."""

PIECE_WINDOWS = 256

FOLD_SECONDS = 1.0
"""After so long no further windows are read into a batch: the more, the fewer times a bucket is stored."""

START = b"0-0"

log = structlog.stdlib.get_logger(__name__)


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


@dataclass(frozen=True, eq=False)
class _Decoded:
    """Buckets decoded one after another, each time they are asked for."""

    kept: Collection[Kept]

    def __iter__(self) -> Iterator[Bucket]:
        return (kept.bucket() for kept in self.kept)


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
        """Fold one batch of the stream, which takes little more than `FOLD_SECONDS`, and forget what is too
        old or no longer registered.

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

    async def buckets(
        self, models: Mapping[str, ModelRecord], settings: ClusterSettings, since_us: int
    ) -> list[Statistics]:
        """Rates of each time bucket by itself that began at `since_us` or later, in order of time."""
        if not self._loaded:
            await self.load()
        starts = sorted({start for spans in self._buckets.values() for start in spans if start >= since_us})
        parts = [
            {name: _Decoded([spans[start]]) for name, spans in self._buckets.items() if start in spans}
            for start in starts
        ]
        return [
            await asyncio.to_thread(combine, part, dict(models), settings, self.until_us) for part in parts
        ]

    async def _fold(
        self, models: Mapping[str, ModelRecord], nodes: Collection[str], settings: ClusterSettings
    ) -> FoldOutcome:
        length, waiting = await self._waiting()
        gone = {
            name
            for name, spans in self._buckets.items()
            if name[0] not in nodes
            or name[1] not in models
            or any(b.digest != models[name[1]].digest for b in spans.values())
        }
        if not length and not gone:
            TELEMETRY_FOLD_LAG.set(self._keys.cluster_id, 0.0)
            TELEMETRY_STREAM_BYTES.set(self._keys.cluster_id, 0)
            return NOTHING
        known = {name: spans for name, spans in self._buckets.items() if name not in gone}
        batch = await asyncio.to_thread(FoldBatch, known, dict(models), nodes, bucket_us(settings))
        last_id, more = await self._add(batch, mean_bytes=waiting // max(1, length))
        folded = await asyncio.to_thread(batch.finish)
        newest = {n: us for n, us in self._newest_us.items() if n not in gone}
        for name, spans in folded.buckets.items():
            newest[name] = max(newest.get(name, 0), *(kept.newest_us for kept in spans.values()))
        oldest = max(newest.values(), default=0) - round(settings.statistics_window_seconds * MICROSECONDS)
        buckets = {name: {**spans, **folded.buckets.get(name, {})} for name, spans in known.items()}
        for name, spans in folded.buckets.items():
            buckets.setdefault(name, dict(spans))
        expired = {
            name: [start for start, bucket in spans.items() if bucket.newest_us <= oldest]
            for name, spans in buckets.items()
        }
        for name, starts in expired.items():
            for start in starts:
                del buckets[name][start]
            if not buckets[name]:
                del buckets[name]
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
            index = {}
            for name, spans in folded.buckets.items():
                kept = {
                    str(start): it.stored for start, it in spans.items() if start in buckets.get(name, ())
                }
                if kept:
                    pipe.hset(keys.statistics(*name), mapping=cast("Any", kept))
                    index["/".join(name)] = newest[name]
            if index:
                pipe.hset(keys.statistics_index, mapping=cast("Any", index))
            if last_id != expected:
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
        lag = server_seconds() - _milliseconds(last_id) / 1000 if more else 0.0
        TELEMETRY_FOLD_LAG.set(cluster, max(0.0, lag))
        return FoldOutcome(folded.windows, folded.discarded, folded.tokens, folded.activations, more)

    async def _waiting(self) -> tuple[int, int]:
        """Windows in the stream, and their bytes."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.xlen(self._keys.telemetry)
            pipe.get(self._keys.telemetry_bytes)
            length, size = cast("tuple[int, bytes | None]", await pipe.execute())
        return length, int(size or 0) if length else 0

    async def _add(self, batch: FoldBatch, mean_bytes: int) -> tuple[bytes, bool]:
        """Add a piece while the next is read: the id of the last window added, and whether others wait."""
        count = max(1, min(PIECE_WINDOWS, PIECE_BYTES // max(1, mean_bytes)))
        until = time.monotonic() + FOLD_SECONDS
        last_id = self._last_id
        entries = await self._read(last_id, count)
        while entries:
            adding = asyncio.to_thread(batch.add, entries)
            if len(entries) < count or time.monotonic() > until or batch.full:
                coming: list[Entry] = []
                taken = await adding
            else:
                coming, taken = await asyncio.gather(self._read(entries[-1][0], count), adding)
            if taken:
                last_id = entries[taken - 1][0]
            if taken < len(entries):  # the next window is of a newer version: it waits for a newer worker
                return last_id, False
            if not coming:
                return last_id, len(entries) == count
            entries = coming
        return last_id, False

    async def _read(self, after: bytes, count: int) -> list[Entry]:
        return cast(
            "list[Entry]",
            await self._redis.xrange(self._keys.telemetry, min="(" + after.decode(), max="+", count=count),
        )


def _milliseconds(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])


def _after(entry_id: bytes) -> str:
    """The lowest id after this one."""
    milliseconds, _, sequence = entry_id.partition(b"-")
    return f"{int(milliseconds)}-{int(sequence) + 1}"


def _decode(cluster_id: str, name: NodeModel, stored: Mapping[bytes, bytes]) -> dict[int, Kept]:
    buckets = {}
    for start, value in stored.items():
        try:
            buckets[int(start)] = Kept.of_stored(value)
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
