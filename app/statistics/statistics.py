"""What a cluster's tokens activated lately: exact counts in time buckets, and rates read off them.

Nothing is decayed where it is stored. A bucket holds whole numbers and a sample of routes, so folding
windows in any order gives the same bucket, and totals can be checked to the last activation. Age comes in
when rates are read: a bucket counts 2^(-age / half-life), its age measured from the end of the cluster's
newest window, so that the same data give the same rates at any time of day.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from app.clusters.schemas import ClusterSettings
from app.models.schemas import ModelRecord
from app.statistics.counting import Counts, added, no_counts, wider
from app.statistics.coverage import Coverage, weighed_us
from app.statistics.reservoir import Reservoir, capacity_per_block, joined, merge, uniforms, widened
from app.telemetry.packed import EXPERT, NO_EXPERT, PackedRoutes, PackedWindow

BUCKETS_PER_WINDOW = 12
"""Time buckets in `statistics_window_seconds`."""

MIN_BUCKETS_SHOWN = 3

MIN_OBSERVED_SECONDS = 1.0
"""What a rate is divided by at least: a window of a microsecond says nothing about a second."""

MICROSECONDS = 1_000_000

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

NodeModel = tuple[str, str]
"""(node_id, model_id)"""

SeededWindow = tuple[PackedWindow, int]
"""With the seed that names its stream entry."""


def bucket_us(settings: ClusterSettings) -> int:
    return max(1, round(settings.statistics_window_seconds * MICROSECONDS) // BUCKETS_PER_WINDOW)


@dataclass(frozen=True, eq=False)
class Layout:
    """Where a model's blocks are. blocks: layer -> index; offset int64[B + 1]: first expert of each block."""

    blocks: Mapping[int, int]
    offset: Int64

    @classmethod
    def of(cls, model: ModelRecord) -> "Layout":
        offset = np.zeros(len(model.blocks) + 1, np.int64)
        np.cumsum([block.experts for block in model.blocks], out=offset[1:])
        return cls({block.layer: index for index, block in enumerate(model.blocks)}, offset)

    def index(self, layer: int) -> int:
        index = self.blocks.get(layer)
        if index is None:
            raise ValueError(f"the model has no layer {layer}")
        return index

    def experts(self, layer: int) -> int:
        index = self.index(layer)
        return int(self.offset[index + 1] - self.offset[index])


@dataclass(eq=False, slots=True)  # not frozen: folding makes one for each window of a large fleet
class Bucket:
    """Windows of one model at one node that ended in one span of time. B blocks, E experts of the model.

    coverage: when each block was observed, and the tokens then; duration_us: sum over the windows; counts[E],
    block after block.
    """

    digest: str
    start_us: int
    newest_us: int
    windows: int
    tokens: int
    duration_us: int
    coverage: Coverage
    counts: Counts
    routes: Reservoir

    @classmethod
    def of(
        cls,
        windows: Sequence[SeededWindow],
        layout: Layout,
        span_us: int,
        before: "Bucket | None" = None,
    ) -> "tuple[Bucket, int]":
        """`before`, whose arrays are used up, and windows that all ended in its span, each with the seed that
        names its stream entry; and the activations that they counted. The sample of routes may be larger than
        a bucket keeps (`trimmed`).

        Raises ValueError, with `before` as it was, where a window does not fit the model. A block without
        counts in a window that has tokens was not observed (its counts were refused); in a window without
        tokens all were, and idle.
        """
        for window, _ in windows:
            _require_fit(window, layout)
        routes = _reservoir(windows, layout)
        counts = no_counts(layout.offset[-1]) if before is None else before.counts
        coverage = Coverage.nothing(len(layout.blocks)) if before is None else before.coverage
        newest_us = windows_before = tokens = duration_us = activations = 0
        if before is not None:
            newest_us, windows_before = before.newest_us, before.windows
            tokens, duration_us = before.tokens, before.duration_us
        for window, _ in windows:
            duration = window.end_us - window.start_us
            blocks = None
            if window.layers is not None and window.tokens:
                blocks = [layout.index(layer) for layer in window.layers]
            coverage.add(window.start_us, window.end_us, window.tokens, blocks)
            counts, counted = _with_counts(window, counts, layout)
            activations += counted
            newest_us = max(newest_us, window.end_us)
            tokens += window.tokens
            duration_us += duration
        if before is not None:
            routes = before.routes if routes is None else joined([before.routes, routes])
        first = windows[0][0]
        grown = cls(
            first.model_digest,
            first.end_us // span_us * span_us,
            newest_us,
            windows_before + len(windows),
            tokens,
            duration_us,
            coverage,
            counts,
            Reservoir.empty(len(layout.blocks)) if routes is None else routes,
        )
        return grown, activations

    def capacity(self, blocks_of_all: int = 0) -> int:
        """Routes that it keeps of each block."""
        return capacity_per_block(len(self.coverage.part), blocks_of_all)

    @property
    def nbytes(self) -> int:
        """Of its arrays, about."""
        return self.counts.nbytes + self.routes.nbytes

    def trimmed(self, blocks_of_all: int = 0) -> "Bucket":
        """With no more routes than its `capacity`."""
        if not len(self.routes):
            return self
        capacity = self.capacity(blocks_of_all)
        if self.routes.ordered and np.bincount(self.routes.block, minlength=1).max() <= capacity:
            return self
        return replace(self, routes=merge([self.routes], capacity))


