"""What the climbs of areas hand on, and the coverage that their bounds count."""

import pickle

import numpy as np
import pytest

from solvers.algorithms import solve
from solvers.cost.evaluate import total_cost
from solvers.dual import clusters as areas_module
from solvers.dual import replicas
from solvers.dual.clusters import areas
from solvers.feasible.packing import packs_within_bytes
from solvers.multipliers import AreaMultipliers, CellPotentials, Multipliers, RegionMultipliers
from solvers.params import CertifiedParams
from solvers.problem import Coupling, PlacementProblem, ProblemError
from solvers.response.fleet import FleetResponse
from solvers.search import region as region_module
from solvers.search.region import region_bound
from solvers.stopping import never
from solvers.traffic import compile_traffic
from tests.oracles.instances import random_problem
from tests.oracles.placements import feasible_placements, total_costs

COUPLED = pytest.mark.parametrize("coupling", list(Coupling))


@pytest.fixture(autouse=True)
def _small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_module, "_MANY_CALLS", 0)
    monkeypatch.setattr(region_module, "areas", lambda problem: areas(problem, 2))
    monkeypatch.setattr(areas_module, "_FIRST_POOL", 1)


def _covered(seed: int, coupling: Coupling) -> PlacementProblem:
    """Small, with one or two replicas to keep of every expert."""
    problem = random_problem(
        31_000 + seed,
        coupling,
        nodes=3 + seed % 3,
        blocks=[[3], [2, 2], [3, 1]][seed % 3],
        routes=8,
        origin=("all", "some", "none")[seed // 3 % 3],
        slack=2.0,
    )
    return problem.replace(min_replicas=1 + seed % 2)


@COUPLED
def test_bound_with_coverage_is_below_every_feasible_placement(
    coupling: Coupling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one or two replicas of everything to keep, in areas of at most two nodes, the bound is at most the
    optimum: cold, from the multipliers of the solve before, and from those of other rates."""
    monkeypatch.setattr(region_module, "_STEPS", 40)
    proved = handed = 0
    for seed in range(18):
        problem = _covered(seed, coupling)
        placements = feasible_placements(problem)
        if len(placements) == 0:
            continue
        least = float(total_costs(problem, placements).min())
        first = solve(problem, "certified", params={"patience": 1})
        factor = np.random.default_rng(seed).lognormal(0.0, 0.5, problem.routes)
        moved = problem.replace(route_rate=problem.route_rate * factor)
        for begun in (first, solve(moved, "certified", params={"patience": 1})):
            again = solve(problem, "certified", params={"patience": 1}, multipliers=begun.multipliers)
            assert first.lower_bound is not None
            assert again.lower_bound is not None
            assert max(first.lower_bound, again.lower_bound) <= least * (1 + 1e-9)
            handed += begun.multipliers is not None
        proved += 1
    assert proved > 8
    assert handed > 12


def test_coverage_counts_in_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where experts that hardly anybody calls must be copied, the areas' bound knows what that costs: without
    coverage it was nearly 0, and the optimum is within a tenth of it."""
    monkeypatch.setattr(region_module, "_STEPS", 40)
    near = 0
    for seed in range(12):
        problem = _covered(seed, Coupling.SLOWEST)
        problem = problem.replace(
            route_rate=problem.route_rate * 1e-6,
            origin_latency_seconds=np.full(problem.nodes, 1.0),
            current=np.zeros((problem.nodes, problem.experts), np.uint8),
            ingress_bytes_per_second=np.full(problem.nodes, 1e-3),
            horizon_seconds=10.0,
        )
        placements = feasible_placements(problem)
        if len(placements) == 0:
            continue
        least = float(total_costs(problem, placements).min())
        bound = region_bound(problem, never, None)
        without = region_bound(problem.replace(min_replicas=0), never, None)
        assert without <= 0.01 * least
        assert bound <= least * (1 + 1e-9)
        near += bound > 0.9 * least
    assert near > 4


def test_a_price_on_replicas_is_counted_once() -> None:
    """The bounds of areas, put together, are the sum of their own and of the `min_replicas` cheapest
    replicas of every expert in the whole fleet, whatever area these are in."""
    parts = [
        replicas.Reduced(1.0, np.array([[2.0, -np.inf], [5.0, 3.0]])),
        replicas.Reduced(2.0, np.array([[1.0, -4.0], [np.inf, 7.0]])),
    ]
    bound, price = replicas.with_coverage(parts)
    assert bound == pytest.approx(3.0 + 1.0 + 2.0)
    assert price.tolist() == [2.0, 0.0]


@pytest.mark.parametrize("coupling", [Coupling.SLOWEST, Coupling.SUM])
def test_areas_climb_on_where_they_ended(coupling: Coupling, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the multipliers of the solve before, one step an area proves nearly what many did; without them it
    proves much less. They survive a pickle, as the service passes them on."""
    problem = random_problem(
        5, coupling, nodes=10, blocks=[6, 5, 4], routes=150, origin="all", extras=False, slack=2.5
    )
    first = solve(problem, "certified", params={"patience": 1})
    monkeypatch.setattr(region_module, "_STEPS", 1)
    begun = pickle.loads(pickle.dumps(first.multipliers))
    assert isinstance(begun, RegionMultipliers)
    warm = solve(problem, "certified", params={"patience": 1}, multipliers=begun)
    cold = solve(problem, "certified", params={"patience": 1})
    assert first.lower_bound is not None
    assert warm.lower_bound is not None
    assert cold.lower_bound is not None
    assert warm.lower_bound > 0.98 * first.lower_bound
    assert cold.lower_bound < 0.95 * first.lower_bound


def test_multipliers_of_another_kind_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of areas do nothing in a solve of the whole fleet, and the other way round."""
    problem = random_problem(6, Coupling.SLOWEST, nodes=5, blocks=[4], routes=40, origin="all", extras=False)
    of_areas = solve(problem, "certified", params={"patience": 1})
    with monkeypatch.context() as patch:
        patch.setattr(region_module, "_MANY_CALLS", 10**12)
        whole = solve(problem, "certified", params={"patience": 1}, multipliers=of_areas.multipliers)
    assert isinstance(whole.multipliers, Multipliers)
    again = solve(problem, "certified", params={"patience": 1}, multipliers=whole.multipliers)
    assert again.objective == of_areas.objective
    assert again.lower_bound == of_areas.lower_bound


def test_what_is_no_multiplier_of_an_area_is_refused() -> None:
    """Nodes twice, cells out of order, a negative price, and prices of another shape are refused where they
    are made, with the key and the index."""
    cells = np.array([3, 1]), np.zeros((2, 2), np.float16)
    with pytest.raises(ProblemError, match=r"cell\[1\]: is 1, expected more than cell\[0\]"):
        CellPotentials(*cells)
    one = Multipliers((), np.zeros(3), np.zeros((2, 3), np.float16), 1.0, 1.0, 1)
    with pytest.raises(ProblemError, match=r"members\[1\]: is 0, expected more than members\[0\]"):
        AreaMultipliers(np.array([0, 0]), one)
    with pytest.raises(ProblemError, match="members: are 3, expected at most 2"):
        AreaMultipliers(np.array([0, 1, 2]), one)
    area = AreaMultipliers(np.array([0, 1]), one)
    with pytest.raises(ProblemError, match=r"areas\[1\]\.members: has 0"):
        RegionMultipliers((area, area), np.zeros(3))
    with pytest.raises(ProblemError, match=r"replica_price\[1\]: is -1.0"):
        RegionMultipliers((area,), np.array([0.0, -1.0, 0.0]))
    with pytest.raises(ProblemError, match=r"areas\[0\]\.replica_price: has shape"):
        RegionMultipliers((area,), np.zeros(4))


def test_effort_limits_the_search_of_a_large_fleet() -> None:
    """Without a time limit `effort` ends climbs and rounds: with 0 every area climbs a step and nothing is
    ruined, and more of it proves more."""
    problem = random_problem(
        7, Coupling.SLOWEST, nodes=10, blocks=[6, 5, 4], routes=150, origin="all", extras=False, slack=2.5
    )
    steps: list[str] = []
    least = solve(
        problem, "certified", params={"effort": 0}, progress=lambda report: steps.append(report.step)
    )
    more = solve(problem, "certified", params={"effort": 1000, "patience": 5})
    assert "repair" not in steps
    assert least.lower_bound is not None
    assert more.lower_bound is not None
    assert more.lower_bound > least.lower_bound
    assert least.objective == total_cost(problem, least.placement.holds)  # type: ignore[union-attr]


def test_a_response_that_changes_an_even_number_of_experts_is_taken() -> None:
    """The response of a fleet's only node, whose blocks have exact tables, is the best of all placements. It
    stayed as it was where an even number of experts changed in every block."""
    compared = 0
    for seed in range(20, 32):
        problem = random_problem(
            52_000 + seed, Coupling.SLOWEST, nodes=1, blocks=[5, 4], routes=30, origin="all", extras=False
        ).replace(min_replicas=0)
        if not packs_within_bytes(problem):
            continue
        least = float(total_costs(problem, feasible_placements(problem)).min())
        empty = np.zeros((1, problem.experts), np.uint8)
        response = FleetResponse(problem, compile_traffic(problem), empty, CertifiedParams(exact_limit=5))
        response.respond(0)
        assert total_cost(problem, response.holds) <= least * (1 + 1e-6)
        compared += 1
    assert compared > 5
