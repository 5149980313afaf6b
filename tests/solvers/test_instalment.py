"""Part of the way to a placement: within the budget, feasible, and nearly the best part there is."""

import itertools
from typing import Any

import numpy as np
import pytest

from lab.demo import scenario
from lab.tiny_moe import shape, traces
from solvers.algorithms import solve
from solvers.cost.evaluate import total_cost
from solvers.feasible.violations import shortfalls
from solvers.placement import Placement
from solvers.problem import Coupling, PlacementProblem, UInt8
from solvers.response.partial import UNLIMITED, Budget, instalment
from tests.oracles.instances import random_problem


def found(problem: PlacementProblem, **changes: Any) -> UInt8 | None:
    result = solve(problem.replace(**changes), "sgd", params={"bound_steps": 0})
    if result.placement is None:
        return None
    holds: UInt8 = result.placement.holds
    return holds


def received(problem: PlacementProblem, holds: UInt8) -> UInt8:
    held = np.zeros_like(holds) if problem.current is None else problem.current
    new: UInt8 = ((holds == 1) & (held == 0)).astype(np.uint8)
    return new


def best_part(problem: PlacementProblem, start: UInt8, goal: UInt8, budget: Budget) -> float:
    """The least cost of all feasible placements between the two within the budget: by enumeration."""
    cells = np.argwhere(start != goal)
    least = np.inf
    for chosen in itertools.product((False, True), repeat=len(cells)):
        holds = start.copy()
        for (node, column), flipped in zip(cells, chosen, strict=True):
            holds[node, column] ^= flipped
        new = received(problem, holds) & (start == 0)
        size = int(new.sum(axis=0, dtype=np.int64) @ problem.column_bytes)
        if budget.covers(int(new.sum()), size) and not shortfalls(problem, holds):
            least = min(least, total_cost(problem, holds))
    return least


def pairs(count: int, most_cells: int) -> list[tuple[PlacementProblem, UInt8, UInt8]]:
    """Random problems with two feasible placements of them, found under different traffic."""
    cases = []
    for seed in itertools.count():
        problem = random_problem(seed, nodes=3, blocks=[3, 2], routes=10).replace(
            current=None, horizon_seconds=None
        )
        rates = problem.route_rate
        start = found(problem, route_rate=rates[::-1].copy())
        if start is None:
            continue
        problem = problem.replace(
            current=start, horizon_seconds=50.0, ingress_bytes_per_second=np.full(problem.nodes, 1.0)
        )
        goal = found(problem.replace(horizon_seconds=None))
        if goal is not None and 2 <= int((start != goal).sum()) <= most_cells:
            cases.append((problem, start, goal))
            if len(cases) == count:
                return cases
    raise AssertionError("unreachable")


CASES = pairs(60, most_cells=9)


@pytest.mark.parametrize("copies", [0, 1, 2])
def test_parts_are_feasible_within_budget_and_nearly_the_best(copies: int) -> None:
    """On random instances of every coupling, against enumeration: never infeasible, never over the budget,
    never worse than staying, and in nine of ten as good as the best part there is."""
    best = 0
    for problem, start, goal in CASES:
        budget = Budget(copies=copies)
        holds = instalment(problem, start, goal, budget)
        assert not shortfalls(problem, holds)
        assert ((holds == start) | (holds == goal)).all()
        assert int((received(problem, holds) & (start == 0)).sum()) <= copies
        cost = total_cost(problem, holds)
        if np.array_equal(holds, goal):
            best += 1  # all of it is affordable: whether it pays is not for us to say
            continue
        assert cost <= total_cost(problem, start) * (1 + 1e-12)
        best += cost <= best_part(problem, start, goal, budget) * (1 + 1e-9)
    assert best >= 0.9 * len(CASES)


def test_bytes_are_a_budget_too() -> None:
    """With a limit in bytes alone, what is received is within it."""
    for problem, start, goal in CASES[:20]:
        for limit in (0, 3, 6):
            holds = instalment(problem, start, goal, Budget(bytes=limit))
            arriving = received(problem, holds) & (start == 0)
            assert int(arriving.sum(axis=0, dtype=np.int64) @ problem.column_bytes) <= limit
            assert not shortfalls(problem, holds)


def test_enough_is_all() -> None:
    """Without a limit, or with one that covers the way, the goal itself comes out."""
    for problem, start, goal in CASES[:20]:
        assert np.array_equal(instalment(problem, start, goal, UNLIMITED), goal)
        assert np.array_equal(instalment(problem, start, goal, Budget(copies=100)), goal)


def test_what_must_be_is_not_held_back() -> None:
    """From a placement that lost a node every expert is covered again whatever the budget, and the lost node
    is left empty; nothing beyond what is needed is copied."""
    for problem, start, _ in CASES:
        survivors = np.array([0, 1])
        if (problem.capacity_bytes[survivors].sum()) < int(problem.column_bytes.sum()) or (
            problem.pins is not None or problem.min_replicas > 2
        ):
            continue
        drained = np.array([0, 0, 1])
        lost = start.copy()
        lost[2] = 0
        after = problem.replace(drained=drained, current=lost)
        target = found(after)
        if target is None:
            continue
        holds = instalment(after, start, target, Budget(copies=0))
        assert not shortfalls(after, holds)
        missing = int(np.maximum(0, after.min_replicas - lost.sum(axis=0, dtype=np.int64)).sum())
        if not missing:
            assert not received(after, holds).any()


