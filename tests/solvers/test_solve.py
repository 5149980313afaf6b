"""One battery over every algorithm: what `solve` promises whatever it runs."""

import functools
import itertools
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from solvers.algorithms import ALGORITHMS, solve
from solvers.cost.evaluate import evaluate, total_cost
from solvers.dual.pdhg import lagrangian_bound
from solvers.feasible.violations import shortfalls
from solvers.params import ParamsError, SgdParams
from solvers.placement import Placement
from solvers.problem import Coupling, PlacementProblem, ProblemError
from solvers.result import Progress, SolveStatus
from solvers.stopping import never
from solvers.tolerances import OPTIMALITY_TOLERANCE
from solvers.traffic import compile_traffic
from tests.oracles.instances import random_problem
from tests.oracles.placements import Placements, feasible_placements, objectives, total_costs

ALL = pytest.mark.parametrize("algorithm", list(ALGORITHMS))
COUPLED = pytest.mark.parametrize("coupling", list(Coupling))
TOLERANCE = 1e-9
Costs = npt.NDArray[np.float64]


@functools.cache
def _enumerated(coupling: Coupling, seed: int) -> tuple[PlacementProblem, Placements, Costs]:
    """An instance, all its feasible placements and what they cost; made once for all algorithms."""
    problem = random_problem(1000 * list(Coupling).index(coupling) + seed, coupling)
    placements = feasible_placements(problem)
    return problem, placements, total_costs(problem, placements)


@ALL
@COUPLED
def test_contract(algorithm: str, coupling: Coupling) -> None:
    """On small instances with every feature: feasible by the oracle's own constraints, or INFEASIBLE exactly
    where nothing is feasible; objective as the oracle computes it; bound <= optimum <= objective; OPTIMAL
    only at the optimum; the same seed gives the same placement."""
    infeasible = 0
    for seed in range(60):
        problem, placements, costs = _enumerated(coupling, seed)
        result = solve(problem, algorithm, seed=seed, params={"bound_steps": 60})
        if len(placements) == 0:
            infeasible += 1
            assert result.status is SolveStatus.INFEASIBLE
            assert result.shortfall
            assert result.placement is None
            continue
        assert result.placement is not None, result.shortfall
        holds = result.placement.holds
        assert (placements == holds).all(axis=(1, 2)).any()
        best = float(costs.min())
        assert result.objective == pytest.approx(total_costs(problem, holds[None])[0], rel=1e-12)
        assert result.lower_bound is not None
        assert result.lower_bound <= best + TOLERANCE
        if result.status is SolveStatus.OPTIMAL:
            assert result.objective is not None
            assert result.objective <= best + OPTIMALITY_TOLERANCE * best + TOLERANCE
        if result.objective is not None and np.isfinite(result.objective):
            assert result.gap_ratio is not None
            assert 0 <= result.gap_ratio <= 1
        again = solve(problem, algorithm, seed=seed, params={"bound_steps": 0})
        assert again.placement is not None
        assert again.placement.digest == result.placement.digest
        if not ALGORITHMS[algorithm].certifies:
            assert again.lower_bound is None
            assert again.status is SolveStatus.FEASIBLE
    assert 0 < infeasible < 40


@COUPLED
def test_bound_holds_for_every_placement(coupling: Coupling) -> None:
    """Started from any feasible placement, after any number of steps, the bound is at most the optimum; and
    it is often within a fifth of it, so it is not worthless."""
    close = total = 0
    for seed in range(150):
        problem = random_problem(50_000 + seed, coupling)
        placements = feasible_placements(problem)
        if len(placements) == 0:
            continue
        costs = total_costs(problem, placements)
        best = float(costs.min())
        traffic = compile_traffic(problem)
        for choice, steps in ((seed % len(placements), 1 + seed % 7), (int(np.argmin(costs)), 150)):
            found = lagrangian_bound(
                problem, traffic, placements[choice], float(costs[choice]), steps, never
            ).bound
            assert found <= best + TOLERANCE
            if steps == 150 and np.isfinite(best):
                total += 1
                close += found >= 0.8 * best
    assert total > 60
    assert close >= (0.5 if coupling is not Coupling.COLOCATED else 0.3) * total


def test_bound_is_tight_where_the_relaxation_is() -> None:
    """One node and single calls: the dual meets the optimum, which certifies it."""
    problem = random_problem(
        3, Coupling.SUM, nodes=1, blocks=[6], routes=20, origin="all", extras=False, slack=0.5
    )
    result = solve(problem.replace(min_replicas=0, expert_bytes=np.array([1]), capacity_bytes=np.array([3])))
    assert result.status is SolveStatus.OPTIMAL
    assert result.gap_ratio is not None
    assert result.gap_ratio <= OPTIMALITY_TOLERANCE


