"""What other placements would have made of the traffic that the nodes really had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lab.demo.scenario import COUPLING, NODES, ORIGIN_SECONDS, capacity_bytes, latency_seconds
from lab.demo.slices import Slice
from lab.tiny_moe.shape import EXPERT_BYTES, EXPERTS, LAYERS, TOP_K
from lab.tiny_moe.traces import requests
from solvers.algorithms import solve
from solvers.cost.evaluate import mean_latency_seconds
from solvers.placement import Placement
from solvers.problem import PlacementProblem

BASELINES = ("uniform", "local_popularity", "eplb")


class Traffic(NamedTuple):
    """The routes of some slices as a problem, and the tokens per second they came from."""

    problem: PlacementProblem
    token_rate: float


def traffic_of(slices: Sequence[Slice]) -> Traffic:
    """Exactly the tokens of `slices`, which must not be empty: no sample, no decay."""
    if not slices:
        raise ValueError("slices: is empty, expected at least one")
    seconds = max(s.end for s in slices) - min(s.begin for s in slices)
    node, block, experts, rate = [], [], [], []
    for n, spec in enumerate(NODES):
        own = [s for s in slices if s.node_id == spec.node_id]
        if not own:
            continue
        tokens = np.concatenate([requests(s.domain)[s.requests].reshape(-1, LAYERS, TOP_K) for s in own])
        ordered = np.sort(tokens, axis=2)
        for layer in range(LAYERS):
            routes, counts = np.unique(ordered[:, layer], axis=0, return_counts=True)
            node.append(np.full(len(routes), n, np.int32))
            block.append(np.full(len(routes), layer, np.int32))
            experts.append(routes.astype(np.int32))
            rate.append(counts / seconds)
    problem = PlacementProblem(
        expert_bytes=np.full(LAYERS, EXPERT_BYTES, np.int64),
        experts_per_block=np.full(LAYERS, EXPERTS, np.int64),
        capacity_bytes=capacity_bytes(),
        latency_seconds=latency_seconds(),
        origin_latency_seconds=np.full(len(NODES), ORIGIN_SECONDS),
        route_node=np.concatenate(node),
        route_block=np.concatenate(block),
        route_experts=np.concatenate(experts),
        route_rate=np.concatenate(rate),
        coupling=COUPLING,
    )
    return Traffic(problem, sum(s.tokens for s in slices) / seconds)


def baseline_placements(traffic: Traffic) -> dict[str, Placement]:
    """Each baseline's placement for this very traffic: the baselines know in hindsight what the service had
    to learn while it happened."""
    placements = {}
    for name in BASELINES:
        result = solve(traffic.problem, name)
        if result.placement is None:
            raise RuntimeError(f"{name} found no placement: {result.shortfall}")
        placements[name] = result.placement
    return placements


def mean_latencies(placements: Mapping[str, Placement], traffic: Traffic) -> dict[str, float]:
    """Seconds of expert latency per token over all layers, by the name of the placement."""
    return {
        name: mean_latency_seconds(traffic.problem, placement.holds, traffic.token_rate)
        for name, placement in placements.items()
    }
