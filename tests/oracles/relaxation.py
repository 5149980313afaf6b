"""What a dual proves, from its definition: loops, sorting, and the linear programme behind it."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from solvers.cost.evaluate import opening_costs
from solvers.dual.relaxation import Dual
from solvers.exact.programme import programme
from solvers.feasible.packing import packable_bytes
from solvers.feasible.repair import allowance
from solvers.problem import PlacementProblem
from solvers.traffic import compile_traffic

Float64 = npt.NDArray[np.float64]


def openings(problem: PlacementProblem) -> Float64:
    """float64[N, E]: what holding adds to the total cost by itself."""
    if problem.horizon_seconds is None:
        return np.zeros((problem.nodes, problem.experts))
    return opening_costs(problem) / problem.horizon_seconds


def linear_values(problem: PlacementProblem, dual: Dual, placements: npt.NDArray[np.uint8]) -> Float64:
    """float64[P]: the linear function of `dual` at each placement; valid where no cost is below it."""
    profit = dual.earned + dual.replica_price[None, :] - openings(problem)
    required = problem.min_replicas * float(dual.replica_price.sum())
    values: Float64 = dual.constant + required - np.einsum("ne,pne->p", profit, placements.astype(np.float64))
    return values


def best_knapsack(profit: Float64, size: Float64, room: float) -> float:
    """The most profit @ x with 0 <= x <= 1 and size @ x <= room: the best per byte first."""
    total = 0.0
    for e in sorted(range(len(profit)), key=lambda e: -profit[e] / size[e]):
        part = min(1.0, room / float(size[e]))
        if profit[e] > 0.0 and part > 0.0:
            total += part * float(profit[e])
            room -= part * float(size[e])
    return total


def best_whole_knapsack(profit: Float64, size: npt.NDArray[np.int64], room: int) -> float:
    """The most profit @ x with x of 0 and 1 and size @ x <= room: the best for every sum of sizes."""
    best = {0: 0.0}
    for value, weight in zip(profit.tolist(), size.tolist(), strict=True):
        for used, reached in list(best.items()):
            if value > 0.0 and used + weight <= room:
                best[used + weight] = max(best.get(used + weight, 0.0), reached + value)
    return max(best.values())


def bound_of(problem: PlacementProblem, dual: Dual) -> float:
    """The least value of the linear function of `dual` over the knapsacks of all nodes, of whole experts."""
    profit = dual.earned + dual.replica_price[None, :] - openings(problem)
    total = dual.constant + problem.min_replicas * float(dual.replica_price.sum())
    allowed, room, size = allowance(problem), packable_bytes(problem), problem.column_bytes
    for m in range(problem.nodes):
        pinned, free = allowed[m] == 1, allowed[m] == 0
        left = max(0, int(room[m] - size[pinned].sum()))
        total -= float(profit[m, pinned].sum())
        total -= best_whole_knapsack(profit[m, free], size[free], left)
    return total


def relaxed_optimum(problem: PlacementProblem) -> float:
    """The optimum of the mixed integer programme without its integrality, by HiGHS."""
    model = programme(problem, compile_traffic(problem), 3_000_000)
    relaxed = dataclasses.replace(model, integrality=np.zeros_like(model.integrality))
    answer = relaxed.minimise(1.0, 60.0, 0.0)
    assert answer.status == 0, answer.message
    return float(answer.fun) + model.constant
