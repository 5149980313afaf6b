"""Obviously right twins of the evaluator and of optimal solvers, over all placements of tiny instances."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from solvers.problem import Coupling, PlacementProblem

Placements = npt.NDArray[np.uint8]  # [P, N, E]


def objectives(problem: PlacementProblem, placements: Placements) -> npt.NDArray[np.float64]:
    """float64[P]: J(X) of each placement, straight from its definition."""
    total = np.zeros(len(placements))
    for r in range(problem.routes):
        if problem.route_rate[r] == 0:
            continue
        n, b = int(problem.route_node[r]), int(problem.route_block[r])
        columns = [int(problem.block_offset[b]) + int(e) for e in problem.route_experts[r] if e >= 0]
        origin = problem.origin_latency_seconds[n]
        held = placements[:, :, columns] == 1  # [P, N, K]
        latency = problem.latency_seconds[n][None, :, None]
        costs = np.minimum(origin, np.where(held, latency, np.inf).min(axis=1))  # [P, K]
        if problem.coupling is Coupling.SUM:
            latencies = costs.sum(axis=1)
        elif problem.coupling is Coupling.SLOWEST:
            latencies = costs.max(axis=1)
        else:
            host = np.where(held.all(axis=2), problem.latency_seconds[n][None, :], np.inf).min(axis=1)
            latencies = np.minimum(host, origin if np.isfinite(origin) else costs.sum(axis=1))
        total += problem.route_rate[r] * latencies
    return total


def migration_costs(problem: PlacementProblem, placements: Placements) -> npt.NDArray[np.float64]:
    """float64[P]: M(X0, X) of each placement, in seconds."""
    total = np.zeros(len(placements))
    if problem.current is None or problem.ingress_bytes_per_second is None:
        return total
    for n in range(problem.nodes):
        for e in range(problem.experts):
            seconds = problem.column_bytes[e] / problem.ingress_bytes_per_second[n]
            total += seconds * ((placements[:, n, e] == 1) & (problem.current[n, e] == 0))
    return total


def total_costs(problem: PlacementProblem, placements: Placements) -> npt.NDArray[np.float64]:
    """float64[P]: J(X) + M(X0, X) / H."""
    cost = objectives(problem, placements)
    if problem.horizon_seconds is not None:
        cost = cost + migration_costs(problem, placements) / problem.horizon_seconds
    return cost


def packs(sizes: list[int], capacities: list[int]) -> bool:
    """Whether items fit on devices, by trying every assignment."""
    if sum(sizes) > sum(capacities):
        return False
    return any(
        all(
            sum(size for size, device in zip(sizes, assignment, strict=True) if device == d) <= capacities[d]
            for d in range(len(capacities))
        )
        for assignment in itertools.product(range(len(capacities)), repeat=len(sizes))
    )


def feasible_placements(problem: PlacementProblem) -> Placements:
    """uint8[P, N, E]: every feasible placement. For instances with N E <= 12."""
    rows: list[npt.NDArray[np.uint8]] = []
    subsets = np.array(list(itertools.product((0, 1), repeat=problem.experts)), np.uint8)
    device_node, device_capacity = problem.devices
    for n in range(problem.nodes):
        capacities = device_capacity[device_node == n].tolist()
        good = np.array([packs(problem.column_bytes[subset == 1].tolist(), capacities) for subset in subsets])
        if problem.pins is not None:
            good &= ((problem.pins[n] != 1) | (subsets == 1)).all(axis=1)
            good &= ((problem.pins[n] != -1) | (subsets == 0)).all(axis=1)
        if problem.drained is not None and problem.drained[n]:
            good &= ~subsets.any(axis=1)
        rows.append(subsets[good])
    chosen = np.array(list(itertools.product(*(range(len(row)) for row in rows))), np.int64)
    if len(chosen) == 0:
        return np.zeros((0, problem.nodes, problem.experts), np.uint8)
    placements = np.stack([rows[n][chosen[:, n]] for n in range(problem.nodes)], axis=1)
    covered = (placements.sum(axis=1) >= problem.min_replicas).all(axis=1)
    feasible: Placements = placements[covered]
    return feasible


def optimum(problem: PlacementProblem) -> float | None:
    """The least J(X) + M(X0, X) / H over all feasible placements; None where there is none."""
    placements = feasible_placements(problem)
    return float(total_costs(problem, placements).min()) if len(placements) else None
