"""Equal slots: exactly so many experts of every block on every node, at the least cost."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.cost.evaluate import total_cost
from solvers.equal_slots import most_equal_slots, solve_equal_slots
from solvers.feasible.violations import shortfalls
from solvers.problem import Coupling, PlacementProblem, ProblemError
from solvers.result import SolveStatus


def instance(
    seed: int, nodes: int = 2, blocks: int = 2, experts: int = 4, **changes: Any
) -> PlacementProblem:
    random = np.random.default_rng(seed)
    routes = 30
    members = np.argsort(random.random((routes, experts)), axis=1)[:, :2]
    latency = random.uniform(0.002, 0.01, (nodes, nodes))
    np.fill_diagonal(latency, 0.001)
    values: dict[str, Any] = {
        "expert_bytes": random.integers(5, 20, blocks),
        "experts_per_block": np.full(blocks, experts),
        "capacity_bytes": np.full(nodes, 1000),
        "latency_seconds": latency,
        "origin_latency_seconds": np.full(nodes, np.inf),
        "route_node": random.integers(0, nodes, routes),
        "route_block": random.integers(0, blocks, routes),
        "route_experts": members,
        "route_rate": random.random(routes),
    }
    return PlacementProblem(**(values | changes))


def cheapest(problem: PlacementProblem, slots: int) -> float:
    """By trying every placement with exactly so many experts of each block on each node."""
    choices = []
    for block in range(problem.blocks):
        of_block = range(int(problem.block_offset[block]), int(problem.block_offset[block + 1]))
        choices += [list(combinations(of_block, slots))] * problem.nodes
    best = np.inf
    for chosen in product(*choices):
        holds = np.zeros((problem.nodes, problem.experts), np.uint8)
        for at, columns in enumerate(chosen):
            holds[at % problem.nodes, list(columns)] = 1
        if not shortfalls(problem, holds):
            best = min(best, total_cost(problem, holds))
    return best


@settings(max_examples=3)
@given(seed=st.integers(0, 1000), slots=st.integers(2, 3), coupling=st.sampled_from(list(Coupling)))
def test_exact_finds_the_cheapest(seed: int, slots: int, coupling: Coupling) -> None:
    """With the exact algorithm the result is the optimum over all placements of equal slots, and the blocks'
    bounds add up to it."""
    problem = instance(seed, coupling=coupling)
    found = solve_equal_slots(problem, slots, "exact")
    assert found.status is SolveStatus.OPTIMAL
    assert found.objective == pytest.approx(cheapest(problem, slots))
    assert found.lower_bound == pytest.approx(found.objective, rel=1e-5)


@settings(max_examples=3)
@given(seed=st.integers(0, 1000))
def test_migration_cost_counts(seed: int) -> None:
    """With a placement in force the bound still is one, and what may not move does not."""
    now = np.zeros((2, 8), np.uint8)
    for n, block in product(range(2), range(2)):
        now[n, 4 * block + np.random.default_rng([seed, n, block]).permutation(4)[:2]] = 1
    now[1, 0:4], now[1, 4:8] = 1 - now[0, 0:4], 1 - now[0, 4:8]
    bandwidth = np.full(2, 1e4)
    problem = instance(seed, current=now, ingress_bytes_per_second=bandwidth, horizon_seconds=10.0)
    found = solve_equal_slots(problem, 2, "exact")
    assert found.lower_bound is not None
    best = cheapest(problem, 2)
    assert found.lower_bound <= best + 1e-9
    assert found.objective == pytest.approx(best)
    still = solve_equal_slots(problem.replace(horizon_seconds=1e-6), 2, "exact")
    assert still.placement is not None
    assert still.placement.holds.tolist() == now.tolist()


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), algorithm=st.sampled_from(["sgd", "certified", "greedy", "uniform"]))
def test_every_node_has_exactly_the_slots(seed: int, algorithm: str) -> None:
    """Feasible, exactly P experts of each block on each node, cost and bound of the whole problem."""
    problem = instance(seed, nodes=3, blocks=3, experts=5)
    found = solve_equal_slots(problem, 3, algorithm, params={"bound_steps": 20}, time_limit_seconds=0.3)
    assert found.placement is not None
    held = found.placement.holds
    assert not shortfalls(problem, held)
    for block in range(problem.blocks):
        columns = slice(int(problem.block_offset[block]), int(problem.block_offset[block + 1]))
        assert held[:, columns].sum(axis=1).tolist() == [3, 3, 3]
    assert found.objective is not None
    assert found.objective == pytest.approx(total_cost(problem, held))
    assert found.lower_bound is None or found.lower_bound <= found.objective


def test_drained_nodes_and_pins() -> None:
    """A drained node holds nothing, pins are kept, and forbidden experts do not fill a slot."""
    pins = np.zeros((3, 8), np.int8)
    pins[0, 7], pins[1, [0, 1]] = 1, -1
    problem = instance(1, nodes=3, pins=pins, drained=np.array([0, 0, 1]))
    found = solve_equal_slots(problem, 2)
    assert found.placement is not None
    held = found.placement.holds
    assert held[:, :4].sum(axis=1).tolist() == held[:, 4:].sum(axis=1).tolist() == [2, 2, 0]
    assert held[0, 7] == 1
    assert held[1, :2].tolist() == [0, 0]


def test_blocks_without_traffic_are_filled() -> None:
    """A block nobody calls still has its slots, with the experts that are there already."""
    current = np.zeros((2, 8), np.uint8)
    current[:, 4:7] = 1
    problem = instance(3, route_block=np.zeros(30, np.int64), current=current)
    found = solve_equal_slots(problem, 3)
    assert found.placement is not None
    assert found.placement.holds[:, 4:].sum(axis=1).tolist() == [3, 3]
    assert found.placement.holds[:, 4:].any(axis=0).all()


@pytest.mark.parametrize(
    ("slots", "changes", "words"),
    [
        (
            1,
            {},
            "block 0: 1 replicas of each of its 4 experts need 4 slots, the nodes have 2: short by 2 slots",
        ),
        (
            3,
            {"expert_bytes": np.array([10, 10]), "capacity_bytes": np.array([59, 90])},
            "node 0: 3 slots in every",
        ),
        (
            2,
            {"pins": np.array([[-1, -1, 0, 0] * 2, [0, -1] * 4])},
            "block 0, 2 slots per node: expert 1 of block 0",
        ),
        (
            3,
            {"pins": np.array([[-1, -1, 0, 0] * 2, [0] * 8])},
            "block 0: node 0 may hold 2 of its experts by the pins, expected 3",
        ),
        (
            2,
            {
                "expert_bytes": np.array([10, 10]),
                "capacity_bytes": np.array([40, 40]),
                "device_node": np.array([0, 0, 1]),
                "device_capacity_bytes": np.array([35, 5, 40]),
            },
            "node 0 cannot pack its experts on its devices",
        ),
    ],
)
def test_what_cannot_be_is_said(slots: int, changes: dict[str, Any], words: str) -> None:
    """INFEASIBLE with the node or block and by how much."""
    found = solve_equal_slots(instance(0, **changes), slots)
    assert found.status is SolveStatus.INFEASIBLE
    assert words in (found.shortfall or "")


def test_slots_beyond_the_experts_are_refused() -> None:
    """The same expert is never twice on a node."""
    for slots in (0, 5):
        with pytest.raises(ProblemError, match=rf"slots: are {slots}, expected 1\.\.4"):
            solve_equal_slots(instance(0), slots)


def test_the_most_slots_that_fit() -> None:
    """By the smallest open node's memory, and no more than the experts there are."""
    sizes: dict[str, Any] = {"expert_bytes": np.array([10, 20]), "capacity_bytes": np.array([95, 65, 10])}
    assert most_equal_slots(instance(0, nodes=3, **sizes)) == 0
    assert most_equal_slots(instance(0, nodes=3, drained=np.array([0, 0, 1]), **sizes)) == 2
    assert most_equal_slots(instance(0)) == 4
