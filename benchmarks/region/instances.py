"""Regions: sites of a few racks on a plane, each with a domain of its own, on the shape of DeepSeek-V3."""

from __future__ import annotations

import numpy as np

from benchmarks.quality.traces import Trace
from solvers.problem import Coupling, Float64, Int32, Int64, PlacementProblem

SITE, RACK = 25, 5  # nodes of each
BLOCKS, EXPERTS, WIDTH = 58, 256, 8
EXPERT_BYTES = 44_000_000
ROUTES = 16  # per node and block, as many as the service keeps of a fleet this large
LOCAL_SECONDS, RACK_SECONDS, SITE_SECONDS = 1e-3, 1.4e-3, 2e-3
BETWEEN_SECONDS, ACROSS_SECONDS, ORIGIN_SECONDS = 3e-3, 20e-3, 60e-3
MEMORY = 0.06  # of all experts, at the median node
_SMALLEST, _LARGEST = 0.02, 0.15
_SITE_TOKENS, _NODE_TOKENS = 1200, 240  # neighbours in the trace, which one site or node draws from


def region_problem(
    trace: Trace, nodes: int, coupling: Coupling, *, memory: float = MEMORY, seed: int = 0
) -> PlacementProblem:
    """`nodes` nodes at sites of `SITE`, with memory log-normal around `memory` of all experts.

    A token of the trace, top-k of its own layers, becomes one of 58 layers and 256 experts: layers repeat
    with the experts renamed, and the experts are four families of the trace's, of which a request prefers
    two, one for the experts of the token itself and one for the first of another token beside it.
    """
    rng = np.random.default_rng([seed, nodes])
    node, block, experts = _routes(trace, nodes, rng)
    rate = np.repeat(rng.lognormal(0.0, 0.5, nodes) / ROUTES, BLOCKS * ROUTES)
    share = np.clip(memory * rng.lognormal(0.0, 0.5, nodes), _SMALLEST, _LARGEST)
    capacity: Int64 = np.ceil(share * BLOCKS * EXPERTS).astype(np.int64) * EXPERT_BYTES
    return PlacementProblem(
        expert_bytes=np.full(BLOCKS, EXPERT_BYTES),
        experts_per_block=np.full(BLOCKS, EXPERTS),
        capacity_bytes=capacity,
        latency_seconds=_latency(nodes, rng),
        origin_latency_seconds=np.full(nodes, ORIGIN_SECONDS),
        route_node=node,
        route_block=block,
        route_experts=experts,
        route_rate=rate,
        coupling=coupling,
        min_replicas=0,
    )


def _latency(nodes: int, rng: np.random.Generator) -> Float64:
    site = np.arange(nodes) // SITE
    rack = np.arange(nodes) // RACK
    place = rng.uniform(0.0, 1.0, (int(site[-1]) + 1, 2))
    apart = np.linalg.norm(place[site][:, None] - place[site][None, :], axis=2) / np.sqrt(2)
    latency: Float64 = BETWEEN_SECONDS + (ACROSS_SECONDS - BETWEEN_SECONDS) * apart
    latency[site[:, None] == site] = SITE_SECONDS
    latency[rack[:, None] == rack] = RACK_SECONDS
    latency *= rng.uniform(0.95, 1.05, latency.shape)
    np.fill_diagonal(latency, LOCAL_SECONDS)
    return latency


def _routes(trace: Trace, nodes: int, rng: np.random.Generator) -> tuple[Int32, Int32, Int32]:
    tokens = np.concatenate(trace.requests).astype(np.int32)
    request = np.repeat(np.arange(len(trace.requests)), [len(run) for run in trace.requests])
    families = EXPERTS // trace.experts
    own = tokens.shape[2]
    names = np.stack([rng.permutation(EXPERTS) for _ in range(BLOCKS)]).astype(np.int32)
    preferred = np.stack([rng.permutation(families) for _ in trace.requests])
    sites = -(-nodes // SITE)
    homes = rng.permutation(sites) * (len(tokens) - _SITE_TOKENS) // max(1, sites - 1)
    experts = np.empty((nodes, BLOCKS, ROUTES, WIDTH), np.int32)
    for n in range(nodes):
        first = homes[n // SITE] + rng.integers(_SITE_TOKENS - _NODE_TOKENS + 1)
        drawn = first + rng.integers(_NODE_TOKENS, size=(2, BLOCKS, ROUTES))
        for b in range(BLOCKS):
            layer = b % trace.layers
            token, beside = drawn[0, b], drawn[1, b]
            family = preferred[request[token]]
            mine = family[:, :1] * trace.experts + tokens[token, layer]
            other = family[:, 1:2] * trace.experts + tokens[beside, layer, : WIDTH - own]
            experts[n, b] = names[b][np.concatenate((mine, other), axis=1)]
    return (
        np.repeat(np.arange(nodes), BLOCKS * ROUTES).astype(np.int32),
        np.tile(np.repeat(np.arange(BLOCKS), ROUTES), nodes).astype(np.int32),
        experts.reshape(-1, WIDTH),
    )
