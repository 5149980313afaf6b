"""From what is registered, reported and measured to the problem the solvers are given."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from app.clusters.schemas import ClusterSettings
from app.nodes.schemas import NodeStatusRecord
from app.statistics.fleet import Fleet
from app.statistics.latency import origin_latency, peer_latency
from app.statistics.plausibility import Doubt, judged
from app.statistics.routes import Routes, fleet_routes, half_routes
from app.statistics.samples import SampleSizes, sample_sizes
from app.statistics.shrinkage import shrunk
from app.statistics.statistics import Statistics
from solvers.problem import PlacementProblem

Bools = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]

MIN_HALF_SHARE = 0.2
"""Of all activations: with less in one half of the time there is nothing to try a placement on."""


@dataclass(frozen=True, eq=False)
class BuiltProblem:
    """A problem in the order of `fleet`, and what was known when it was built.

    node_tokens_per_second float64[N]; alive bool[N]: live; usable bool[N]: live and not draining, may hold
    experts
    believed: the traffic that the problem was made of
    samples: how many tokens the routes were sampled from; None without traffic
    doubts: what nodes counted and the problem does not take at its word; counts_ratio float64[N]: as of
    `Judged`
    """

    problem: PlacementProblem
    fleet: Fleet
    node_tokens_per_second: Float64
    alive: Bools
    usable: Bools
    telemetry_until: datetime | None
    believed: Statistics
    samples: SampleSizes | None
    doubts: tuple[Doubt, ...]
    counts_ratio: Float64

    @property
    def tokens_per_second(self) -> float:
        """What J(X) is divided by to give the mean latency per token."""
        return float(self.node_tokens_per_second.sum())

    def halves(self) -> tuple[PlacementProblem, PlacementProblem] | None:
        """`problem` with the traffic of time buckets of even number alone, and of the others, by the counts
        and the routes of these buckets; each activates as much as all of it at every node and in every block.
        None while either half says too little.

        CPU-bound, about twice as much work as the problem was: made only where a placement is to be tried.
        """
        return _halves(self.problem, half_routes(self.fleet, self.believed, self.alive))


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
    Routes call each expert at the rate counted (`matched`). A node's local latency is the measured one, or
    the specified one where the node reports 0.
    """
    if not fleet.nodes:
        raise ValueError("fleet: no node is registered, expected at least one")
    alive = np.asarray([node_id in live for node_id in fleet.node_ids], np.bool_)
    draining = np.asarray([node.draining for node in fleet.nodes], np.bool_)
    usable = alive & ~draining
    current = np.where(alive[:, None], holds, 0).astype(np.uint8)
    plausible = judged(fleet, statistics, alive, current, settings.max_node_share)
    believed = shrunk(fleet, plausible.statistics, alive)
    routes = fleet_routes(fleet, believed, alive)
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
        route_node=routes.node,
        route_block=routes.block,
        route_experts=routes.experts,
        route_rate=routes.rate,
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
    return BuiltProblem(
        problem,
        fleet,
        _tokens(fleet, believed, alive),
        alive,
        usable,
        statistics.until,
        believed,
        sample_sizes(fleet, believed, alive),
        plausible.doubts,
        plausible.counts_ratio,
    )


def _halves(
    problem: PlacementProblem, parts: tuple[Routes, Routes]
) -> tuple[PlacementProblem, PlacementProblem] | None:
    whole = _calls(problem, _routes_of(problem))
    calls = [_calls(problem, routes) for routes in parts]
    if whole.sum() == 0.0 or min(part.sum() for part in calls) < MIN_HALF_SHARE * whole.sum():
        return None
    halves = []
    for routes, part in zip(parts, calls, strict=True):
        factor = np.divide(whole, part, out=np.zeros_like(whole), where=part > 0)
        rate = routes.rate * factor[_cells(routes, problem)]
        halves.append(_with_routes(problem, routes._replace(rate=rate)))
    return halves[0], halves[1]


def _routes_of(problem: PlacementProblem) -> Routes:
    return Routes(problem.route_node, problem.route_block, problem.route_experts, problem.route_rate)


def _cells(routes: Routes, problem: PlacementProblem) -> npt.NDArray[np.int64]:
    """int64[R]: (node, block) of each route, as one number."""
    return routes.node.astype(np.int64) * problem.blocks + routes.block


def _calls(problem: PlacementProblem, routes: Routes) -> Float64:
    """float64[N B]: expert calls per second of each (node, block)."""
    each = routes.rate * (routes.experts >= 0).sum(axis=1)
    size = problem.nodes * problem.blocks
    return np.bincount(_cells(routes, problem), each, minlength=size).astype(np.float64)


def _with_routes(problem: PlacementProblem, routes: Routes) -> PlacementProblem:
    return problem.replace(
        route_node=routes.node,
        route_block=routes.block,
        route_experts=routes.experts,
        route_rate=routes.rate,
    )


def _tokens(fleet: Fleet, statistics: Statistics, alive: Bools) -> Float64:
    """float64[N]: tokens per second of the nodes that are alive, over all models."""
    tokens = np.zeros(len(fleet.nodes))
    for row in np.flatnonzero(alive).tolist():
        for model in fleet.models:
            traffic = statistics.traffic.get((fleet.node_ids[row], model.model_id))
            if traffic is not None and traffic.digest == model.digest:
                tokens[row] += traffic.tokens_per_second
    return tokens
