"""From what is registered, reported and measured to the problem the solvers are given."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from app.clusters.schemas import ClusterSettings
from app.instance.fleet import Fleet
from app.instance.latency import origin_latency, peer_latency
from app.instance.reservoir import uniforms
from app.instance.samples import SampleSizes, sample_sizes
from app.instance.statistics import Statistics, Traffic
from app.nodes.schemas import NodeStatusRecord
from solvers.problem import PlacementProblem

Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]

MAX_ROUTES = 200_000
"""Routes of a problem, about; beyond, each (node, block) is sampled down to its share."""

MIN_HALF_SHARE = 0.2
"""Of all activations: with less in one half of the time there is nothing to try a placement on."""

_MIN_ROUTES_PER_BLOCK = 16
_MAX_ROUTES_PER_BLOCK = 512


@dataclass(frozen=True, eq=False)
class BuiltProblem:
    """A problem in the order of `fleet`, and what was known when it was built.

    node_tokens_per_second float64[N]; usable bool[N]: live and not draining, may hold experts
    halves: the same with the traffic of time buckets of even number alone, and of the others; each activates
    as much as all of it at every node and in every block. None while either half says too little.
    samples: how many tokens the routes were sampled from; None without traffic
    """

    problem: PlacementProblem
    fleet: Fleet
    node_tokens_per_second: Float64
    usable: npt.NDArray[np.bool_]
    telemetry_until: datetime | None
    halves: tuple[PlacementProblem, PlacementProblem] | None = None
    samples: SampleSizes | None = None

    @property
    def tokens_per_second(self) -> float:
        """What J(X) is divided by to give the mean latency per token."""
        return float(self.node_tokens_per_second.sum())


def build_problem(
    fleet: Fleet,
    settings: ClusterSettings,
    statistics: Statistics,
    *,
    holds: UInt8,
    live: Collection[str],
    statuses: Mapping[str, NodeStatusRecord],
    pins: npt.NDArray[np.int8] | None = None,
) -> BuiltProblem:
    """Deterministic in its arguments; CPU-bound: call it in a thread. Raises ValueError without nodes.

    holds uint8[N, E]: what nodes are observed to hold; rows of nodes not in `live` are taken for empty.
    live: ids of nodes whose lease has not run out. Others may not hold anything and their traffic is gone;
    a draining node may not hold anything either, and its traffic is still served.
    Routes of a block are scaled so that they activate experts at the rate counted; a block without routes
    gets routes of one expert. A node's local latency is the measured one, or the specified one where the
    node reports 0.
    """
    if not fleet.nodes:
        raise ValueError("fleet: no node is registered, expected at least one")
    alive = np.asarray([node_id in live for node_id in fleet.node_ids], np.bool_)
    draining = np.asarray([node.draining for node in fleet.nodes], np.bool_)
    usable = alive & ~draining
    current = np.where(alive[:, None], holds, 0).astype(np.uint8)
    nodes, blocks, experts, rates, even, tokens = _traffic(fleet, statistics, alive)
    specs = [node.spec for node in fleet.nodes]
    devices = [(row, device.memory_bytes) for row, spec in enumerate(specs) for device in spec.devices]
    origin = settings.origin
    problem = PlacementProblem(
        expert_bytes=fleet.expert_bytes,
        experts_per_block=fleet.experts_per_block,
        capacity_bytes=np.asarray(
            [sum(device.memory_bytes for device in spec.devices) for spec in specs], np.int64
        ),
        latency_seconds=peer_latency(fleet, settings, statuses).seconds,
        origin_latency_seconds=origin_latency(fleet, settings, statuses),
        route_node=nodes,
        route_block=blocks,
        route_experts=experts,
        route_rate=rates,
        coupling=settings.coupling,
        min_replicas=settings.min_replicas if origin is not None else max(1, settings.min_replicas),
        current=current,
        ingress_bytes_per_second=np.asarray([spec.ingress_bytes_per_second for spec in specs], np.float64),
        egress_bytes_per_second=np.asarray([spec.egress_bytes_per_second for spec in specs], np.float64),
        origin_egress_bytes_per_second=None if origin is None else origin.egress_bytes_per_second,
        horizon_seconds=settings.horizon_seconds,
        pins=pins,
        drained=(~usable).astype(np.uint8),
        device_node=np.asarray([row for row, _ in devices], np.int32),
        device_capacity_bytes=np.asarray([size for _, size in devices], np.int64),
    )
    samples = sample_sizes(fleet, statistics, alive)
    return BuiltProblem(problem, fleet, tokens, usable, statistics.until, _halves(problem, even), samples)


def _halves(problem: PlacementProblem, even: Float64) -> tuple[PlacementProblem, PlacementProblem] | None:
    """even float64[R]: the part of each route's rate from time buckets of even number."""
    calls = (problem.route_experts >= 0).sum(axis=1)
    rates = (even, problem.route_rate - even)
    total = float(problem.route_rate @ calls)
    if min(float(rate @ calls) for rate in rates) < MIN_HALF_SHARE * total or total == 0.0:
        return None
    cell = problem.route_node.astype(np.int64) * problem.blocks + problem.route_block
    whole = np.bincount(cell, problem.route_rate * calls)
    halves = []
    for rate in rates:
        part = np.bincount(cell, rate * calls)
        factor = np.divide(whole, part, out=np.zeros_like(whole), where=part > 0)
        some = rate > 0
        halves.append(
            problem.replace(
                route_node=problem.route_node[some],
                route_block=problem.route_block[some],
                route_experts=problem.route_experts[some],
                route_rate=(rate * factor[cell])[some],
            )
        )
    return halves[0], halves[1]


