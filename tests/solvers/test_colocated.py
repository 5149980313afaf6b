"""`colocated` without an origin: every algorithm against all placements there are."""

import pytest

from solvers.algorithms import ALGORITHMS, solve
from solvers.problem import Coupling
from solvers.result import SolveStatus
from tests.oracles.instances import random_problem
from tests.oracles.placements import feasible_placements, total_costs


@pytest.mark.parametrize("origin", ["none", "some"])
def test_algorithms_agree_on_colocated_routes_without_an_origin(origin: str) -> None:
    """Where far hosts and near single calls are mixed, no bound of any algorithm is above the optimum, no
    cost below it, and `exact` finds it."""
    known = 0
    for seed in range(6):
        problem = random_problem(
            600 + seed,
            Coupling.COLOCATED,
            nodes=3,
            blocks=[4],
            routes=12,
            origin=origin,
            extras=False,
            slack=1.6,
        )
        latency = problem.latency_seconds.copy()
        latency[:, 2] *= 4.0  # a host there is farther than single calls
        latency[2, 2] /= 4.0
        problem = problem.replace(latency_seconds=latency)
        placements = feasible_placements(problem)
        if len(placements) == 0:
            continue
        best = float(total_costs(problem, placements).min())
        known += 1
        for algorithm in ALGORITHMS:
            found = solve(problem, algorithm, params={"bound_steps": 30})
            assert found.objective is not None
            assert found.lower_bound is not None
            assert found.lower_bound <= best * (1 + 1e-9)
            assert found.objective >= best * (1 - 1e-9)
            if algorithm == "exact":
                assert found.status is SolveStatus.OPTIMAL
                assert found.objective == pytest.approx(best)
    assert known >= 4
