"""What a cluster's tokens activated lately: exact counts in time buckets, and rates read off them.

Nothing is decayed where it is stored. A bucket holds whole numbers and a sample of routes, so folding
windows in any order gives the same bucket, and totals can be checked to the last activation. Age comes in
when rates are read: a bucket counts 2^(-age / half-life), its age measured from the end of the cluster's
newest window, so that the same data give the same rates at any time of day.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from app.clusters.schemas import ClusterSettings
from app.instance.reservoir import Reservoir, capacity_per_block, merge, uniforms
from app.models.schemas import ModelRecord
from app.telemetry.packed import NO_EXPERT, PackedWindow

BUCKETS_PER_WINDOW = 12
"""Time buckets in `statistics_window_seconds`."""

MICROSECONDS = 1_000_000

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

NodeModel = tuple[str, str]
"""(node_id, model_id)"""


def bucket_us(settings: ClusterSettings) -> int:
    return max(1, round(settings.statistics_window_seconds * MICROSECONDS) // BUCKETS_PER_WINDOW)


@dataclass(frozen=True, eq=False)
class Bucket:
    """Windows of one model at one node that ended in one span of time. B blocks, E experts of the model.

    observed_us int64[B]: how long each block was observed; counts int64[E], block after block
    """

    digest: str
    start_us: int
    newest_us: int
    windows: int
    tokens: int
    duration_us: int
    observed_us: Int64
    counts: Int64
    routes: Reservoir

    @classmethod
    def of(cls, windows: Sequence[tuple[PackedWindow, int]], model: ModelRecord, span_us: int) -> "Bucket":
        """The bucket of windows that all ended in its span, each with the seed that names its stream entry;
        its sample of routes is not cut yet.

        Raises ValueError or IndexError where a window does not fit the model. A block without counts in a
        window that has tokens was not observed (its counts were refused); in a window without tokens all
        were, and idle.
        """
        blocks = {block.layer: index for index, block in enumerate(model.blocks)}
        offset = np.zeros(len(blocks) + 1, np.int64)
        np.cumsum([block.experts for block in model.blocks], out=offset[1:])
        counts = np.zeros(offset[-1], np.int64)
        observed = np.zeros(len(blocks), np.int64)
        for window, _ in windows:
            duration = window.end_us - window.start_us
            if window.layers is None or not window.tokens:
                observed += duration
            else:
                observed[[_index(blocks, layer) for layer in window.layers]] += duration
            _add_counts(window, counts, blocks, offset)
        first = windows[0][0]
        return cls(
            first.model_digest,
            first.end_us // span_us * span_us,
            max(window.end_us for window, _ in windows),
            len(windows),
            sum(window.tokens for window, _ in windows),
            sum(window.end_us - window.start_us for window, _ in windows),
            observed,
            counts,
            _reservoir(windows, blocks, model),
        )

    @property
    def activations(self) -> int:
        return int(self.counts.sum())


def _index(blocks: Mapping[int, int], layer: int) -> int:
    index = blocks.get(layer)
    if index is None:
        raise ValueError(f"the model has no layer {layer}")
    return index


def _add_counts(window: PackedWindow, counts: Int64, blocks: Mapping[int, int], offset: Int64) -> None:
    counted, experts = window.counted(), window.counted_experts()
    if experts is not None:
        counts[experts] += counted
    elif window.layers is None:
        counts += counted
    else:
        at = 0
        for layer in window.layers:
            index = _index(blocks, layer)
            part = counts[offset[index] : offset[index + 1]]
            part += counted[at : at + len(part)]
            at += len(part)
        if at != len(counted):
            raise ValueError(f"{len(counted)} counts for {at} experts")


def _reservoir(
    windows: Sequence[tuple[PackedWindow, int]], blocks: Mapping[int, int], model: ModelRecord
) -> Reservoir:
    parts = [
        (_index(blocks, routes.layer), *routes.rows()) for window, _ in windows for routes in window.routes
    ]
    if not parts:
        return Reservoir.empty(len(blocks))
    width = max(experts.shape[1] for _, experts, _ in parts)
    experts = np.full((sum(len(sets) for _, sets, _ in parts), width), NO_EXPERT, np.uint16)
    at = 0
    for index, sets, _ in parts:
        if ((sets >= model.blocks[index].experts) & (sets != NO_EXPERT)).any():
            raise ValueError(f"a route of layer {model.blocks[index].layer} names an unknown expert")
        experts[at : at + len(sets), : sets.shape[1]] = sets
        at += len(sets)
    return Reservoir.of(
        len(blocks),
        np.repeat(
            np.asarray([index for index, _, _ in parts], np.int32), [len(sets) for _, sets, _ in parts]
        ),
        experts,
        np.concatenate([weights for _, _, weights in parts]),
        np.concatenate(
            [uniforms(seed, sum(routes.length for routes in window.routes)) for window, seed in windows]
        ),
    )


def merge_buckets(parts: list[Bucket], blocks_of_all: int = 0) -> Bucket:
    """All windows of all parts, which are of one node, model, digest and span; `blocks_of_all` as for
    `capacity_per_block`."""
    first = parts[0]
    blocks = len(first.observed_us)
    return Bucket(
        first.digest,
        first.start_us,
        max(part.newest_us for part in parts),
        sum(part.windows for part in parts),
        sum(part.tokens for part in parts),
        sum(part.duration_us for part in parts),
        np.sum([part.observed_us for part in parts], axis=0),
        np.sum([part.counts for part in parts], axis=0),
        merge([part.routes for part in parts], capacity_per_block(blocks, blocks_of_all)),
    )


@dataclass(frozen=True, eq=False)
class Traffic:
    """Rates of one model at one node. B blocks, E experts of the model, R different routes.

    activations_per_second float64[E]
    route_block int32[R], in order; route_experts int32[R, K], each route ascending, -1 pads
    route_weight float64[R]: relative within a block, since only some tokens are sampled
    even_activations_per_second, even_route_weight: the part of both from time buckets of even number. What
    one half of the buckets says can be tried on the other, whose requests are others.
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
    observed = np.zeros(len(model.blocks))
    counts = np.zeros(len(buckets[0].counts))
    even_counts = np.zeros(len(counts))
    even = [bucket.start_us // span_us % 2 == 0 for bucket in buckets]
    seconds = tokens = 0.0
    for bucket, weight, is_even in zip(buckets, weights, even, strict=True):
        observed += bucket.observed_us * (weight / MICROSECONDS)
        counts += bucket.counts * weight
        if is_even:
            even_counts += bucket.counts * weight
        seconds += bucket.duration_us * (weight / MICROSECONDS)
        tokens += bucket.tokens * weight
    per_expert = np.repeat(observed, [block.experts for block in model.blocks])
    rates, even_rates = (
        np.divide(part, per_expert, out=np.zeros_like(part), where=per_expert > 0)
        for part in (counts, even_counts)
    )
    return Traffic(
        buckets[0].digest,
        tokens / seconds if seconds > 0 else 0.0,
        rates,
        even_rates,
        *_different_routes([bucket.routes for bucket in buckets], weights, even),
        sum(bucket.windows for bucket in buckets),
        newest_us,
    )


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
    order = np.lexsort(key.T[::-1])
    key, estimate = key[order], estimate[order]
    first = np.ones(rows, np.bool_)
    first[1:] = (key[1:] != key[:-1]).any(axis=1)
    starts = np.flatnonzero(first)
    experts = key[starts, 1:]
    experts[experts == NO_EXPERT] = -1
    totals = np.add.reduceat(estimate, starts) if rows else estimate
    return key[starts, 0], experts, totals[:, 0].copy(), totals[:, 1].copy()