def test_half_of_the_best_saving_when_colocated() -> None:
    """With exact tables, an origin and no coverage to keep, the saving is at least half of the best one."""
    for seed in range(60):
        problem = random_problem(
            seed, Coupling.COLOCATED, nodes=2, blocks=[3, 2], origin="all", extras=False, slack=1.0
        ).replace(min_replicas=0)
        placements = feasible_placements(problem)
        empty = objectives(problem, np.zeros((1, problem.nodes, problem.experts), np.uint8))[0]
        best = empty - objectives(problem, placements).min()
        for rounds in (1, 8):
            result = solve(problem, "sgd", params={"rounds": rounds, "bound_steps": 0})
            assert result.objective is not None
            assert empty - result.objective >= 0.5 * best - TOLERANCE


@COUPLED
def test_one_node_is_solved_exactly(coupling: Coupling) -> None:
    """With one node and exact tables there is nothing left to decompose: the optimum."""
    for seed in range(40):
        problem = random_problem(
            seed, coupling, nodes=1, blocks=[4, 3], origin="all", extras=False, slack=0.6
        )
        problem = problem.replace(min_replicas=0)
        result = solve(problem, "sgd", params={"bound_steps": 0})
        assert result.objective == pytest.approx(total_costs(problem, feasible_placements(problem)).min())


@COUPLED
def test_sgd_is_near_the_optimum_on_average(coupling: Coupling) -> None:
    """Over many small instances the mean excess over the optimum stays below a tenth, with greedy tables
    too."""
    for exact_limit in (16, 0):
        excess = []
        for seed in range(60):
            problem = random_problem(seed, coupling, nodes=3, blocks=[4], origin="all", extras=False)
            best = total_costs(problem, feasible_placements(problem)).min(initial=np.inf)
            result = solve(problem, params={"exact_limit": exact_limit, "bound_steps": 0})
            if result.objective is not None:
                excess.append(result.objective / best - 1)
        assert len(excess) > 30
        assert np.mean(excess) < 0.1


@ALL
@COUPLED
def test_order_of_things_does_not_matter_to_feasibility(algorithm: str, coupling: Coupling) -> None:
    """Renumbering the nodes leaves the placement feasible and the cost of the same placement unchanged."""
    problem = random_problem(11, coupling, nodes=3, blocks=[4], origin="all", extras=False, slack=1.5)
    result = solve(problem, algorithm)
    assert result.placement is not None
    for order in itertools.permutations(range(3)):
        node = np.array(order)
        renamed = problem.replace(
            capacity_bytes=problem.capacity_bytes[node],
            latency_seconds=problem.latency_seconds[np.ix_(node, node)],
            origin_latency_seconds=problem.origin_latency_seconds[node],
            route_node=np.argsort(node)[problem.route_node],
        )
        assert evaluate(renamed, result.placement.holds[node]) == pytest.approx(result.objective)
        other = solve(renamed, algorithm)
        assert other.placement is not None
        assert not shortfalls(renamed, other.placement.holds)


def _bare(**changes: Any) -> PlacementProblem:
    values: dict[str, Any] = {
        "expert_bytes": [1],
        "experts_per_block": [2],
        "capacity_bytes": [2, 2],
        "latency_seconds": [[1.0, 2.0], [2.0, 1.0]],
        "origin_latency_seconds": [9.0, 9.0],
        "route_node": [0, 1],
        "route_block": [0, 0],
        "route_experts": [[0, 1], [1, -1]],
        "route_rate": [1.0, 1.0],
    }
    return PlacementProblem(**(values | changes))


NO_ROUTES: dict[str, Any] = {
    "route_node": np.zeros(0, np.int32),
    "route_block": np.zeros(0, np.int32),
    "route_experts": np.zeros((0, 0), np.int32),
    "route_rate": np.zeros(0),
}
EDGES: dict[str, dict[str, Any]] = {
    "zero traffic": {"route_rate": [0.0, 0.0]},
    "no routes": NO_ROUTES,
    "no experts": {"experts_per_block": [0]} | NO_ROUTES,
    "no blocks": {"expert_bytes": np.zeros(0, np.int64), "experts_per_block": np.zeros(0, np.int64)}
    | NO_ROUTES,
    "an empty block": {"expert_bytes": [7, 1], "experts_per_block": [0, 2], "route_block": [1, 1]},
    "one node": {
        "capacity_bytes": [2],
        "latency_seconds": [[1.0]],
        "origin_latency_seconds": [9.0],
        "route_node": [0, 0],
    },
    "one expert": {"experts_per_block": [1], "route_experts": [[0], [0]]},
    "no memory": {"capacity_bytes": [0, 0], "min_replicas": 0},
    "all latencies equal": {"latency_seconds": np.ones((2, 2)), "origin_latency_seconds": [1.0, 1.0]},
    "all latencies zero": {"latency_seconds": np.zeros((2, 2)), "origin_latency_seconds": [0.0, 0.0]},
    "unreachable pairs": {
        "latency_seconds": [[1.0, np.inf], [np.inf, 1.0]],
        "origin_latency_seconds": [np.inf, np.inf],
    },
    "memory for two of each": {"min_replicas": 2},
}


