"""What placements are expected to cost: the routes that requests took, and the latencies that nodes measured,
as a problem for the solvers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lab.fleet.dispatch import ORIGIN
from lab.fleet.lines import CallTimes, Finished
from lab.fleet.scenario import COUPLING, Scenario, node_ids
from lab.fleet.traffic import Request
from lab.tiny_moe.shape import EXPERT_BYTES, EXPERTS, LAYERS, TOP_K
from solvers.problem import Float64, PlacementProblem


class Latencies(NamedTuple):
    """nodes float64[N, N], origin float64[N]: seconds of an expert call, as in `PlacementProblem`."""

    nodes: Float64
    origin: Float64


def measured_latencies(scenario: Scenario, calls: Mapping[str, Mapping[str, CallTimes]]) -> Latencies | None:
    """The means of what each node's calls took (by node_id, then by place); None where some place has not
    been called yet.

    The service knows them too, but only to a tenth: a heartbeat leaves smaller changes out, so what it says
    depends on what was said before.
    """
    ids = node_ids(scenario.nodes)
    nodes, origin = np.zeros((len(ids), len(ids))), np.zeros(len(ids))
    for row, node_id in enumerate(ids):
        for column, name in enumerate([*ids, ORIGIN]):
            times = calls.get(node_id, {}).get(name)
            if times is None:
                return None
            mean = times.seconds / times.calls
            if name == ORIGIN:
                origin[row] = mean
            else:
                nodes[row, column] = mean
    return Latencies(nodes, origin)


class Traffic(NamedTuple):
    """Routes as a problem, and the tokens per second they came from."""

    problem: PlacementProblem
    token_rate: float


def traffic_of(
    scenario: Scenario,
    requests: Iterable[Request],
    finished: Mapping[int, Finished],
    latencies: Latencies,
    seconds: float,
) -> Traffic:
    """The generated tokens of all finished requests, as if evenly spread over `seconds`."""
    ids = node_ids(scenario.nodes)
    node, block, experts, rate = [], [], [], []
    tokens = 0
    own: dict[str, list[np.ndarray[Any, np.dtype[np.uint8]]]] = {node_id: [] for node_id in ids}
    for request in requests:
        if request.number in finished:
            routes = np.frombuffer(finished[request.number].routes, np.uint8)
            own[request.node_id].append(routes.reshape(-1, LAYERS, TOP_K))
    for row, node_id in enumerate(ids):
        if not own[node_id]:
            continue
        ordered = np.sort(np.concatenate(own[node_id]), axis=2)
        tokens += len(ordered)
        for layer in range(LAYERS):
            routes, counts = np.unique(ordered[:, layer], axis=0, return_counts=True)
            node.append(np.full(len(routes), row, np.int32))
            block.append(np.full(len(routes), layer, np.int32))
            experts.append(routes.astype(np.int32))
            rate.append(counts / seconds)
    if not tokens:
        raise ValueError("finished: has no tokens, expected at least one")
    problem = PlacementProblem(
        expert_bytes=np.full(LAYERS, EXPERT_BYTES, np.int64),
        experts_per_block=np.full(LAYERS, EXPERTS, np.int64),
        capacity_bytes=np.array([n.memory_bytes for n in scenario.nodes], np.int64),
        latency_seconds=latencies.nodes,
        origin_latency_seconds=latencies.origin,
        route_node=np.concatenate(node),
        route_block=np.concatenate(block),
        route_experts=np.concatenate(experts),
        route_rate=np.concatenate(rate),
        coupling=COUPLING,
    )
    return Traffic(problem, tokens / seconds)
