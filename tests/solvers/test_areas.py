"""Areas of a large fleet, and the proof that their bounds add up to a bound on the whole."""

from typing import Any

import numpy as np
import pytest

from solvers.cost.evaluate import total_cost
from solvers.dual import clusters as areas_module
from solvers.dual.cells import CellCalls
from solvers.dual.clusters import AreaProblems, areas
from solvers.dual.pdhg import Ascent
from solvers.feasible.packing import packable_bytes
from solvers.problem import Coupling, PlacementProblem
from solvers.search import region as region_module
from solvers.search.region import region_bound
from solvers.stopping import never
from solvers.traffic import compile_traffic
from tests.oracles.instances import random_holds, random_problem
from tests.oracles.placements import feasible_placements, total_costs
from tests.oracles.relaxation import linear_values

COUPLED = pytest.mark.parametrize("coupling", list(Coupling))
ORIGINS = ("all", "some", "none")


def _fleet(latency: Any) -> PlacementProblem:
    nodes = len(latency)
    return PlacementProblem(
        expert_bytes=np.array([1]),
        experts_per_block=np.array([4]),
        capacity_bytes=np.full(nodes, 2),
        latency_seconds=latency,
        origin_latency_seconds=np.full(nodes, 1.0),
        route_node=np.arange(nodes, dtype=np.int32),
        route_block=np.zeros(nodes, np.int32),
        route_experts=np.zeros((nodes, 1), np.int32),
        route_rate=np.ones(nodes),
    )


def test_areas_are_the_sites() -> None:
    """Sites that fit are areas of their own, whatever the order of their nodes; every node is in one."""
    rng = np.random.default_rng(1)
    site = rng.permutation(np.repeat(np.arange(5), 7))
    latency = np.where(site[:, None] == site, 0.002, 0.02) * rng.uniform(0.9, 1.1, (35, 35))
    np.fill_diagonal(latency, 0.001)
    found = areas(_fleet(latency), 10)
    assert sorted(np.concatenate(found).tolist()) == list(range(35))
    assert {tuple(np.unique(site[some])) for some in found} == {(s,) for s in range(5)}


@pytest.mark.parametrize("seed", range(10))
def test_areas_are_never_too_large(seed: int) -> None:
    """On a plane without sites, with nodes out of reach and alike, areas keep their size, are few, and hold
    every node once."""
    rng = np.random.default_rng(seed)
    nodes, most = int(rng.integers(1, 60)), int(rng.integers(1, 12))
    latency = rng.choice([0.01, 0.02, np.inf], (nodes, nodes))
    np.fill_diagonal(latency, 0.001)
    found = areas(_fleet(latency), most)
    assert sorted(np.concatenate(found).tolist()) == list(range(nodes))
    assert max(map(len, found)) <= most
    assert sum(2 * len(some) < most for some in found) <= 1


@COUPLED
def test_areas_cost_no_more_than_the_truth(coupling: Coupling, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every placement, each pool holding what any of its nodes holds, is feasible for the areas' problems and
    costs no more there in all: what makes their bounds one of the whole."""
    monkeypatch.setattr(areas_module, "_FIRST_POOL", 1)
    compared = 0
    for seed in range(150):
        monkeypatch.setattr(areas_module, "_AMPLE", [0.5, 1.5, 100.0][seed % 3])
        problem = random_problem(
            seed, coupling, nodes=6, blocks=[4, 3], routes=12, origin=ORIGINS[seed // 3 % 3]
        )
        holds = random_holds(problem, seed)
        holds[packable_bytes(problem) == 0] = 0
        cost = total_cost(problem, holds)
        if not np.isfinite(cost) or (holds.any(axis=0) == 0).any():
            continue
        made, found = AreaProblems(problem), 0.0
        for members in areas(problem, 2):
            area = made.of(members)
            pools, _ = made._pools(members)
            rows = [holds[members], *(holds[pool].max(axis=0)[None] for pool in pools)]
            found += total_cost(area, np.vstack(rows))
        assert found <= cost * (1 + 1e-12)
        compared += 1
    assert compared > 50


@COUPLED
def test_bound_is_below_the_optimum(coupling: Coupling, monkeypatch: pytest.MonkeyPatch) -> None:
    """The areas' bounds together are at most the cost of every feasible placement there is."""
    monkeypatch.setattr(areas_module, "_FIRST_POOL", 1)
    monkeypatch.setattr(region_module, "areas", lambda problem: areas(problem, 2))
    monkeypatch.setattr(region_module, "_STEPS", 40)
    proved, sharp = 0, 0
    for seed in range(80):
        monkeypatch.setattr(areas_module, "_AMPLE", [0.5, 1.5, 100.0][seed % 3])
        problem = random_problem(
            9_000 + seed,
            coupling,
            nodes=3 + seed % 3,
            blocks=[[3], [2, 2], [3, 1]][seed % 3],
            routes=10,
            origin=ORIGINS[seed // 3 % 3],
        )
        placements = feasible_placements(problem)
        if len(placements) == 0:
            continue
        least = float(total_costs(problem, placements).min())
        bound = region_bound(problem, never, None)
        assert 0.0 <= bound <= least
        proved += 1
        sharp += bound > 0.9 * least
    assert proved > 40
    assert sharp > 10


@pytest.mark.parametrize("coupling", [Coupling.SLOWEST, Coupling.SUM])
@pytest.mark.parametrize("near", [0.0, 0.5])
def test_cells_prove_their_bound(coupling: Coupling, near: float) -> None:
    """Multipliers kept for the calls alone, also with servers that are alike in one level, make a linear
    function below the cost of every feasible placement."""
    proved = climbed = 0
    for seed in range(60):
        problem = random_problem(
            500 + seed, coupling, nodes=3, blocks=[3, 2], routes=10, origin="all", slack=0.6
        ).replace(min_replicas=0)
        placements = feasible_placements(problem)
        if len(placements) == 0:
            continue
        traffic = compile_traffic(problem)
        nothing = np.zeros((problem.nodes, problem.experts), np.uint8)
        ascent = Ascent(problem, traffic, nothing, np.inf, calls=CellCalls(problem, traffic, near))
        first = ascent.best.bound
        for _ in range([1, 7, 25, 60][seed % 4]):
            ascent.step()
        dual = ascent.best
        costs = total_costs(problem, placements)
        assert dual.bound <= costs.min()
        values = linear_values(problem, dual, placements)
        if dual.bound > first:
            assert (values <= costs + 1e-9 * (1.0 + np.abs(values))).all()
            climbed += 1
        proved += 1
    assert proved > 40
    assert climbed > 15
