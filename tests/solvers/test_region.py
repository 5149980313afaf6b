"""`certified` on fleets that it solves area by area: what it promises of any, and what warm starts keep."""

import numpy as np
import pytest

from solvers.algorithms import solve
from solvers.cost.evaluate import total_cost
from solvers.dual import clusters as areas_module
from solvers.feasible.repair import impossibility
from solvers.feasible.violations import shortfalls
from solvers.placement import Placement
from solvers.problem import Coupling, PlacementProblem
from solvers.result import SolveStatus
from solvers.search import region as region_module
from tests.oracles.instances import random_problem

BRIEF = {"patience": 5}
COUPLED = pytest.mark.parametrize("coupling", list(Coupling))


@pytest.fixture(autouse=True)
def _small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_module, "_MANY_CALLS", 0)
    monkeypatch.setattr(region_module, "areas", lambda problem: areas_module.areas(problem, 4))
    monkeypatch.setattr(areas_module, "_FIRST_POOL", 2)


def _region(seed: int, coupling: Coupling, origin: str = "all") -> PlacementProblem:
    return random_problem(
        seed, coupling, nodes=10, blocks=[6, 5, 4], routes=150, origin=origin, extras=False, slack=2.5
    )


@COUPLED
def test_any_fleet_gets_a_feasible_placement_and_a_bound(coupling: Coupling) -> None:
    """With pins, drained nodes, devices, unreachable pairs, with or without origins: a feasible placement,
    the evaluator's cost and a bound below it, or the shortfall in words; the same again with the same
    seed."""
    solved = 0
    for seed in range(15):
        problem = random_problem(
            40_000 + seed,
            coupling,
            nodes=7,
            blocks=[4, 5],
            routes=40,
            origin=("all", "some", "none")[seed % 3],
        )
        result = solve(problem, "certified", params=BRIEF, seed=seed)
        if result.placement is None:
            assert result.status is SolveStatus.INFEASIBLE
            assert result.shortfall
            continue
        holds = result.placement.holds
        assert impossibility(problem) is None
        assert not shortfalls(problem, holds)
        assert result.objective == total_cost(problem, holds)
        assert result.lower_bound is not None
        assert 0.0 <= result.lower_bound <= result.objective
        again = solve(problem, "certified", params=BRIEF, seed=seed)
        assert again.placement is not None
        assert (again.placement.holds == holds).all()
        assert again.lower_bound == result.lower_bound
        solved += 1
    assert solved > 8


@COUPLED
@pytest.mark.parametrize("origin", ["all", "none"])
def test_as_good_as_plain_certified(coupling: Coupling, origin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On fleets that can be solved as a whole the cost by areas is near that, and each bound is below the
    other's cost."""
    whole = parts = 0.0
    for seed in range(3):
        problem = _region(seed, coupling, origin)
        found = solve(problem, "certified")
        with monkeypatch.context() as patch:
            patch.setattr(region_module, "_MANY_CALLS", 10**9)
            plain = solve(problem, "certified", params={"effort": 50, "patience": 3})
        assert found.objective is not None
        assert found.lower_bound is not None
        assert plain.objective is not None
        assert plain.lower_bound is not None
        assert found.lower_bound <= plain.objective
        assert plain.lower_bound <= found.objective
        whole += plain.objective
        parts += found.objective
    # hosts of whole routes are searched less well, and without an origin by the rates of slowest calls
    limit = 1.1 if coupling is not Coupling.COLOCATED else 1.25 if origin == "all" else 1.6
    assert parts < limit * whole


@COUPLED
def test_warm_start_moves_nothing_for_nothing(coupling: Coupling) -> None:
    """With a placement in force, unchanged traffic and a price on moves, unchanged nodes keep their experts;
    a start is never made worse."""
    problem = _region(5, coupling)
    first = solve(problem, "certified").placement
    assert first is not None
    priced = problem.replace(
        current=first.holds, ingress_bytes_per_second=np.full(10, 0.001), horizon_seconds=100.0
    )
    again = solve(priced, "certified", start=first)
    assert again.placement is not None
    assert again.objective is not None
    assert again.objective <= total_cost(priced, first.holds)
    assert (again.placement.holds & first.holds).sum() >= 0.95 * first.holds.sum()
    rng = np.random.default_rng(1)
    poor = Placement((rng.random(first.holds.shape) < 0.1).astype(np.uint8))
    better = solve(problem, "certified", start=poor).objective
    assert better is not None
    assert better <= total_cost(problem, poor.holds)


def test_no_time_leaves_a_feasible_placement_and_a_bound() -> None:
    """A time limit of nothing gives a feasible placement and the bound of a step per area."""
    problem = _region(7, Coupling.SLOWEST, "none")
    result = solve(problem, "certified", time_limit_seconds=0.0)
    assert result.placement is not None
    assert result.lower_bound is not None
    assert result.objective is not None
    assert not shortfalls(problem, result.placement.holds)
    assert 0.0 < result.lower_bound <= result.objective


def test_baselines_get_their_bound_by_areas() -> None:
    """The bound of an algorithm that has none of its own is that of the areas; no traffic costs nothing."""
    problem = _region(8, Coupling.SUM)
    result = solve(problem, "local_popularity")
    assert result.lower_bound is not None
    assert result.objective is not None
    assert 0.0 < result.lower_bound <= result.objective
    silent = problem.replace(route_rate=np.zeros(problem.routes))
    assert solve(silent, "certified").objective == 0.0
