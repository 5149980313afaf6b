"""Greedy against its definition, its guarantees, and what it must not be said to guarantee."""

import math
from typing import Any

import numpy as np
import pytest

from solvers.algorithms import solve
from solvers.cost.evaluate import total_cost
from solvers.feasible.repair import allowance
from solvers.feasible.violations import shortfalls
from solvers.heuristics.greedy import _Search
from solvers.problem import Coupling, PlacementProblem
from solvers.stopping import never
from solvers.traffic import compile_traffic
from tests.oracles.greedy import greedy as naive_greedy
from tests.oracles.instances import random_problem
from tests.oracles.placements import feasible_placements, objectives


def _problem(**values: Any) -> PlacementProblem:
    return PlacementProblem(**values)


@pytest.mark.parametrize("coupling", list(Coupling))
def test_equals_its_definition(coupling: Coupling) -> None:
    """Lazy or with gains kept up to date: the same replicas as with every gain computed anew from J, with
    unequal sizes, pins, a drained node and moving costs; with an origin and without. Where two choices are
    equal to rounding, it is not compared."""
    compared = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        problem = random_problem(
            seed,
            coupling,
            nodes=3,
            blocks=[3, 2],
            origin=["all", "none"][seed % 2],
            extras=False,
            slack=rng.uniform(1, 2),
        )
        problem = problem.replace(
            latency_seconds=rng.uniform(1, 9, (3, 3)),
            pins=rng.choice([-1, 0, 0, 0, 0, 0, 0, 1], (3, 5)),
            drained=[0, 0, int(rng.integers(2))],
        )
        if seed % 3 == 0:
            problem = problem.replace(
                current=rng.integers(0, 2, (3, 5)),
                ingress_bytes_per_second=rng.uniform(1, 9, 3),
                horizon_seconds=3.0,
            )
        pinned = (allowance(problem) == 1).astype(np.uint8)
        found = _Search(problem, compile_traffic(problem)).extend(pinned, never)
        if found is None:
            assert (pinned.astype(int) @ problem.column_bytes > problem.capacity_bytes).any()
            continue
        expected, margin = naive_greedy(problem, pinned)
        if margin > 1e-9:
            assert (found == expected).all()
            compared += 1
    assert compared > 15


def _single_calls(seed: int, nodes: int) -> PlacementProblem:
    problem = random_problem(
        seed, Coupling.SUM, nodes=nodes, blocks=[6 // nodes * 2 - 1], origin="all", extras=False, slack=1.2
    )
    rng = np.random.default_rng(seed)
    return problem.replace(
        min_replicas=0,
        latency_seconds=rng.uniform(0, 9, (nodes, nodes)) * (1 - np.eye(nodes)),
        route_experts=problem.route_experts[:, :1],
        route_rate=rng.pareto(1.0, problem.routes),
    )


def _savings(problem: PlacementProblem, algorithm_enumerate: int) -> tuple[float, float]:
    empty = float(objectives(problem, np.zeros((1, problem.nodes, problem.experts), np.uint8))[0])
    best = empty - float(objectives(problem, feasible_placements(problem)).min())
    result = solve(problem, "greedy", params={"bound_steps": 0, "enumerate": algorithm_enumerate})
    assert result.objective is not None
    return empty - result.objective, best


@pytest.mark.parametrize("nodes", [2, 3])
def test_half_of_the_best_saving_with_one_size(nodes: int) -> None:
    """One size of expert, single calls, several nodes: at least half of the best saving."""
    for seed in range(60):
        saving, best = _savings(_single_calls(seed, nodes), 0)
        assert saving >= 0.5 * best - 1e-9


def test_enumeration_on_one_node_reaches_its_constant() -> None:
    """One node, any sizes, from all sets of three: at least 1 - 1/e of the best saving."""
    for seed in range(40):
        problem = random_problem(
            seed, Coupling.SUM, nodes=1, blocks=[3, 2, 2], routes=12, origin="all", extras=False, slack=0.5
        )
        rng = np.random.default_rng(seed)
        problem = problem.replace(min_replicas=0, expert_bytes=rng.integers(2, 9, 3), capacity_bytes=[17])
        saving, best = _savings(problem, 3)
        assert saving >= (1 - 1 / math.e) * best - 1e-9


def test_no_better_constant_for_several_nodes() -> None:
    """Two nodes with one slot each, the known example: greedy saves hardly more than half."""
    problem = _problem(
        expert_bytes=[1],
        experts_per_block=[2],
        capacity_bytes=[1, 1],
        # the expert of user 1 saves 1.001 on node 0 and 1 on node 1, that of user 2 1 on node 0 and nothing
        latency_seconds=[[8.999, 9.0], [9.0, 10.0]],
        origin_latency_seconds=[10.0, 10.0],
        route_node=[0, 1],
        route_block=[0, 0],
        route_experts=[[0], [1]],
        route_rate=[1.0, 1.0],
        coupling=Coupling.SUM,
        min_replicas=0,
    )
    saving, best = _savings(problem, 0)
    assert saving == pytest.approx(1.001)
    assert best == pytest.approx(2.0)
    assert _savings(problem, 2)[0] == pytest.approx(2.0)


def test_the_best_single_beats_the_density() -> None:
    """A small expert of a little better density keeps the large one out; alone it saves far more."""
    problem = _problem(
        expert_bytes=[1, 10],
        experts_per_block=[1, 1],
        capacity_bytes=[10],
        latency_seconds=[[0.0]],
        origin_latency_seconds=[1.0],
        route_node=[0, 0],
        route_block=[0, 1],
        route_experts=[[0], [0]],
        route_rate=[2.0, 10.0],
        coupling=Coupling.SUM,
        min_replicas=0,
    )
    result = solve(problem, "greedy")
    assert result.objective == 2.0


def test_pairs_are_filled_where_no_single_saves() -> None:
    """Under `slowest` neither half of a pair saves anything; the single calls lead to it all the same."""
    problem = _problem(
        expert_bytes=[1],
        experts_per_block=[4],
        capacity_bytes=[2],
        latency_seconds=[[1.0]],
        origin_latency_seconds=[9.0],
        route_node=[0, 0],
        route_block=[0, 0],
        route_experts=[[0, 1], [2, 3]],
        route_rate=[1.0, 3.0],
        min_replicas=0,
    )
    for coupling in (Coupling.SLOWEST, Coupling.COLOCATED):
        result = solve(problem.replace(coupling=coupling), "greedy")
        assert result.placement is not None
        assert result.placement.holds.tolist() == [[0, 0, 1, 1]]


def test_fills_every_device() -> None:
    """Several sizes on several devices: what is added packs, so the repair has nothing to undo."""
    for seed in range(40):
        problem = random_problem(seed, nodes=2, blocks=[4, 3], origin="all", extras=False, slack=1.0)
        problem = problem.replace(
            expert_bytes=[3, 2],
            capacity_bytes=[10, 9],
            device_node=[1, 0, 0, 1],
            device_capacity_bytes=[5, 3, 7, 4],
            min_replicas=0,
        )
        found = _Search(problem, compile_traffic(problem)).extend(np.zeros((2, 7), np.uint8), never)
        assert found is not None
        assert not shortfalls(problem, found)
        result = solve(problem, "greedy", params={"bound_steps": 0})
        assert result.objective is not None
        assert result.objective <= total_cost(problem, found)
