"""Best responses in a large fleet: their bookkeeping, their tables, and what they do to the cost."""

import numpy as np
import pytest

from solvers.cost.evaluate import checked_holds, nearest_nodes, total_cost
from solvers.feasible.repair import NoPlacement, make_feasible
from solvers.feasible.violations import shortfalls
from solvers.kernels import evaluation, fleet, nearest, tables
from solvers.problem import Coupling
from solvers.response.fleet import FleetResponse
from solvers.traffic import compile_traffic
from tests.oracles.instances import random_holds, random_problem

COUPLED = pytest.mark.parametrize("coupling", list(Coupling))


@pytest.mark.parametrize("seed", range(40))
def test_nearest_holders_by_lists_and_by_walks(seed: int) -> None:
    """Serving costs and the two nearest holders, by lists of holders and by walks over neighbours, are those
    of a look at every node."""
    rng = np.random.default_rng(seed)
    problem = random_problem(seed, nodes=1 + seed % 30, blocks=[9, 8], routes=5)
    holds = checked_holds(problem, (rng.random((problem.nodes, 17)) < rng.random(17)).astype(np.uint8))
    latency, origin = problem.latency_seconds, problem.origin_latency_seconds
    naive = np.empty(holds.shape)
    evaluation.serving_costs(holds, latency, origin, -1, 0, 17, naive)
    offset = np.empty(18, np.int64)
    holders = nearest.holders_of(holds, offset)
    order = nearest_nodes(problem)
    found = np.empty(holds.shape)
    nearest.serving_costs(holds, holders, offset, order, latency, origin, 0, 17, found)
    assert (found == naive).all()
    held_by = np.ascontiguousarray(holds.T)
    costs, others = (np.empty(held_by.shape, np.float32) for _ in range(2))
    hosts, seconds = (np.empty(held_by.shape, np.int16) for _ in range(2))
    nearest.two_nearest(
        held_by, holders, offset, order, latency, origin, 0, 17, costs, others, hosts, seconds
    )
    assert (costs == naive.T.astype(np.float32)).all()
    for e in range(17):
        for n in range(problem.nodes):
            served = sorted(latency[n, m] for m in range(problem.nodes) if holds[m, e])
            beaten = [cost for cost in served if cost < origin[n]]
            assert others[e, n] == np.float32([*beaten, origin[n], origin[n]][1])
            assert (hosts[e, n] >= 0) == (len(beaten) > 0)
            assert (seconds[e, n] >= 0) == (len(beaten) > 1)


@pytest.mark.parametrize("seed", range(30))
def test_drops_are_those_of_the_tables(seed: int) -> None:
    """Values and nested sets by greedy-drop are those of `tables.drop_table` without equal losses."""
    rng = np.random.default_rng(seed)
    experts, terms = int(rng.integers(1, 9)), int(rng.integers(0, 20))
    state = rng.choice([-1, 0, 0, 0, 1], experts).astype(np.int8)
    size = rng.integers(1, 1 + min(3, experts), terms).astype(np.int32)
    term = np.full((terms, 3), -1, np.int32)
    for t in range(terms):
        term[t, : size[t]] = rng.choice(experts, size[t], replace=False)
    weight, modular = rng.uniform(0, 1, terms), rng.normal(0, 1, experts)
    values, expected = np.empty(experts + 1), np.empty(experts + 1)
    level, sets = np.empty(experts, np.int32), np.zeros((experts + 1, experts), np.uint8)
    fleet._drops(state, modular, term, size, weight, terms, values, level)
    tables.drop_table(state, modular, term, size, weight, terms, expected, sets)
    assert np.allclose(values, expected, rtol=1e-9, atol=1e-12)
    for k in np.flatnonzero(np.isfinite(expected)):
        assert ((level <= k) == (sets[k] == 1)).all()


@COUPLED
def test_responses_keep_their_books_and_lower_the_cost(coupling: Coupling) -> None:
    """After every response the nearest holders, hosts and upper bounds are those of a fresh look at the
    placement, which is feasible and, where anything moved, cheaper by the one evaluator."""
    moves = 0
    for seed in range(36):
        problem = random_problem(
            9_000 + seed,
            coupling,
            nodes=3 + seed % 5,
            blocks=[[5], [4, 6], [6, 3, 5]][seed % 3],
            routes=40,
            origin=("all", "some", "none")[seed // 3 % 3],
        )
        traffic = compile_traffic(problem)
        try:
            holds = make_feasible(problem, traffic, random_holds(problem, seed))
        except NoPlacement:
            continue
        literal = coupling is not Coupling.COLOCATED or problem.has_origin
        response = FleetResponse(problem, traffic, holds)
        for node in range(problem.nodes):
            before = total_cost(problem, response.holds)
            moved = response.respond(node)
            holds = response.holds
            fresh = FleetResponse(problem, traffic, holds)
            for key in ("_costs", "_others", "_route_costs", "_route_others"):
                assert (getattr(response, key) == getattr(fresh, key)).all(), key
            assert (response._worst >= fresh._worst).all()
            assert not shortfalls(problem, holds)
            if moved and literal and np.isfinite(before):
                assert total_cost(problem, holds) < before
                moves += 1
    assert moves > 10


def test_filling_up_takes_what_gains_most_per_byte() -> None:
    """Room that the hulls leave is filled while anything gains, never beyond the room."""
    offset = np.array([0, 2, 4], np.int64)
    values = np.array([0.0, 1.0, 5.0, 0.0, 2.0, 2.0])
    counts = np.zeros(2, np.int32)
    fleet.fill_up(values, offset, np.array([2, 3], np.int64), 8, counts)
    assert counts.tolist() == [2, 1]
    counts[:] = 0
    fleet.fill_up(values, offset, np.array([2, 3], np.int64), 3, counts)
    assert counts.tolist() == [0, 1]