def _require_fit(window: PackedWindow, layout: Layout) -> None:
    counted, experts = window.counted(), window.counted_experts()
    if experts is not None:
        if len(experts) and experts.max() >= layout.offset[-1]:
            raise ValueError(f"counts of expert {experts.max()}, the model has {layout.offset[-1]}")
        wanted = len(experts)
    elif window.layers is None:
        wanted = layout.offset[-1]
    else:
        wanted = sum(layout.experts(layer) for layer in window.layers)
    if len(counted) != wanted:
        raise ValueError(f"{len(counted)} counts for {wanted} experts")


def _with_counts(window: PackedWindow, counts: Counts, layout: Layout) -> tuple[Counts, int]:
    """`counts`, which are used up, with those of the window; and the activations that it counted."""
    counted, experts = window.counted(), window.counted_experts()
    if experts is not None:
        sums = counts[experts].astype(np.int64) + counted
        while sums.max(initial=0) > np.iinfo(counts.dtype).max:
            counts = wider(counts)
        counts[experts] = sums
        return counts, int(counted.sum())
    if window.layers is None:
        return added(counts, counted)
    at = activations = 0
    for layer in window.layers:
        number = layout.experts(layer)
        counts, part = added(counts, counted[at : at + number], int(layout.offset[layout.index(layer)]))
        activations += part
        at += number
    return counts, activations


def _reservoir(windows: Sequence[SeededWindow], layout: Layout) -> Reservoir | None:
    """All routes of the windows; None without any."""
    parts = [routes for window, _ in windows for routes in window.routes]
    if not parts:
        return None
    lengths = [routes.length for routes in parts]
    block = np.repeat(np.asarray([layout.index(routes.layer) for routes in parts], np.int32), lengths)
    experts = _experts(parts)
    if len(experts) != len(block):
        raise ValueError("a set of routes is cut short")
    limit = np.diff(layout.offset)[block][:, None]
    if ((experts >= limit) & (experts != NO_EXPERT)).any():
        raise ValueError("a route names an unknown expert")
    if all(routes.weights is None for routes in parts):
        weight = np.ones(len(experts), np.float32)
    else:
        weight = np.concatenate([routes.weighed() for routes in parts])
    if len(weight) != len(experts):
        raise ValueError(f"{len(weight)} weights for {len(experts)} routes")
    return Reservoir.of(
        len(layout.blocks),
        block,
        experts,
        weight,
        np.concatenate(
            [uniforms(seed, sum(routes.length for routes in window.routes)) for window, seed in windows]
        ),
    )


def _experts(parts: Sequence[PackedRoutes]) -> npt.NDArray[np.uint16]:
    """uint16[S, K] of all of them, padded."""
    widths = {routes.k for routes in parts}
    if len(widths) == 1:
        joined_bytes = b"".join([routes.experts for routes in parts])
        experts = np.frombuffer(joined_bytes, EXPERT).reshape(-1, widths.pop())
    else:
        experts = np.concatenate([widened(routes.sets(), max(widths)) for routes in parts])
    return experts.astype(np.uint16, copy=False)