@ALL
@COUPLED
@pytest.mark.parametrize("edge", list(EDGES))
def test_edges(algorithm: str, coupling: Coupling, edge: str) -> None:
    """Degenerate instances get a feasible placement with a bound below its cost."""
    problem = _bare(**EDGES[edge], coupling=coupling)
    result = solve(problem, algorithm)
    assert result.placement is not None
    assert not shortfalls(problem, result.placement.holds)
    assert result.objective == total_cost(problem, result.placement.holds)
    assert result.objective is not None
    assert result.lower_bound is not None
    assert result.lower_bound <= result.objective
    if edge in (
        "zero traffic",
        "no routes",
        "no experts",
        "no blocks",
        "all latencies equal",
        "all latencies zero",
    ):
        assert result.status is SolveStatus.OPTIMAL


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"capacity_bytes": [1, 0]},
            "1 replicas of every expert need 2 bytes, the nodes have 1: short by 1 byte",
        ),
        ({"min_replicas": 3}, "expert 0 of block 0 needs 3 replicas, only 2 nodes may hold it"),
        ({"drained": [1, 1]}, "expert 0 of block 0 needs 1 replicas, only 0 nodes may hold it"),
        (
            {"pins": [[1, 1], [0, 0]], "drained": [1, 0]},
            "expert 0 of block 0 is pinned to node 0",
        ),
        (
            {"pins": [[1, 1], [0, 0]], "capacity_bytes": [1, 2]},
            "node 0 needs 2 bytes for its pinned",
        ),
        (
            {
                "expert_bytes": [2, 3],
                "experts_per_block": [2, 1],
                "capacity_bytes": [5, 2],
                "device_node": [0, 0, 1],
                "device_capacity_bytes": [3, 2, 2],
                "pins": [[0, 0, 0], [-1, -1, 0]],
            },
            "the devices cannot take 1 replicas of every expert with the pins given: no such assignment",
        ),
    ],
)
@ALL
def test_infeasible_says_why(algorithm: str, change: dict[str, Any], words: str) -> None:
    """What is short is named with its numbers, for every algorithm."""
    result = solve(_bare(**change), algorithm)
    assert result.status is SolveStatus.INFEASIBLE
    assert result.shortfall is not None
    assert result.shortfall.startswith(words)
    assert (result.placement, result.objective, result.lower_bound, result.gap_ratio) == (
        None,
        None,
        None,
        None,
    )


def test_covering_by_programme() -> None:
    """Two sizes on several devices, full to the last byte: the greedy repair gets stuck, the programme does
    not."""
    problem = _bare(
        expert_bytes=[3, 2],
        experts_per_block=[2, 3],
        capacity_bytes=[6, 6],
        device_node=[0, 0, 1, 1],
        device_capacity_bytes=[3, 3, 2, 4],
    )
    for algorithm in ALGORITHMS:
        result = solve(problem, algorithm)
        assert result.placement is not None
        assert not shortfalls(problem, result.placement.holds)
        assert result.placement.used_bytes(problem).tolist() == [6, 6]


def test_nothing_moves_when_moving_costs_more_than_it_saves() -> None:
    """With unchanged statistics the placement in force is kept, bit for bit; with a long horizon a poor one
    is left."""
    problem = random_problem(21, Coupling.SLOWEST, nodes=3, blocks=[4], origin="all", extras=False, slack=1.2)
    settled = solve(problem)
    assert settled.placement is not None
    moving = problem.replace(
        current=settled.placement.holds, ingress_bytes_per_second=np.ones(3), horizon_seconds=100.0
    )
    again = solve(moving)
    assert again.placement is not None
    assert again.placement.digest == settled.placement.digest
    poor = solve(problem, "uniform")
    assert poor.placement is not None
    short = solve(
        problem.replace(
            current=poor.placement.holds, ingress_bytes_per_second=np.ones(3), horizon_seconds=1e-3
        )
    )
    assert short.placement is not None
    assert short.placement.digest == poor.placement.digest
    long = solve(
        problem.replace(
            current=poor.placement.holds, ingress_bytes_per_second=np.ones(3), horizon_seconds=1e9
        )
    )
    assert long.placement is not None
    assert evaluate(problem, long.placement.holds) < evaluate(problem, poor.placement.holds)


