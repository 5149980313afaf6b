"""A limit that ends a search is no proof: the best placement known wins, and memory is filled."""

import time

import numpy as np
import pytest

from solvers.algorithms import solve
from solvers.cost.evaluate import total_cost
from solvers.equal_slots import solve_equal_slots
from solvers.feasible import repair as coverage
from solvers.feasible import shortage
from solvers.feasible.repair import Infeasible, make_feasible
from solvers.feasible.violations import shortfalls
from solvers.params import CertifiedParams
from solvers.placement import Placement
from solvers.problem import Coupling, PlacementProblem, UInt8
from solvers.result import SolveStatus
from solvers.search.region import solve_region
from solvers.traffic import compile_traffic
from tests.oracles.instances import random_problem


def _exactly_full(seed: int = 0) -> tuple[PlacementProblem, UInt8]:
    """12 nodes of two devices, six sizes of experts, at most 2 % of the smallest free on a device; and the
    placement that the devices were cut to."""
    rng = np.random.default_rng(seed)
    nodes, kinds, each = 12, 6, 10
    sizes = rng.integers(50_000_000, 350_000_000, kinds)
    block = np.repeat(np.arange(kinds), each)
    device = rng.integers(0, 2 * nodes, kinds * each)
    capacity = np.zeros(2 * nodes, np.int64)
    np.add.at(capacity, device, sizes[block])
    capacity += (rng.random(2 * nodes) * 0.02 * sizes.min()).astype(np.int64)
    node = np.repeat(np.arange(nodes), 2)
    latency = rng.uniform(0.002, 0.04, (nodes, nodes))
    np.fill_diagonal(latency, 0.001)
    routes = 100
    problem = PlacementProblem(
        expert_bytes=sizes,
        experts_per_block=np.full(kinds, each),
        capacity_bytes=capacity.reshape(nodes, 2).sum(axis=1),
        latency_seconds=latency,
        origin_latency_seconds=np.full(nodes, np.inf),
        route_node=rng.integers(0, nodes, routes).astype(np.int32),
        route_block=rng.integers(0, kinds, routes).astype(np.int32),
        route_experts=np.stack([rng.permutation(each)[:2] for _ in range(routes)]).astype(np.int32),
        route_rate=rng.exponential(1.0, routes),
        device_node=node.astype(np.int32),
        device_capacity_bytes=capacity,
    )
    holds = np.zeros((nodes, problem.experts), np.uint8)
    holds[node[device], np.arange(problem.experts)] = 1
    return problem, holds


@pytest.mark.parametrize("algorithm", ["certified", "sgd", "prism"])
def test_feasible_placement_on_full_nodes_is_not_lost_to_a_failed_repair(algorithm: str) -> None:
    """Where the search is given a feasible placement, its own failed repairs do not end it without one."""
    problem, holds = _exactly_full()
    assert not shortfalls(problem, holds)
    given = problem.replace(current=holds)
    result = solve(given, algorithm, time_limit_seconds=0.3, params={"bound_steps": 1})
    assert result.placement is not None
    assert result.objective is not None
    assert result.objective <= total_cost(problem, holds) * (1 + 1e-12)


@pytest.mark.parametrize("algorithm", ["certified", "greedy", "uniform"])
def test_a_limit_is_no_proof_of_infeasibility(algorithm: str) -> None:
    """A fleet whose one packing is not found within the limit has the status TIME_LIMIT, soon after it."""
    problem, _ = _exactly_full()
    began = time.monotonic()
    result = solve(problem, algorithm, time_limit_seconds=0.2, params={"bound_steps": 1})
    assert time.monotonic() - began < 10.0  # it was 20 s and more
    assert (result.status, result.placement) == (SolveStatus.TIME_LIMIT, None)
    assert "nor is it proved" in str(result.shortfall)
    assert "pins" not in str(result.shortfall)