@dataclass(frozen=True, eq=False)
class Traffic:
    """Rates of one model at one node. B blocks, E experts of the model, R different routes.

    activations_per_second float64[E]
    route_block int32[R], in order; route_experts int32[R, K], each route ascending, -1 pads
    route_weight float64[R]: relative within a block, since only some tokens are sampled
    even_activations_per_second, even_route_weight: the part of both from time buckets of even number. What
    one half of the buckets says can be tried on the other, whose requests are others.
    shown_calls_per_second: median over time buckets, 0 with fewer than MIN_BUCKETS_SHOWN
    counted_calls: that the rates were made of, of whatever age
    route_samples float64[B]: tokens that were sampled of each block; of those that age, their part
    """

    digest: str
    tokens_per_second: float
    activations_per_second: Float64
    even_activations_per_second: Float64
    route_block: Int32
    route_experts: Int32
    route_weight: Float64
    even_route_weight: Float64
    windows: int
    newest_us: int
    route_samples: Float64
    shown_calls_per_second: float = 0.0
    counted_calls: float = 0.0


@dataclass(frozen=True, eq=False)
class Statistics:
    traffic: Mapping[NodeModel, Traffic]
    until_us: int | None
    """End of the newest window of the cluster; None while there is none."""

    @property
    def until(self) -> datetime | None:
        if self.until_us is None:
            return None
        return datetime.fromtimestamp(self.until_us / MICROSECONDS, UTC)


def combine(
    buckets: Mapping[NodeModel, Iterable[Bucket]],
    models: Mapping[str, ModelRecord],
    settings: ClusterSettings,
    until_us: int | None,
    since_us: int | None = None,
) -> Statistics:
    """Rates over the statistics window, recent buckets weighing more. CPU-bound: call it in a thread.

    What was recorded of other models, or of models since registered with other blocks, is left out; with
    `since_us`, buckets that began before it as well.
    """
    traffic = {}
    if until_us is not None:
        oldest = until_us - round(settings.statistics_window_seconds * MICROSECONDS)
        earliest = 0 if since_us is None else since_us
        span_us = bucket_us(settings)
        for node_id, model_id in sorted(buckets):
            model = models.get(model_id)
            recent = sorted(
                (
                    bucket
                    for bucket in buckets[node_id, model_id]
                    if model is not None
                    and bucket.digest == model.digest
                    and bucket.newest_us > oldest
                    and bucket.start_us >= earliest
                ),
                key=lambda bucket: (bucket.start_us, bucket.newest_us),
            )
            if model is not None and recent:
                traffic[node_id, model_id] = _traffic(
                    recent, model, settings.statistics_half_life_seconds, span_us
                )
    return Statistics(traffic, until_us)


