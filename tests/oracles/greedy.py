"""Greedy by saving per byte as it is defined: every gain anew, from the costs themselves, at every step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from solvers.problem import Coupling, PlacementProblem

Holds = npt.NDArray[np.uint8]


def fallbacks(problem: PlacementProblem) -> list[float]:
    """What a call costs at each node while nobody holds its expert, all nodes being reachable."""
    rows = zip(problem.origin_latency_seconds.tolist(), problem.latency_seconds.tolist(), strict=True)
    return [far if np.isfinite(far) else max(row) for far, row in rows]


def cost(problem: PlacementProblem, holds: Holds, coupling: Coupling) -> float:
    """J(X), finite whatever is held: a call nobody serves costs its node's fallback."""
    fallback = fallbacks(problem)
    total = 0.0
    for r in range(problem.routes):
        n, b = int(problem.route_node[r]), int(problem.route_block[r])
        latency = problem.latency_seconds[n]
        columns = [int(problem.block_offset[b]) + int(e) for e in problem.route_experts[r] if e >= 0]
        single = [min([fallback[n], *latency[holds[:, c] == 1].tolist()]) for c in columns]
        host = min([np.inf, *latency[holds[:, columns].all(axis=1)].tolist()])
        origin = float(problem.origin_latency_seconds[n])
        if coupling is Coupling.SUM:
            served = sum(single)
        elif coupling is Coupling.SLOWEST:
            served = max(single)
        else:
            served = min(host, origin if np.isfinite(origin) else sum(single))
        total += float(problem.route_rate[r]) * served
    return total


def greedy(problem: PlacementProblem, holds: Holds) -> tuple[Holds, float]:
    """From `holds`: what greedy adds, one device per node; and how close a choice it had to make: the least
    relative difference between the best score and the next, or between a gain and nothing."""
    held = holds.copy()
    opening = np.zeros(held.shape)
    if (
        problem.current is not None
        and problem.horizon_seconds
        and problem.ingress_bytes_per_second is not None
    ):
        seconds = problem.column_bytes[None, :] / problem.ingress_bytes_per_second[:, None]
        opening = np.where(problem.current == 1, 0.0, seconds / problem.horizon_seconds)
    scale = cost(problem, np.zeros_like(held), Coupling.SUM) or 1.0
    margin = np.inf
    while True:
        free = problem.capacity_bytes - held.astype(np.int64) @ problem.column_bytes
        here = {kind: cost(problem, held, kind) for kind in (problem.coupling, Coupling.SUM)}
        scores: list[list[tuple[float, int, int]]] = [[], []]
        for n, e in np.argwhere(held == 0).tolist():
            if problem.column_bytes[e] > free[n]:
                continue
            if problem.drained is not None and problem.drained[n]:
                continue
            if problem.pins is not None and problem.pins[n, e] < 0:
                continue
            held[n, e] = 1
            gain, alone = (
                here[kind] - cost(problem, held, kind) for kind in (problem.coupling, Coupling.SUM)
            )
            held[n, e] = 0
            for kind, saved in enumerate((gain, alone)):
                net = saved - opening[n, e]
                margin = min(margin, abs(net) / scale) if abs(net) > 1e-11 * scale else margin
                assert gain > -1e-11 * scale
                if net > 1e-11 * scale:
                    scores[kind].append((net / problem.column_bytes[e], n, e))
        chosen = scores[0] or (scores[1] if problem.coupling is not Coupling.SUM else [])
        if not chosen:
            return held, margin
        chosen.sort(reverse=True)
        if len(chosen) > 1:
            margin = min(margin, (chosen[0][0] - chosen[1][0]) / chosen[0][0])
        held[chosen[0][1], chosen[0][2]] = 1
