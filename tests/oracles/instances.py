"""Random instances, small enough for the oracles or as large as asked, with every feature of the problem."""

from __future__ import annotations

from typing import Any

import numpy as np

from solvers.problem import Coupling, PlacementProblem


def random_problem(
    seed: int,
    coupling: Coupling | None = None,
    *,
    nodes: int | None = None,
    blocks: list[int] | None = None,
    routes: int = 8,
    origin: str | None = None,
    extras: bool = True,
    slack: float | None = None,
    width: int = 3,
) -> PlacementProblem:
    """An instance drawn from `seed`. origin: "all", "some" or "none"; extras: pins, drained nodes, several
    devices, a placement in force with a horizon, unreachable pairs, zero rates; slack: memory over the bytes
    of all experts; width: experts of a route at most."""
    rng = np.random.default_rng(seed)
    chosen = coupling or list(Coupling)[int(rng.integers(3))]
    N = nodes or int(rng.integers(1, 4))
    counts = np.array(
        blocks if blocks is not None else [[3], [2, 1], [1, 2], [2, 2], [4]][int(rng.integers(5))]
    )
    if blocks is None and N * counts.sum() > 12:
        counts = np.array([3])
    B, E = len(counts), int(counts.sum())
    sizes = rng.choice([2, 3, 4], size=B) if rng.random() < 0.5 else np.full(B, 3)
    total = int((counts * sizes).sum())
    share = rng.dirichlet(np.full(N, 3.0)) * total * (slack if slack is not None else rng.uniform(0.7, 2.5))
    capacity = np.ceil(share).astype(np.int64)
    latency = (
        rng.choice([1.0, 2.0, 3.0, 5.0, 8.0], size=(N, N))
        if rng.random() < 0.3
        else rng.uniform(1, 9, (N, N))
    )
    np.fill_diagonal(latency, rng.uniform(0.1, 2.0, N))
    kind = origin or ["all", "none", "some"][int(rng.integers(3))]
    far = rng.uniform(5, 20, N)
    if kind == "none":
        far[:] = np.inf
    elif kind == "some":
        far[rng.random(N) < 0.5] = np.inf
    K = max(1, min(width, int(counts.max(initial=1))))
    block = rng.choice(np.flatnonzero(counts), size=routes) if E else np.zeros(0, np.int64)
    experts = np.full((len(block), K), -1)
    for r, b in enumerate(block):
        k = int(rng.integers(1, min(K, counts[b]) + 1))
        experts[r, :k] = rng.choice(counts[b], size=k, replace=False)
    rate = rng.exponential(1.0, len(block))
    changes: dict[str, Any] = {}
    if extras:
        rate[rng.random(len(block)) < 0.1] = 0.0
        if rng.random() < 0.2:
            latency[rng.random((N, N)) < 0.2] = np.inf
            np.fill_diagonal(latency, 1.0)
        if rng.random() < 0.4:
            changes |= {
                "current": (rng.random((N, E)) < 0.4).astype(np.uint8),
                "ingress_bytes_per_second": rng.uniform(1, 5, N),
                "horizon_seconds": float(rng.uniform(0.5, 20)),
            }
        if rng.random() < 0.25:
            changes["pins"] = rng.choice([-1, 0, 0, 0, 0, 0, 1], size=(N, E)).astype(np.int8)
        if rng.random() < 0.1 and N > 1:
            changes["drained"] = (np.arange(N) == rng.integers(N)).astype(np.uint8)
        if rng.random() < 0.25:
            parts = [np.array([c // 2, c - c // 2]) for c in capacity]
            changes["device_node"] = np.repeat(np.arange(N), 2)
            changes["device_capacity_bytes"] = np.concatenate(parts)
    least = 0 if kind == "all" else 1
    return PlacementProblem(
        expert_bytes=sizes,
        experts_per_block=counts,
        capacity_bytes=capacity,
        latency_seconds=latency,
        origin_latency_seconds=far,
        route_node=rng.integers(N, size=len(block)).astype(np.int32),
        route_block=block.astype(np.int32),
        route_experts=experts,
        route_rate=rate,
        coupling=chosen,
        min_replicas=int(rng.integers(least, 3)) if rng.random() < 0.3 else max(least, int(rng.integers(2))),
        **changes,
    )


def random_holds(problem: PlacementProblem, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8[N, E]: any placement, feasible or not."""
    rng = np.random.default_rng(seed)
    return (rng.random((problem.nodes, problem.experts)) < rng.random()).astype(np.uint8)