def _traffic(
    buckets: list[Bucket], model: ModelRecord, half_life_seconds: float | None, span_us: int
) -> Traffic:
    # A rate is a quotient, so only ages relative to each other matter: taken from the newest bucket of this
    # node, they cannot underflow where the node has long been silent.
    newest_us = max(bucket.newest_us for bucket in buckets)
    weights = [
        1.0
        if half_life_seconds is None
        else 2.0 ** (-(newest_us - bucket.newest_us) / MICROSECONDS / half_life_seconds)
        for bucket in buckets
    ]
    counts = np.zeros(len(buckets[0].counts))
    even_counts = np.zeros(len(counts))
    even = [bucket.start_us // span_us % 2 == 0 for bucket in buckets]
    for bucket, weight, is_even in zip(buckets, weights, even, strict=True):
        counts += bucket.counts * weight
        if is_even:
            even_counts += bucket.counts * weight
    observed, tokens_per_second = _observed(buckets, weights)
    per_expert = np.repeat(observed, [block.experts for block in model.blocks])
    rates, even_rates = (
        np.divide(part, per_expert, out=np.zeros_like(part), where=per_expert > 0)
        for part in (counts, even_counts)
    )
    return Traffic(
        buckets[0].digest,
        tokens_per_second,
        rates,
        even_rates,
        *_different_routes([bucket.routes for bucket in buckets], weights, even),
        sum(bucket.windows for bucket in buckets),
        newest_us,
        _samples([bucket.routes for bucket in buckets], weights, len(model.blocks)),
        _shown(buckets),
        float(sum(bucket.counts.sum(dtype=np.float64) for bucket in buckets)),
    )


def _observed(buckets: list[Bucket], weights: list[float]) -> tuple[Float64, float]:
    """Seconds of each block, float64[B], and tokens per second.

    Tokens of layers over seconds of layers: a pipeline stage has all tokens and some layers, a data-parallel
    rank some tokens and all layers.
    """
    observed: list[float] = []
    known: dict[tuple[int, ...], tuple[float, float]] = {}
    seconds = tokens = 0.0
    for parts in zip(*(bucket.coverage.part for bucket in buckets), strict=True):
        if parts not in known:
            stretches = [
                (bucket.coverage.stretches[part], weight)
                for bucket, part, weight in zip(buckets, parts, weights, strict=True)
            ]
            known[parts] = (
                weighed_us(stretches) / MICROSECONDS,
                sum(stretch.tokens * weight for stretch, weight in stretches),
            )
        block_seconds, block_tokens = known[parts]
        if block_seconds > 0:
            block_seconds = max(block_seconds, MIN_OBSERVED_SECONDS * max(weights))
        observed.append(block_seconds)
        seconds += block_seconds
        tokens += block_tokens
    if seconds == 0.0:  # no layer could be read
        seconds = sum(b.duration_us * w for b, w in zip(buckets, weights, strict=True)) / MICROSECONDS
        tokens = sum(b.tokens * w for b, w in zip(buckets, weights, strict=True))
    return np.asarray(observed), tokens / seconds if seconds > 0 else 0.0


def _shown(buckets: list[Bucket]) -> float:
    """Calls per second in the middle one of the buckets."""
    if len(buckets) < MIN_BUCKETS_SHOWN:
        return 0.0
    rates = []
    for bucket in buckets:
        stretches = [(bucket.coverage.stretches[part], 1.0) for part in set(bucket.coverage.part)]
        seconds = max((weighed_us([each]) for each in stretches), default=0.0) / MICROSECONDS
        rates.append(float(bucket.counts.sum(dtype=np.float64)) / max(seconds, MIN_OBSERVED_SECONDS))
    return float(np.median(rates))


def _different_routes(
    parts: list[Reservoir], weights: list[float], even: list[bool]
) -> tuple[Int32, Int32, Float64, Float64]:
    """Each different route once, with the sum of its estimates, and of those from parts that are `even`; in
    order of block, then of experts."""
    width = max(part.experts.shape[1] for part in parts)
    rows = sum(len(part.block) for part in parts)
    key = np.full((rows, 1 + width), NO_EXPERT, np.int32)
    estimate = np.zeros((rows, 2))
    at = 0
    for part, weight, is_even in zip(parts, weights, even, strict=True):
        end = at + len(part.block)
        key[at:end, 0] = part.block
        key[at:end, 1 : 1 + part.experts.shape[1]] = part.experts
        estimate[at:end, 0] = part.estimates() * weight
        estimate[at:end, 1] = estimate[at:end, 0] * is_even
        at = end
    key[:, 1:].sort(axis=1)
    key, totals = merged_routes(key, estimate)
    experts = key[:, 1:].copy()
    experts[experts == NO_EXPERT] = -1
    return key[:, 0].copy(), experts, totals[:, 0].copy(), totals[:, 1].copy()


def merged_routes(key: Int32, weight: Float64) -> tuple[Int32, Float64]:
    """Each different row of `key` int32[R, 1 + K] (block, then experts in one order) once, sorted, and the
    sums of its rows of `weight` float64[R, W]."""
    order = np.lexsort(key.T[::-1])
    key, weight = key[order], weight[order]
    first = np.ones(len(key), np.bool_)
    first[1:] = (key[1:] != key[:-1]).any(axis=1)
    starts = np.flatnonzero(first)
    return key[starts], np.add.reduceat(weight, starts) if len(starts) else weight


def _samples(parts: list[Reservoir], weights: list[float], blocks: int) -> Float64:
    """float64[B]: how many tokens drawn evenly would say as much as the routes kept (Kish: Survey sampling,
    1965): (sum of e)^2 / sum of e^2 / m, e the estimate of a route kept, m how many sampled tokens took it.

    A window names a route once, with the tokens that it stands for. The least of a block is taken for what
    one sampled token stands for.
    """
    total, squares = np.zeros(blocks), np.zeros(blocks)
    for part, weight in zip(parts, weights, strict=True):
        least = np.full(blocks, np.inf)
        np.minimum.at(least, part.block, part.weight)
        estimate = part.estimates() * weight
        tokens = part.weight / least[part.block]
        total += np.bincount(part.block, estimate, minlength=blocks)
        squares += np.bincount(part.block, estimate**2 / tokens, minlength=blocks)
    samples: Float64 = np.divide(total**2, squares, out=np.zeros(blocks), where=squares > 0)
    return samples
