"""Windows of the stream, added up until they are committed. Run it in a thread: it takes its time."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog

from app.models.schemas import ModelRecord
from app.statistics.bucket_encoding import decode_bucket, encode_bucket
from app.statistics.counting import NARROWEST_BYTES
from app.statistics.statistics import BUCKETS_PER_WINDOW, Bucket, Layout, NodeModel, SeededWindow
from app.telemetry.packed import NewerWindow, PackedWindow, unpack

log = structlog.stdlib.get_logger(__name__)

Entry = tuple[bytes, dict[bytes, bytes]]
"""Of a stream: id and fields."""

FULL_WINDOWS = 8192
FULL_ENTRY_BYTES = 256 << 20
"""Redis frees as much in one go when the batch is committed; some 10 ms."""

FULL_BUCKET_BYTES = 64 << 20
"""Of the buckets that change. Stored they are half as large, and Redis takes them in one go too."""

GATHERED_BYTES = 64 << 20
"""Windows, as they lie in the stream, that are gathered before they are added up: what a node's bucket costs
each time it grows is shared by those that it has among them."""

_UNFIT = (ValueError, IndexError, OverflowError)
"""What windows raise that do not fit their model, whatever wrote them."""

CROWDED = 2
"""Times what a bucket keeps of routes; with more, they are sampled before the batch ends. Sampling sorts."""


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """A bucket as stored: decoded where it is needed, so that a large fleet's fit into memory."""

    digest: str
    newest_us: int
    stored: bytes

    @classmethod
    def of(cls, bucket: Bucket) -> "Kept":
        return cls(bucket.digest, bucket.newest_us, encode_bucket(bucket))

    @classmethod
    def of_stored(cls, stored: bytes) -> "Kept":
        """Raises ValueError on bytes that `encode_bucket` did not write."""
        bucket = decode_bucket(stored)
        return cls(bucket.digest, bucket.newest_us, stored)

    def bucket(self) -> Bucket:
        return decode_bucket(self.stored)


Spans = Mapping[int, Kept]
"""Buckets by when they start, microseconds since the epoch."""


@dataclass(frozen=True, eq=False)
class Folded:
    """What a batch comes to."""

    buckets: Mapping[NodeModel, Spans]
    """Those that changed, whole."""
    windows: int
    discarded: int
    tokens: int
    activations: int
    entry_bytes: int