def test_start_is_never_made_worse() -> None:
    """A warm start from a feasible placement returns something at least as good, from an infeasible one
    something feasible; one of another shape is refused."""
    for seed in range(20):
        problem = random_problem(seed, nodes=3, blocks=[4], origin="all", extras=False, slack=1.3)
        problem = problem.replace(min_replicas=1)
        for holds in feasible_placements(problem)[:: 1 + seed * 7][:5]:
            result = solve(problem, start=Placement(holds), params={"bound_steps": 0})
            assert result.objective is not None
            assert result.objective <= total_cost(problem, holds) * (1 + 1e-12)
        full = solve(problem, start=Placement(np.ones((3, 4), np.uint8)))
        assert full.placement is not None
    with pytest.raises(ProblemError, match="holds: has shape"):
        solve(_bare(), start=Placement(np.ones((1, 4), np.uint8)))


def test_limits_and_stops_leave_a_feasible_placement() -> None:
    """A limit of zero or a criterion that is true at once still gives a feasible placement, marked
    TIME_LIMIT; a limit is kept, within the time one step takes."""
    problem = random_problem(
        5, Coupling.SLOWEST, nodes=6, blocks=[32] * 12, routes=20_000, origin="none", extras=False
    )
    problem = problem.replace(capacity_bytes=problem.capacity_bytes * 2)
    cases: tuple[dict[str, Any], ...] = ({"time_limit_seconds": 0.0}, {"stopping": lambda: True})
    for algorithm, options in itertools.product(("sgd", "certified"), cases):
        result = solve(problem, algorithm, **options)
        assert result.status is SolveStatus.TIME_LIMIT
        assert result.placement is not None
        assert not shortfalls(problem, result.placement.holds)
        if algorithm == "sgd":
            assert result.objective == solve(problem, "local_popularity").objective
    began = time.monotonic()
    solve(problem, "sgd", time_limit_seconds=0.5, params={"rounds": 1000, "exchange_steps": 1000})
    assert time.monotonic() - began < 5.0


def test_progress_and_random_orders() -> None:
    """Progress tells of each improvement and ends with the result; the random order depends on the seed
    alone."""
    problem = random_problem(8, Coupling.SUM, nodes=3, blocks=[4], origin="all", extras=False, slack=1.0)
    seen: list[Progress] = []
    result = solve(problem, progress=seen.append)
    assert [seen[0].step, seen[-1].step] == ["empty", "done"]
    assert (seen[-1].objective, seen[-1].lower_bound) == (result.objective, result.lower_bound)
    digests: dict[int, set[str]] = {}
    for seed in (*range(6), *range(6)):
        placed = solve(problem, "sgd", params=SgdParams(order="random", rounds=1), seed=seed).placement
        assert placed is not None
        digests.setdefault(seed, set()).add(placed.digest)
    assert all(len(found) == 1 for found in digests.values())
    assert len(set.union(*digests.values())) > 1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"algorithm": "best"}, ValueError, "algorithm: is 'best', expected one of sgd"),
        ({"seed": -1}, ValueError, "seed: is -1"),
        ({"time_limit_seconds": -1.0}, ValueError, "time_limit_seconds: is -1.0"),
        ({"time_limit_seconds": float("nan")}, ValueError, "time_limit_seconds: is nan"),
        ({"params": {"round": 1}}, ParamsError, "'round': unknown parameter, expected one of bound_share"),
        (
            {"algorithm": "sgd", "params": {"rounds": 0}},
            ParamsError,
            "rounds: is 0, expected a whole number in 1",
        ),
        (
            {"algorithm": "sgd", "params": {"rounds": 1.5}},
            ParamsError,
            "rounds: is 1.5, expected a whole number",
        ),
        ({"params": {"eps": "small"}}, ParamsError, "eps: is 'small', expected a number"),
        (
            {"algorithm": "sgd", "params": {"order": "best"}},
            ParamsError,
            "order: is 'best', expected capacity, index or random",
        ),
        ({"params": {"exact_limit": 30}}, ParamsError, "exact_limit: is 30"),
        (
            {"algorithm": "uniform", "params": SgdParams()},
            ParamsError,
            "params: are SgdParams, expected BaselineParams",
        ),
    ],
)
def test_misuse_is_named(options: dict[str, Any], error: type[Exception], words: str) -> None:
    """Unknown names and values out of range are exceptions that name the argument."""
    with pytest.raises(error) as caught:
        solve(_bare(), **options)
    assert str(caught.value).startswith(words)
