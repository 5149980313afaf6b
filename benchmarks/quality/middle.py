"""Problems of every fleet size: nodes on a plane, little memory, an origin far away, coupled routes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmarks.quality.instances import EXPERT_BYTES
from benchmarks.quality.traces import Trace
from solvers.problem import Coupling, Float64, PlacementProblem

LOCAL_SECONDS, NEAREST_SECONDS, FARTHEST_SECONDS, ORIGIN_SECONDS = 1e-3, 2e-3, 40e-3, 80e-3
MEMORY = (0.1, 0.3)  # of the model, per node
TOKENS_PER_NODE = 40
WINDOW = 200  # recorded tokens in a row, from which a node's tokens are drawn
DRAWN_BLOCKS, DRAWN_EXPERTS, DRAWN_WIDTH = 26, 64, 6
TOPICS = 12  # of the drawn traffic; a node serves three of them
_LOAD = 0.5  # sigma of the log-normal tokens per second of a node


def middle_problem(
    nodes: int, coupling: Coupling, trace: Trace | None, *, tokens: int = TOKENS_PER_NODE, seed: int = 0
) -> PlacementProblem:
    """A fleet of `nodes` with the routing of `trace`, or with drawn routing where there is none: `tokens` of
    each node, each of which takes one route through every block."""
    rng = np.random.default_rng([seed, nodes])
    ids = _drawn(nodes, tokens, rng) if trace is None else _recorded(trace, nodes, tokens, rng)
    blocks, width = ids.shape[2:]
    experts = DRAWN_EXPERTS if trace is None else trace.experts
    share = rng.uniform(*MEMORY, nodes)
    rate = rng.lognormal(0.0, _LOAD, nodes) / tokens
    return PlacementProblem(
        expert_bytes=np.full(blocks, EXPERT_BYTES),
        experts_per_block=np.full(blocks, experts),
        capacity_bytes=np.ceil(share * blocks * experts).astype(np.int64) * EXPERT_BYTES,
        latency_seconds=_plane(nodes, rng),
        origin_latency_seconds=np.full(nodes, ORIGIN_SECONDS),
        route_node=np.repeat(np.arange(nodes, dtype=np.int32), tokens * blocks),
        route_block=np.tile(np.arange(blocks, dtype=np.int32), nodes * tokens),
        route_experts=ids.reshape(-1, width).astype(np.int32),
        route_rate=np.repeat(rate, tokens * blocks),
        coupling=coupling,
        min_replicas=0,
    )


def _plane(nodes: int, rng: np.random.Generator) -> Float64:
    """float64[N, N]: seconds between nodes on a square, by their distance."""
    place = rng.uniform(0.0, 1.0, (nodes, 2))
    apart = np.linalg.norm(place[:, None] - place[None, :], axis=2) / np.sqrt(2)
    latency: Float64 = NEAREST_SECONDS + (FARTHEST_SECONDS - NEAREST_SECONDS) * apart
    np.fill_diagonal(latency, LOCAL_SECONDS)
    return latency


def _recorded(trace: Trace, nodes: int, tokens: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """[N, tokens, B, K]: each node's tokens from its own stretch of the recording."""
    stream = np.concatenate(trace.requests)
    window = min(len(stream), max(WINDOW, tokens))
    first = np.linspace(0, len(stream) - window, nodes).astype(np.int64)
    return np.stack([stream[at + rng.choice(window, tokens, replace=False)] for at in first.tolist()])


def _drawn(nodes: int, tokens: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """[N, tokens, B, K]: of every token the experts of highest score, which is popularity, the token's topic
    and chance. Tokens of one topic call similar experts in every block."""
    topic = rng.integers(TOPICS, size=(nodes, 3))
    of_token = topic[np.arange(nodes)[:, None], rng.integers(3, size=(nodes, tokens))]
    ids = np.empty((nodes, tokens, DRAWN_BLOCKS, DRAWN_WIDTH), np.uint8)
    for b in range(DRAWN_BLOCKS):
        popularity = rng.normal(0.0, 1.0, DRAWN_EXPERTS)
        topics = rng.normal(0.0, 1.5, (TOPICS, DRAWN_EXPERTS))
        score = popularity + topics[of_token] + rng.gumbel(0.0, 1.0, (nodes, tokens, DRAWN_EXPERTS))
        ids[:, :, b] = np.argpartition(-score, DRAWN_WIDTH - 1, axis=2)[..., :DRAWN_WIDTH]
    return ids
