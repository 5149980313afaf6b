"""Routes of a node that sampled few, completed with those of the fleet.

Of n tokens sampled at a node and layer, the routes say little where n is small: a placement solved on
them fits their chance. Routes of all nodes together, weighed by how much each node activates, are a
better guess for what the node has not shown yet. They are added with PRIOR_SAMPLES / n of the weight of
the node's own, as if PRIOR_SAMPLES more tokens had been sampled from the fleet (the mean of a Dirichlet
posterior). A layer of which the node sends counts alone keeps its single calls.

This is done before rates are made of the weights. The rates then make exactly the calls of every expert
that the node counted: the fleet says which experts go together, never how often they are called.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from app.statistics.fleet import Fleet
from app.statistics.reservoir import thinned
from app.statistics.routes import room_for_samples
from app.statistics.statistics import Statistics, Traffic, merged_routes

PRIOR_SAMPLES = 16.0
"""What benchmarks/sampling found best between 4 and 64, on tokens of requests not sampled."""

ENOUGH_SAMPLES = 256.0
"""With more of its own a node takes nothing from the fleet: it would change nothing that can be measured."""

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


class _Pool(NamedTuple):
    """block int32[R], ascending; experts int32[R, K]; weight float64[R, 2]: the first column sums to 1
    over each block, the second is the part of it from time buckets of even number."""

    block: Int32
    experts: Int32
    weight: Float64


def shrunk(fleet: Fleet, statistics: Statistics, alive: npt.NDArray[np.bool_]) -> Statistics:
    """The same with routes of the fleet for the layers of a node that has sampled few of them.

    alive bool[N]: whose routes are the fleet's. Deterministic. At most `room_for_samples` routes are added
    for a layer of a node; one that the node has itself is then there twice. O(R log R).
    """
    most = room_for_samples(int(alive.sum()) * len(fleet.blocks))
    traffic = dict(statistics.traffic)
    for index, model in enumerate(fleet.models):
        names = [
            (node_id, model.model_id)
            for row, node_id in enumerate(fleet.node_ids)
            if alive[row] and (node_id, model.model_id) in traffic
        ]
        names = [name for name in names if traffic[name].digest == model.digest]
        start, end = fleet.model_block_offset[index : index + 2].tolist()
        offset = fleet.block_offset[start : end + 1] - fleet.block_offset[start]
        traffic |= zip(names, _shrunk([traffic[name] for name in names], offset, most), strict=True)
    return replace(statistics, traffic=traffic)


def _shrunk(traffic: Sequence[Traffic], offset: Int64, most: int) -> list[Traffic]:
    """Of one model; offset int64[B + 1]: first expert of each block; most: routes added of a block."""
    needing = [_needs(one, offset) for one in traffic]
    if len(traffic) < 2 or not any(few.any() for few in needing):
        return list(traffic)
    pool = _pool(traffic, offset, most)
    if not len(pool.block):
        return list(traffic)
    return [
        _completed(one, pool, few) if few.any() else one for one, few in zip(traffic, needing, strict=True)
    ]


def _needs(traffic: Traffic, offset: Int64) -> npt.NDArray[np.bool_]:
    some = (traffic.route_samples > 0) & (_activations(traffic, offset) > 0)
    few: npt.NDArray[np.bool_] = some & (traffic.route_samples < ENOUGH_SAMPLES)
    return few


def _activations(traffic: Traffic, offset: Int64) -> Float64:
    """float64[B]: per second."""
    blocks = len(offset) - 1
    block = np.repeat(np.arange(blocks), np.diff(offset))
    return _sums(block, traffic.activations_per_second, blocks)


def _pool(traffic: Sequence[Traffic], offset: Int64, most: int) -> _Pool:
    blocks = len(offset) - 1
    share = max(1, 2 * most // len(traffic))
    width = max(one.route_experts.shape[1] for one in traffic)
    keys, weights = [], []
    for one in traffic:
        kept, weight = thinned(one.route_block, one.route_weight, share)
        block = one.route_block[kept]
        per_weight = _divided(_activations(one, offset), _sums(block, weight, blocks))
        rate = weight * per_weight[block]
        even = rate * np.clip(_divided(one.even_route_weight[kept], one.route_weight[kept]), 0.0, 1.0)
        some = rate > 0
        experts = _wide(one.route_experts[kept][some], width)
        keys.append(np.column_stack([block[some], experts]))
        weights.append(np.column_stack([rate, even])[some])
    key, merged = merged_routes(np.concatenate(keys), np.concatenate(weights))
    block, experts, weight = key[:, 0], key[:, 1:], merged
    kept, thin = thinned(block, weight[:, 0], most)
    block, experts, weight = (
        block[kept],
        experts[kept],
        weight[kept] * _divided(thin, weight[kept, 0])[:, None],
    )
    total = _sums(block, weight[:, 0], blocks)
    return _Pool(block, experts, weight / total[block][:, None])


def _completed(traffic: Traffic, pool: _Pool, few: npt.NDArray[np.bool_]) -> Traffic:
    """few bool[B]: the blocks that are completed."""
    blocks = len(few)
    own = _sums(traffic.route_block, traffic.route_weight, blocks)
    factor = PRIOR_SAMPLES * _divided(own, traffic.route_samples)
    taken = few[pool.block]
    block = np.concatenate([traffic.route_block, pool.block[taken]])
    added = pool.weight[taken] * factor[pool.block[taken]][:, None]
    width = max(traffic.route_experts.shape[1], pool.experts.shape[1])
    order = np.argsort(block, kind="stable")
    return replace(
        traffic,
        route_block=block[order],
        route_experts=np.concatenate(
            [_wide(traffic.route_experts, width), _wide(pool.experts[taken], width)]
        )[order],
        route_weight=np.concatenate([traffic.route_weight, added[:, 0]])[order],
        even_route_weight=np.concatenate([traffic.even_route_weight, added[:, 1]])[order],
    )


def _wide(experts: Int32, width: int) -> Int32:
    wide = np.full((len(experts), width), -1, np.int32)
    wide[:, : experts.shape[1]] = experts
    return wide


def _divided(part: Float64, whole: Float64) -> Float64:
    quotient: Float64 = np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
    return quotient


def _sums(block: npt.NDArray[np.integer], weight: Float64, blocks: int) -> Float64:
    """float64[B]"""
    return np.bincount(block, weight, minlength=blocks).astype(np.float64)