def _traffic(
    fleet: Fleet, statistics: Statistics, alive: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32], Float64, Float64, Float64]:
    """route_node, route_block, route_experts, route_rate, the part of it from even time buckets, and
    float64[N] tokens per second."""
    tokens = np.zeros(len(fleet.nodes))
    share = MAX_ROUTES // max(1, int(alive.sum()) * len(fleet.blocks))
    capacity = min(_MAX_ROUTES_PER_BLOCK, max(_MIN_ROUTES_PER_BLOCK, share))
    parts: list[tuple[int, npt.NDArray[np.int32], npt.NDArray[np.int32], Float64, Float64]] = []
    for row, node_id in enumerate(fleet.node_ids):
        if not alive[row]:
            continue
        for index, model in enumerate(fleet.models):
            traffic = statistics.traffic.get((node_id, model.model_id))
            if traffic is None or traffic.digest != model.digest:
                continue
            tokens[row] += traffic.tokens_per_second
            start, end = fleet.model_block_offset[index : index + 2].tolist()
            offset = fleet.block_offset[start : end + 1] - fleet.block_offset[start]
            block, experts, rate, even = _routes(traffic, offset, capacity)
            parts.append((row, block + np.int32(start), experts, rate, even))
    width = max((experts.shape[1] for _, _, experts, _, _ in parts), default=1)
    total = sum(len(rate) for *_, rate in parts)
    route_experts = np.full((total, width), -1, np.int32)
    route_node = np.zeros(total, np.int32)
    route_block = np.zeros(total, np.int32)
    route_rate = np.zeros(total)
    route_even = np.zeros(total)
    at = 0
    for row, block, experts, rate, even in parts:
        to = at + len(rate)
        route_node[at:to] = row
        route_block[at:to] = block
        route_experts[at:to, : experts.shape[1]] = experts
        route_rate[at:to] = rate
        route_even[at:to] = even
        at = to
    return route_node, route_block, route_experts, route_rate, route_even, tokens


def _routes(
    traffic: Traffic, offset: npt.NDArray[np.int64], capacity: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Float64, Float64]:
    """Routes of one model at one node with their rates, and the parts of these from even time buckets;
    `offset` is that of the model's own columns.

    The rates of a block satisfy: sum over its routes of rate * experts of the route = activations counted.
    """
    blocks = len(offset) - 1
    column_block = np.repeat(np.arange(blocks, dtype=np.int32), np.diff(offset))
    activations = np.bincount(column_block, traffic.activations_per_second, minlength=blocks)
    kept, weight = _sampled(traffic.route_block, traffic.route_weight, capacity)
    block, experts = traffic.route_block[kept], traffic.route_experts[kept]
    share = _share(traffic.even_route_weight[kept], traffic.route_weight[kept])
    sampled = np.bincount(block, weight * (experts >= 0).sum(axis=1), minlength=blocks)
    factor = np.divide(activations, sampled, out=np.zeros(blocks), where=sampled > 0)
    rate = weight * factor[block]
    some = rate > 0
    block, experts, rate, share = block[some], experts[some], rate[some], share[some]

    lone = np.flatnonzero((sampled[column_block] == 0) & (traffic.activations_per_second > 0))
    if len(lone):
        single = np.full((len(lone), experts.shape[1]), -1, np.int32)
        single[:, 0] = lone - offset[column_block[lone]]
        block = np.concatenate([block, column_block[lone]])
        experts = np.concatenate([experts, single])
        rate = np.concatenate([rate, traffic.activations_per_second[lone]])
        lone_share = _share(traffic.even_activations_per_second[lone], traffic.activations_per_second[lone])
        share = np.concatenate([share, lone_share])
        order = np.argsort(block, kind="stable")
        block, experts, rate, share = block[order], experts[order], rate[order], share[order]
    return block, experts, rate, rate * share


def _share(part: Float64, whole: Float64) -> Float64:
    share: Float64 = np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)
    return np.clip(share, 0.0, 1.0)


def _sampled(
    block: npt.NDArray[np.int32], weight: Float64, capacity: int
) -> tuple[npt.NDArray[np.int64], Float64]:
    """At most `capacity` routes of each block, by priority sampling as in `reservoir`: which, in order, and
    what each then weighs."""
    if not len(block) or int(np.bincount(block).max()) <= capacity:
        return np.arange(len(block)), weight
    priority = weight / uniforms(len(block), len(block))
    order = np.lexsort((-priority, block))
    ordered = block[order]
    rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    threshold = np.zeros(int(ordered[-1]) + 1)
    beyond = order[rank == capacity]
    threshold[block[beyond]] = priority[beyond]
    kept = np.sort(order[rank < capacity])
    return kept, np.maximum(weight[kept], threshold[block[kept]])
