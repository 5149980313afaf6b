"""Problems made from traces: fleets of unequal nodes, each with the traffic of its own domains."""

from __future__ import annotations

import numpy as np

from benchmarks.quality.traces import Trace
from solvers.problem import Coupling, Float64, Int32, Int64, PlacementProblem

TOKENS_PER_NODE = 256
EXPERT_BYTES = 13_000_000
LOCAL_SECONDS, NEAREST_SECONDS, FARTHEST_SECONDS, ORIGIN_SECONDS = 1e-3, 3e-3, 15e-3, 50e-3


def instance(
    trace: Trace,
    nodes: int,
    coupling: Coupling,
    *,
    memory: float,
    origin: bool,
    top_one: bool = False,
    tokens: int = TOKENS_PER_NODE,
    seed: int = 0,
) -> PlacementProblem:
    """A fleet of `nodes` whose memories are drawn around `memory` of a model each, between 15 % and 50 %, on
    a plane; with an origin, or else with memory for one replica of everything and a tenth more at least.
    top_one keeps only the most probable expert of each token; `tokens`: of each node, at most."""
    rng = np.random.default_rng([seed, nodes])
    total = trace.layers * trace.experts
    capacity, latency = fleet(nodes, total, memory, rng, covers=not origin)
    node, block, experts, rate = _routes(trace, nodes, top_one, tokens, rng)
    return PlacementProblem(
        expert_bytes=np.full(trace.layers, EXPERT_BYTES),
        experts_per_block=np.full(trace.layers, trace.experts),
        capacity_bytes=capacity * EXPERT_BYTES,
        latency_seconds=latency,
        origin_latency_seconds=np.full(nodes, ORIGIN_SECONDS if origin else np.inf),
        route_node=node,
        route_block=block,
        route_experts=experts,
        route_rate=rate,
        coupling=coupling,
        min_replicas=0 if origin else 1,
    )


def fleet(
    nodes: int, experts: int, memory: float, rng: np.random.Generator, *, covers: bool = False
) -> tuple[Int64, Float64]:
    """Experts each node can hold, int64[N], and latencies in seconds, float64[N, N], of nodes on a plane.
    `covers`: together they hold every expert once and a tenth more."""
    share = np.clip(memory * rng.uniform(0.5, 1.5, nodes), 0.15, 0.5)
    if covers:
        share *= max(1.0, 1.1 / float(share.sum()))
    place = rng.uniform(0, 1, (nodes, 2))
    apart = np.linalg.norm(place[:, None] - place[None, :], axis=2) / np.sqrt(2)
    latency = NEAREST_SECONDS + (FARTHEST_SECONDS - NEAREST_SECONDS) * apart
    latency *= rng.uniform(0.95, 1.05, latency.shape)
    np.fill_diagonal(latency, LOCAL_SECONDS)
    return np.ceil(share * experts).astype(np.int64), latency


def _routes(
    trace: Trace, nodes: int, top_one: bool, tokens_per_node: int, rng: np.random.Generator
) -> tuple[Int32, Int32, Int32, Float64]:
    if trace.counts:
        domain, layer, called, often = [], [], [], []
        for n in range(nodes):
            # several nodes of one domain see it with some noise
            calls = trace.counts[n % len(trace.counts)] * rng.lognormal(
                0.0, 0.3, (trace.layers, trace.experts)
            )
            b, e = np.nonzero(calls)
            domain.append(np.full(len(b), n))
            layer.append(b)
            called.append(e)
            often.append(calls[b, e] / calls.sum() * trace.layers)
        return (
            np.concatenate(domain).astype(np.int32),
            np.concatenate(layer).astype(np.int32),
            np.concatenate(called).astype(np.int32)[:, None],
            np.concatenate(often),
        )
    lengths = np.array([len(request) for request in trace.requests])
    home = (np.cumsum(lengths) - lengths) * nodes // lengths.sum()
    tokens, nodes_of = [], []
    for n in range(nodes):
        own = np.concatenate([trace.requests[i] for i in np.flatnonzero(home == n)] or [trace.requests[n]])
        chosen = rng.choice(len(own), min(tokens_per_node, len(own)), replace=False)
        tokens.append(own[np.sort(chosen)])
        nodes_of.append(np.full(len(chosen), n))
    ids = np.concatenate(tokens).astype(np.int32)
    if top_one:
        ids = ids[:, :, :1]
    load = rng.uniform(0.5, 1.5, nodes)
    node = np.concatenate(nodes_of)
    count = np.bincount(node, minlength=nodes)
    return (
        np.repeat(node, trace.layers).astype(np.int32),
        np.tile(np.arange(trace.layers), len(ids)).astype(np.int32),
        ids.reshape(-1, ids.shape[2]),
        np.repeat(load[node] / count[node], trace.layers),
    )
