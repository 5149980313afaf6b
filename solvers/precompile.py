"""Compiles, or loads from numba's cache, every kernel with the types it is used with."""

from __future__ import annotations

import numpy as np

from solvers.algorithms import ALGORITHMS, solve
from solvers.cost.evaluate import breakdown, mean_latency_seconds
from solvers.heuristics.convolution import choose_counts_rounded
from solvers.kernels import knapsack, tables, whole
from solvers.params import DEFAULT_ALGORITHM, CertifiedParams
from solvers.problem import Coupling, PlacementProblem
from solvers.response.holders import first_holders, nearest_holder
from solvers.response.partial import Budget, instalment
from solvers.search.region import solve_region
from solvers.stopping import never
from solvers.traffic import compile_traffic


def warm() -> None:
    """Runs every algorithm under every coupling on a tiny instance, so that no later solve waits for a
    compiler.

    About a second with a warm cache, up to a minute without. numba keeps its cache beside the kernels
    or, where that is not writable, in the user's cache directory or in NUMBA_CACHE_DIR.
    """
    for coupling in Coupling:
        problem = PlacementProblem(
            expert_bytes=np.array([1]),
            experts_per_block=np.array([3]),
            capacity_bytes=np.array([2, 2]),
            latency_seconds=np.array([[0.001, 0.01], [0.01, 0.001]]),
            origin_latency_seconds=np.array([0.1, 0.1]),
            route_node=np.array([0, 1], np.int32),
            route_block=np.array([0, 0], np.int32),
            route_experts=np.array([[0, 1], [0, 1]], np.int32),  # the third is left to the repair
            route_rate=np.array([1.0, 2.0]),
            coupling=coupling,
        )
        for algorithm in ALGORITHMS:
            # one climb to its end loads what the bounds of all need
            steps = CertifiedParams().bound_steps if algorithm == DEFAULT_ALGORITHM else 2
            result = solve(problem, algorithm, params={"bound_steps": steps})
            assert result.placement is not None
            breakdown(problem, result.placement.holds)
            mean_latency_seconds(problem, result.placement.holds, 3.0)
        nothing = np.zeros((2, 3), np.uint8)
        both = np.array([[1, 1, 0], [0, 1, 1]], np.uint8)
        instalment(problem.replace(min_replicas=0), nothing, both, Budget(copies=1))
        # what only large fleets need
        solve_region(
            problem,
            compile_traffic(problem),
            CertifiedParams(patience=1, goal_gap=0.0, exact_limit=0),
            np.random.default_rng(0),
            both,
            None,
            never,
            lambda _, __: None,
        )
        nearest_holder(problem.latency_seconds, problem.origin_latency_seconds, both)
        first_holders(np.ascontiguousarray(both.T), [0, 1], np.zeros(1, np.int64), 1)
        # the greedy tables, which blocks this small don't use by themselves
        solve(problem, "sgd", params={"exact_limit": 0, "bound_steps": 2})
        solve(problem, "maxconv", params={"mode": "concave", "bound_steps": 2})
    start = np.array([0, 2], np.int64)
    one = np.ones(1, np.int64)
    knapsack.group_knapsack_by_value(np.array([0, 1]), start, one, 1, 2, np.zeros(1, np.int32))
    knapsack.hull_knapsack(np.zeros(2), start, one, 1, np.zeros(1, np.int32))
    # what only experts of several sizes need: profiles to merge, whole knapsacks
    two = np.array([0, 2, 4], np.int64)
    choose_counts_rounded(np.array([0.0, 1.0, 0.0, 1.1]), two, np.array([2, 3], np.int64), 4, 0.01)
    whole.knapsacks(np.zeros((1, 2)), np.arange(2), np.array([3, 2]), one, 1, np.zeros((1, 2)))
    # the tables of large problems
    term = (np.zeros((1, 1), np.int32), np.ones(1, np.int32), np.ones(1), 1)
    tables.drop_table(np.zeros(1, np.int8), np.zeros(1), *term, np.zeros(2), np.zeros((2, 1), np.uint8))