class FoldBatch:
    """The windows of one transaction, a piece after another. Not for use by two threads at once."""

    def __init__(
        self,
        known: Mapping[NodeModel, Spans],
        models: Mapping[str, ModelRecord],
        nodes: Collection[str],
        span_us: int,
    ) -> None:
        """known: the buckets so far. models, nodes: as registered; windows of others are left out."""
        self._known = known
        self._models = models
        self._layouts = {model_id: Layout.of(model) for model_id, model in models.items()}
        self._nodes = frozenset(nodes)
        self._span_us = span_us
        self._names: set[NodeModel] = set()
        self._blocks_of_all = 0
        self._grown: dict[tuple[NodeModel, int], Bucket] = {}
        self._windows = self._discarded = self._tokens = self._activations = 0
        self._entry_bytes = self._bucket_bytes = 0
        self._gathered: dict[tuple[NodeModel, int], list[tuple[bytes, SeededWindow]]] = {}
        self._gathered_windows = self._gathered_bytes = self._coming_bytes = 0
        for name in known:
            self._name(name)

    @property
    def full(self) -> bool:
        return (
            self._windows + self._gathered_windows + self._discarded >= FULL_WINDOWS
            or self._entry_bytes >= FULL_ENTRY_BYTES
            or self._bucket_bytes + self._coming_bytes >= FULL_BUCKET_BYTES
        )

    def add(self, entries: Sequence[Entry]) -> int:
        """All windows but those that cannot be read or do not fit what is registered.

        Returns how many of the entries were dealt with: those before the first window that only a worker of a
        newer version can read.
        """
        taken = 0
        for entry_id, fields in entries:
            packed = fields.get(b"w", b"")
            try:
                window = unpack(packed)
                self._require_registered(window)
            except NewerWindow as error:
                log.warning("windows wait for a newer worker", entry=entry_id.decode(), reason=str(error))
                break
            except ValueError as error:
                self._leave_out(entry_id, error)
            else:
                start = window.end_us // self._span_us * self._span_us
                self._gather(((window.node_id, window.model_id), start), entry_id, window, len(packed))
            self._entry_bytes += len(packed)
            taken += 1
        if self._gathered_bytes > GATHERED_BYTES:
            self._add_up()
        return taken

    def _gather(self, place: tuple[NodeModel, int], entry_id: bytes, window: PackedWindow, size: int) -> None:
        several = self._gathered.get(place)
        if several is None:
            several = self._gathered[place] = []
            if place not in self._grown:
                self._coming_bytes += NARROWEST_BYTES * int(self._layouts[window.model_id].offset[-1])
        several.append((entry_id, (window, seed_of(entry_id) if window.routes else 0)))
        self._gathered_windows += 1
        self._gathered_bytes += size

    def _add_up(self) -> None:
        """What is gathered."""
        for name, _ in self._gathered:
            self._name(name)
        for place, several in self._gathered.items():
            try:
                self._grow(place, [seeded for _, seeded in several])
            except _UNFIT:
                for entry_id, seeded in several:
                    try:
                        self._grow(place, [seeded])
                    except _UNFIT as error:
                        self._leave_out(entry_id, error)
        self._gathered = {}
        self._gathered_windows = self._gathered_bytes = self._coming_bytes = 0

    def finish(self) -> Folded:
        self._add_up()
        buckets: dict[NodeModel, dict[int, Kept]] = {}
        for (name, start), bucket in self._grown.items():
            buckets.setdefault(name, {})[start] = Kept.of(bucket.trimmed(self._blocks_of_all))
        return Folded(
            buckets, self._windows, self._discarded, self._tokens, self._activations, self._entry_bytes
        )

    def _grow(self, place: tuple[NodeModel, int], windows: list[SeededWindow]) -> None:
        """Raises one of `_UNFIT`, and adds nothing, where a window does not fit the model."""
        name, start = place
        bucket = self._grown.get(place)
        size = 0 if bucket is None else bucket.nbytes
        if bucket is None and (kept := self._known.get(name, {}).get(start)) is not None:
            bucket = kept.bucket()
        grown, activations = Bucket.of(windows, self._layouts[name[1]], self._span_us, bucket)
        routes = len(grown.routes)
        if routes and routes > CROWDED * grown.capacity(self._blocks_of_all) * len(grown.coverage.part):
            grown = grown.trimmed(self._blocks_of_all)
        self._activations += activations
        self._bucket_bytes += grown.nbytes - size
        self._grown[place] = grown
        self._windows += len(windows)
        self._tokens += sum(window.tokens for window, _ in windows)

    def _name(self, name: NodeModel) -> None:
        if name not in self._names:
            self._names.add(name)
            self._blocks_of_all += (BUCKETS_PER_WINDOW + 1) * len(self._models[name[1]].blocks)

    def _require_registered(self, window: PackedWindow) -> None:
        if window.node_id not in self._nodes:
            raise ValueError(f"node {window.node_id!r} is no longer registered")
        model = self._models.get(window.model_id)
        if model is None or model.digest != window.model_digest:
            raise ValueError(f"model {window.model_id!r} is no longer registered with these blocks")

    def _leave_out(self, entry_id: bytes, reason: Exception) -> None:
        self._discarded += 1
        log.warning("a window in the stream is left out", entry=entry_id.decode(), reason=str(reason))


def seed_of(entry_id: bytes) -> int:
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds) << 20 ^ int(sequence)
