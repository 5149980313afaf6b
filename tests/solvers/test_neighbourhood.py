"""The best placement near another, against all of them."""

import numpy as np
import pytest

from solvers.exact.programme import TooLarge
from solvers.problem import Coupling
from solvers.search.neighbourhood import Neighbourhood
from solvers.traffic import compile_traffic
from tests.oracles.instances import random_problem
from tests.oracles.placements import feasible_placements, total_costs


@pytest.mark.parametrize("coupling", list(Coupling))
def test_best_of_all_that_differ_in_the_part(coupling: Coupling) -> None:
    """On small instances with every feature, what is found is feasible, as it was outside the part, and no
    other such placement is cheaper."""
    compared = 0
    for seed in range(60):
        problem = random_problem(7000 + seed, coupling)
        placements = feasible_placements(problem)
        if len(placements) == 0:
            continue
        costs = total_costs(problem, placements)
        rng = np.random.default_rng(seed)
        given = int(rng.integers(len(placements)))
        if not np.isfinite(costs[given]):
            continue
        holds = placements[given].astype(np.uint8)
        part = rng.random(holds.shape) < 0.6
        near = ((placements == holds) | part).all(axis=(1, 2))
        found = Neighbourhood(problem, compile_traffic(problem)).best(holds, float(costs[given]), part)
        assert found is not None
        chosen = (placements == found).all(axis=(1, 2))
        assert chosen.any()
        assert near[chosen].all()
        assert costs[chosen][0] == pytest.approx(costs[near].min(), rel=1e-4, abs=1e-9)
        compared += costs[given] > costs[near].min() * 1.01
    assert compared > 10


def test_parts_are_drawn_by_nodes_and_experts() -> None:
    """A part is of two nodes at least, the same experts at each, never all, and follows the seed."""
    problem = random_problem(1, nodes=4, blocks=[12, 12], routes=20, extras=False)
    near = Neighbourhood(problem, compile_traffic(problem))
    seen = set()
    for seed in range(30):
        part = near.draw(np.random.default_rng(seed))
        assert (part == near.draw(np.random.default_rng(seed))).all()
        rows = part[part.any(axis=1)]
        assert len(rows) >= 2
        assert (rows == rows[0]).all()
        assert 0.0 < part.mean() < 0.8
        seen.add(len(rows))
    assert seen == {2, 3, 4}


def test_what_is_not_small_is_refused() -> None:
    """A programme of many variables is not built."""
    problem = random_problem(2, Coupling.SLOWEST, nodes=4, blocks=[32] * 4, routes=3000, extras=False)
    with pytest.raises(TooLarge):
        Neighbourhood(problem, compile_traffic(problem))
    large = random_problem(2, Coupling.SLOWEST, nodes=8, blocks=[64] * 8, routes=3, extras=False)
    with pytest.raises(TooLarge):
        Neighbourhood(large, compile_traffic(large))