def test_two_nodes_that_must_exchange_experts_do_so_in_one() -> None:
    """Full nodes with one replica each: no single copy is feasible, and the exchange, of two, is found."""
    problem = PlacementProblem(
        expert_bytes=np.array([1]),
        experts_per_block=np.array([2]),
        capacity_bytes=np.array([1, 1]),
        latency_seconds=np.array([[0.0, 1.0], [1.0, 0.0]]),
        origin_latency_seconds=np.full(2, np.inf),
        route_node=np.array([0, 1]),
        route_block=np.array([0, 0]),
        route_experts=np.array([[1], [0]]),
        route_rate=np.ones(2),
        coupling=Coupling.SUM,
        min_replicas=1,
        current=np.eye(2, dtype=np.uint8),
    )
    start, goal = np.eye(2, dtype=np.uint8), 1 - np.eye(2, dtype=np.uint8)
    assert np.array_equal(instalment(problem, start, goal, Budget(copies=1)), start)
    assert np.array_equal(instalment(problem, start, goal, Budget(copies=2)), goal)


def test_a_group_worth_nothing_by_halves_is_taken_whole() -> None:
    """Under `slowest` half of a route saves nothing; the budget goes to the whole route, not to the single
    expert that saves a little."""
    problem = PlacementProblem(
        expert_bytes=np.array([1]),
        experts_per_block=np.array([3]),
        capacity_bytes=np.array([3]),
        latency_seconds=np.array([[0.0]]),
        origin_latency_seconds=np.array([1.0]),
        route_node=np.array([0, 0]),
        route_block=np.array([0, 0]),
        route_experts=np.array([[0, 1], [2, -1]]),
        route_rate=np.array([10.0, 1.0]),
        coupling=Coupling.SLOWEST,
        min_replicas=0,
        current=np.zeros((1, 3), np.uint8),
    )
    start, goal = np.zeros((1, 3), np.uint8), np.ones((1, 3), np.uint8)
    goal_of_two = np.array([[1, 1, 0]], np.uint8)
    assert np.array_equal(instalment(problem, start, goal_of_two, Budget(copies=2)), goal_of_two)
    assert np.array_equal(instalment(problem, start, goal, Budget(copies=1)), [[0, 0, 1]])


def test_a_few_copies_bring_most_of_the_benefit_on_real_routing() -> None:
    """After two domains of tiny-moe swap, a quarter of the copies brings half as much again as its share of
    what all of them save: the best come first, although full nodes make room for each."""
    before, after = (_demo(domains) for domains in (("python", "novels"), ("novels", "python")))
    start = found(before)
    assert start is not None
    problem = after.replace(
        current=start,
        horizon_seconds=600.0,
        ingress_bytes_per_second=np.array([n.ingress_bytes_per_second for n in scenario.NODES[:2]]),
    )
    goal = solve(problem, "sgd", params={"bound_steps": 0}, start=Placement(start)).placement
    assert goal is not None
    copies = int(received(problem, goal.holds).sum())
    part = instalment(problem, start, goal.holds, Budget(copies=copies // 4))
    whole = total_cost(problem, start) - total_cost(problem, goal.holds)
    assert total_cost(problem, start) - total_cost(problem, part) >= 1.5 * 0.25 * whole


def _demo(domains: tuple[str, str]) -> PlacementProblem:
    nodes, blocks, experts, rates = [], [], [], []
    for node, domain in enumerate(domains):
        tokens = np.sort(traces.requests(domain)[:40].reshape(-1, shape.LAYERS, shape.TOP_K), axis=2)
        for layer in range(shape.LAYERS):
            different, counts = np.unique(tokens[:, layer], axis=0, return_counts=True)
            nodes.append(np.full(len(counts), node))
            blocks.append(np.full(len(counts), layer))
            experts.append(different.astype(np.int32))
            rates.append(counts / len(tokens))
    return PlacementProblem(
        expert_bytes=np.full(shape.LAYERS, shape.EXPERT_BYTES),
        experts_per_block=np.full(shape.LAYERS, shape.EXPERTS),
        capacity_bytes=np.full(2, 120 * shape.EXPERT_BYTES),
        latency_seconds=np.array([[0.2e-3, 3e-3], [3e-3, 0.2e-3]]),
        origin_latency_seconds=np.full(2, 30e-3),
        route_node=np.concatenate(nodes),
        route_block=np.concatenate(blocks),
        route_experts=np.concatenate(experts),
        route_rate=np.concatenate(rates),
        coupling=Coupling.SLOWEST,
        min_replicas=1,
    )
