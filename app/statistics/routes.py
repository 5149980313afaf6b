"""The routes of a problem: those sampled at each node, weighed and completed to make the calls counted."""

import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from app.statistics.fleet import Fleet
from app.statistics.raking import Rated, complete, rake
from app.statistics.reservoir import thinned
from app.statistics.statistics import Statistics, Traffic
from solvers.chunks import even_ranges, side_by_side

Bools = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

MAX_ROUTES = 200_000
"""Sampled routes of a problem, about; beyond, each (node, block) is sampled down to its share."""

MAX_COMPLETIONS = 1_000_000
"""Routes that complete the sampled ones in a problem, about, and in each half of it half as many. They are
exact where these suffice for one of each expert of each (node, block): in fleets of up to 65 nodes of
58 x 256, or 600 nodes of 24 x 64."""

_MIN_ROUTES_PER_BLOCK = 16
_MAX_ROUTES_PER_BLOCK = 512


class Routes(NamedTuple):
    """R routes in order of node and block.

    node int32[R]; block int32[R]; experts int32[R, K], ids within the block, -1 pads; rate float64[R]
    """

    node: Int32
    block: Int32
    experts: Int32
    rate: Float64


class Sample(NamedTuple):
    """Routes seen of one model at one node, in order of block, and the calls counted.

    block int32[R]; experts int32[R, K], ids within the block, -1 pads; weight float64[R]: relative within a
    block; calls float64[E]: per second
    """

    block: Int32
    experts: Int32
    weight: Float64
    calls: Float64


def room_for_samples(cells: int) -> int:
    """Sampled routes of each of so many (node, block), at most."""
    return min(_MAX_ROUTES_PER_BLOCK, max(_MIN_ROUTES_PER_BLOCK, MAX_ROUTES // max(1, cells)))


def fleet_routes(fleet: Fleet, statistics: Statistics, alive: Bools) -> Routes:
    """Of the nodes that are alive: bool[N]. Deterministic; a node's routes depend on its own traffic, and on
    how many others there are where these are very many. O(N E + R K)."""
    return _routes(fleet, statistics, alive, _whole, MAX_COMPLETIONS)


def half_routes(fleet: Fleet, statistics: Statistics, alive: Bools) -> tuple[Routes, Routes]:
    """As `fleet_routes`, of time buckets of even number and of the others, each at its own rates."""
    even, odd = (
        _routes(fleet, statistics, alive, part, MAX_COMPLETIONS // 2) for part in (_of_even, _of_odd)
    )
    return even, odd


def _routes(
    fleet: Fleet,
    statistics: Statistics,
    alive: Bools,
    part: Callable[[Traffic], tuple[Float64, Float64]],
    completions: int,
) -> Routes:
    """part: the weights of a node's routes float64[R] and the calls of its experts float64[E]."""
    cells = max(1, int(alive.sum()) * len(fleet.blocks))
    capacity = room_for_samples(cells)
    most = max(_MIN_ROUTES_PER_BLOCK, completions // cells)
    spans = [_Span.of(fleet, index) for index in range(len(fleet.models))]

    def some(low: int, high: int) -> list[Routes]:
        found = []
        for row in (low + np.flatnonzero(alive[low:high])).tolist():
            for model, span in zip(fleet.models, spans, strict=True):
                traffic = statistics.traffic.get((fleet.node_ids[row], model.model_id))
                if traffic is None or traffic.digest != model.digest:
                    continue
                seed = zlib.crc32(f"{fleet.node_ids[row]}/{model.model_id}".encode())
                sampled = np.bincount(traffic.route_block, minlength=len(span.top_k)) > 0
                sample = _sample(traffic, *part(traffic), capacity)
                rated = matched(sample, span.offset, span.top_k, sampled, most=most, seed=seed)
                node = np.full(len(rated.rate), row, np.int32)
                found.append(Routes(node, rated.block + np.int32(span.first), rated.experts, rated.rate))
        return found

    found = side_by_side(some, even_ranges(len(fleet.nodes), fleet.experts))
    return _joined([routes for parts in found for routes in parts])


class _Span(NamedTuple):
    """The blocks of one model. first: of them; offset int64[B + 1]: first column of each; top_k int64[B]."""

    first: int
    offset: Int64
    top_k: Int64

    @classmethod
    def of(cls, fleet: Fleet, index: int) -> "_Span":
        start, end = fleet.model_block_offset[index : index + 2].tolist()
        offset = fleet.block_offset[start : end + 1] - fleet.block_offset[start]
        return cls(start, offset, fleet.top_k[start:end])


def matched(sample: Sample, offset: Int64, top_k: Int64, sampled: Bools, *, most: int, seed: int) -> Rated:
    """The sample raked and completed: routes that call every expert as often as was counted.

    offset int64[B + 1]: first column of each block; top_k int64[B]; sampled bool[B]: the blocks whose company
    of experts is known in part. The others get routes of one expert, each call by itself. What may be added
    to a sample, of other nodes or of other times, must be added before. `most`, `seed`: as of `complete`.
    """
    raked = rake(*sample, offset)
    some = raked.rate > 0
    columns = np.repeat(sampled, np.diff(offset))
    completion = complete(np.where(columns, raked.rest, 0.0), offset, top_k, most, seed)
    column_block = np.repeat(np.arange(len(top_k), dtype=np.int32), np.diff(offset))
    lone = np.flatnonzero(~columns & (sample.calls > 0))
    single = (lone - offset[column_block[lone]]).astype(np.int32)[:, None]
    block = np.concatenate([sample.block[some], completion.block, column_block[lone]])
    order = np.argsort(block, kind="stable")
    experts = _stacked([sample.experts[some], completion.experts, single])
    rate = np.concatenate([raked.rate[some], completion.rate, sample.calls[lone]])
    return Rated(block[order], experts[order], rate[order])


def _whole(traffic: Traffic) -> tuple[Float64, Float64]:
    return traffic.route_weight, traffic.activations_per_second


def _of_even(traffic: Traffic) -> tuple[Float64, Float64]:
    return traffic.even_route_weight, traffic.even_activations_per_second


def _of_odd(traffic: Traffic) -> tuple[Float64, Float64]:
    (weight, calls), (even_weight, even_calls) = _whole(traffic), _of_even(traffic)
    return np.maximum(weight - even_weight, 0.0), np.maximum(calls - even_calls, 0.0)


def _sample(traffic: Traffic, weight: Float64, calls: Float64, capacity: int) -> Sample:
    """With at most `capacity` routes of each block."""
    block, experts = traffic.route_block, traffic.route_experts
    some = weight > 0
    if not some.all():
        block, experts, weight = block[some], experts[some], weight[some]
    kept, estimate = thinned(block, weight, capacity)
    return Sample(block[kept], experts[kept], estimate, calls)


def _joined(parts: list[Routes]) -> Routes:
    if not parts:
        nothing = np.zeros(0, np.int32)
        return Routes(nothing, nothing, np.zeros((0, 1), np.int32), np.zeros(0))
    return Routes(
        np.concatenate([part.node for part in parts]),
        np.concatenate([part.block for part in parts]),
        _stacked([part.experts for part in parts]),
        np.concatenate([part.rate for part in parts]),
    )


def _stacked(parts: list[Int32]) -> Int32:
    """Below each other, as wide as the widest that has rows."""
    width = max((part.shape[1] for part in parts if len(part)), default=1)
    stacked = np.full((sum(len(part) for part in parts), width), -1, np.int32)
    at = 0
    for part in parts:
        if len(part):
            stacked[at : at + len(part), : part.shape[1]] = part
        at += len(part)
    return stacked