def test_equal_slots_keep_the_status_of_a_block_without_a_placement(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block for which none was found in time does not make the whole infeasible."""
    problem = random_problem(3, nodes=3, blocks=[4], origin="all", extras=False, slack=2.0)
    problem = problem.replace(
        expert_bytes=np.array([1]), capacity_bytes=np.array([2, 2, 2]), min_replicas=1, drained=None
    )
    assert solve_equal_slots(problem, 2, "uniform").placement is not None

    def stuck(*_: object, **__: object) -> UInt8:
        raise coverage.NotFound("none was found")

    monkeypatch.setattr("solvers.heuristics.popularity.make_feasible", stuck)
    result = solve_equal_slots(problem, 2, "uniform")
    assert (result.status, result.placement) == (SolveStatus.TIME_LIMIT, None)


def test_best_fit_packs_without_the_integer_programme(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the repair gets stuck, experts are put largest first on the device that they leave least free."""
    monkeypatch.setattr(coverage, "_covering", None)
    monkeypatch.setattr(coverage, "_repair", lambda *_: None)
    problem = PlacementProblem(
        expert_bytes=np.array([6, 5, 4, 3]),
        experts_per_block=np.array([2, 2, 2, 2]),
        capacity_bytes=np.array([22, 14]),
        latency_seconds=np.array([[0.0, 1.0], [1.0, 0.0]]),
        origin_latency_seconds=np.full(2, np.inf),
        route_node=np.array([0]),
        route_block=np.array([0]),
        route_experts=np.array([[0]]),
        route_rate=np.array([1.0]),
        device_node=np.array([0, 0, 1]),
        device_capacity_bytes=np.array([11, 11, 14]),
    )
    empty = np.zeros((2, 8), np.uint8)
    assert not shortfalls(problem, make_feasible(problem, compile_traffic(problem), empty))


def test_a_repair_that_is_not_needed_ends_with_the_limit() -> None:
    """While another placement is known, no part of a repair goes on when the search is to stop."""
    problem, holds = _exactly_full()
    traffic = compile_traffic(problem)
    empty = np.zeros_like(holds)
    with pytest.raises(coverage.NotFound):
        make_feasible(problem, traffic, empty, lambda: True, needed=False)


def test_too_little_memory_stays_proved() -> None:
    """What counting proves is infeasible is so whatever the limit."""
    problem, _ = _exactly_full()
    with pytest.raises(Infeasible):
        make_feasible(
            problem.replace(min_replicas=3),
            compile_traffic(problem),
            np.zeros((12, 60), np.uint8),
            lambda: True,
        )


def test_pins_are_not_blamed_for_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting what finds no place, cut short, does not say that pins rule every placement out."""
    monkeypatch.setattr(shortage, "COUNT_SECONDS", 0.0)
    problem, _ = _exactly_full()
    found = shortage.unplaced(problem)
    assert found is not None
    assert not found.proved


@pytest.mark.parametrize("coupling", list(Coupling))
@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("algorithm", ["certified", "sgd", "maxconv"])
def test_search_without_time_fills_the_memory(algorithm: str, start: bool, coupling: Coupling) -> None:
    """A limit that ends before the first sweep gives what popularity gives, not empty memory, also where the
    search was to begin from an empty placement."""
    problem = random_problem(
        5, coupling, nodes=4, blocks=[6, 6], routes=80, origin="all", extras=False, slack=0.3
    ).replace(min_replicas=0)
    empty = Placement(np.zeros((problem.nodes, problem.experts), np.uint8))
    popular = solve(problem, "local_popularity", params={"bound_steps": 0})
    result = solve(
        problem,
        algorithm,
        time_limit_seconds=0.0,
        start=empty if start else None,
        params={"bound_steps": 1},
    )
    assert result.objective is not None
    assert popular.objective is not None
    assert result.objective <= popular.objective * (1 + 1e-12)


def test_region_without_time_fills_the_memory() -> None:
    """The same for the search of large fleets."""
    problem = random_problem(
        5, Coupling.SLOWEST, nodes=4, blocks=[6, 6], routes=80, origin="all", extras=False, slack=0.3
    ).replace(min_replicas=0)
    traffic = compile_traffic(problem)
    empty = np.zeros((problem.nodes, problem.experts), np.uint8)
    one = empty.copy()
    one[0, np.argmax(problem.column_bytes <= problem.capacity_bytes[0])] = 1
    found = solve_region(
        problem,
        traffic,
        CertifiedParams(patience=1, goal_gap=0.0),
        np.random.default_rng(0),
        one,
        0.0,
        lambda: True,
        lambda _, __: None,
    )
    popular = solve(problem, "local_popularity", params={"bound_steps": 0})
    assert popular.placement is not None
    assert found.holds.sum() >= popular.placement.holds.sum() - 1
    assert total_cost(problem, found.holds) < total_cost(problem, one)


def test_algorithms_hand_the_limit_to_the_repair() -> None:
    """None goes on for twenty seconds in an integer programme that a limit of none was given for."""
    problem, _ = _exactly_full(1)
    for algorithm in ("sgd", "random", "eplb", "exact"):
        began = time.monotonic()
        result = solve(problem, algorithm, time_limit_seconds=0.0, params={"bound_steps": 1})
        assert result.status is not SolveStatus.INFEASIBLE
        assert time.monotonic() - began < 8.0, algorithm
