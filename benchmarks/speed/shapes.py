"""Problems of a given shape with drawn traffic: skewed by expert and by node, experts called together."""

from __future__ import annotations

import numpy as np

from benchmarks.quality.instances import EXPERT_BYTES, ORIGIN_SECONDS, fleet
from solvers.problem import Coupling, PlacementProblem

TOPICS = 4  # of a node's tokens; those of one topic call similar experts


def drawn_problem(
    nodes: int,
    blocks: int,
    experts: int,
    width: int,
    routes: int,
    coupling: Coupling,
    *,
    memory: float = 0.3,
    drift: float = 0.0,
    seed: int = 0,
) -> PlacementProblem:
    """`routes` tokens per node and block, each with its `width` experts of highest score: popularity, plus
    the node's topic, plus noise of its own. `drift` is the sigma of a log-normal factor on every rate."""
    rng = np.random.default_rng(seed)
    capacity, latency = fleet(nodes, blocks * experts, memory, rng)
    ids = np.empty((blocks, nodes, routes, width), np.int32)
    for b in range(blocks):
        popularity = rng.normal(0.0, 1.0, experts)
        for n in range(nodes):
            topics = rng.normal(0.0, 1.5, (TOPICS, experts))
            noise = rng.gumbel(0.0, 1.0, (routes, experts))
            score = popularity + topics[rng.integers(TOPICS, size=routes)] + noise
            ids[b, n] = np.argpartition(-score, width - 1, axis=1)[:, :width]
    rate = np.full(blocks * nodes * routes, 1.0 / routes)
    if drift > 0.0:
        rate *= np.random.default_rng(seed + 1).lognormal(0.0, drift, len(rate))
    return PlacementProblem(
        expert_bytes=np.full(blocks, EXPERT_BYTES),
        experts_per_block=np.full(blocks, experts),
        capacity_bytes=capacity * EXPERT_BYTES,
        latency_seconds=latency,
        origin_latency_seconds=np.full(nodes, ORIGIN_SECONDS),
        route_node=np.tile(np.repeat(np.arange(nodes), routes), blocks).astype(np.int32),
        route_block=np.repeat(np.arange(blocks), nodes * routes).astype(np.int32),
        route_experts=ids.reshape(-1, width),
        route_rate=rate,
        coupling=coupling,
        min_replicas=0,
    )
