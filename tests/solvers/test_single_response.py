"""Best responses where every call counts by itself, against the responses by routes and naive twins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.cost.evaluate import total_cost
from solvers.feasible.repair import make_feasible
from solvers.kernels import nearest_two
from solvers.params import SgdParams
from solvers.problem import Coupling, PlacementProblem
from solvers.response.best_response import BestResponse
from solvers.response.single import SingleResponse
from solvers.stopping import never
from solvers.traffic import compile_traffic
from tests.oracles.instances import random_holds, random_problem
from tests.oracles.placements import feasible_placements

SEEDS = st.integers(0, 2**32)


@given(SEEDS)
@settings(max_examples=100)
def test_the_two_nearest_holders(seed: int) -> None:
    """Of every given column, from every node, as by sorting; the other columns stay as they are."""
    rng = np.random.default_rng(seed)
    nodes, experts = int(rng.integers(1, 6)), int(rng.integers(1, 8))
    holds = rng.integers(0, 2, (nodes, experts)).astype(np.uint8)
    latency = rng.integers(1, 6, (nodes, nodes)).astype(np.float64)
    latency[rng.random((nodes, nodes)) < 0.1] = np.inf
    columns = np.flatnonzero(rng.random(experts) < 0.7)
    best, second = np.full((nodes, experts), -7.0), np.full((nodes, experts), -7.0)
    who = np.full((nodes, experts), -7, np.int32)
    nearest_two.find_two(columns, holds, latency, best, second, who)
    for n in range(nodes):
        for e in range(experts):
            if e not in columns:
                assert (best[n, e], second[n, e], who[n, e]) == (-7.0, -7.0, -7)
                continue
            calls = sorted([latency[n, m] for m in range(nodes) if holds[m, e]] + [np.inf, np.inf])
            assert [best[n, e], second[n, e]] == calls[:2]
            if np.isfinite(best[n, e]):
                assert holds[who[n, e], e]
                assert latency[n, who[n, e]] == best[n, e]
            else:
                assert who[n, e] == -1


@given(SEEDS)
@settings(max_examples=100)
def test_ranks(seed: int) -> None:
    """Forced, free, forbidden, by falling gain within each; the values are those of the first k, where such a
    set is possible."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 6, int(rng.integers(1, 5)))
    offset = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    gain = rng.integers(-3, 5, int(sizes.sum())).astype(np.float64)
    state = rng.integers(-1, 2, len(gain)).astype(np.int8)
    values, order = np.empty(len(gain) + len(sizes)), np.empty(len(gain), np.int64)
    nearest_two.rank(offset, gain, state, values, order)
    for b, size in enumerate(sizes.tolist()):
        own, rules = gain[offset[b] : offset[b + 1]], state[offset[b] : offset[b + 1]]
        want = sorted(range(size), key=lambda e: (-int(rules[e]), -own[e], e))
        assert order[offset[b] : offset[b + 1]].tolist() == want
        for k in range(size + 1):
            possible = (rules > 0).sum() <= k <= (rules >= 0).sum()
            assert values[offset[b] + b + k] == (own[want[:k]].sum() if possible else -np.inf)


def _single(seed: int) -> PlacementProblem:
    """Every feature; under `sum`, or with routes of one expert under another coupling."""
    if seed % 2:
        return random_problem(seed, list(Coupling)[seed % 3], width=1)
    return random_problem(seed, Coupling.SUM)


@pytest.mark.parametrize("enforce", [False, True])
def test_responses_are_those_by_routes(enforce: bool) -> None:
    """From the same placement, feasible or not, a node's response costs the same as that of `BestResponse`,
    whose tables try all subsets; and so it goes on where the placement is replaced behind its back."""
    compared = 0
    for seed in range(80):
        problem = _single(seed)
        if len(feasible_placements(problem)) == 0 or not problem.experts:
            continue
        traffic = compile_traffic(problem)
        ours = SingleResponse(problem, traffic, SgdParams())
        for turn in range(3):
            start = random_holds(problem, seed + turn)
            if enforce:
                start = make_feasible(problem, traffic, start)
            theirs = BestResponse(problem, traffic, SgdParams())
            mine, other = start.copy(), start.copy()
            for node in range(problem.nodes):
                other[:] = mine
                theirs.restart()
                moved = ours.respond(node, mine, enforce, never)
                theirs.respond(node, other, enforce, never)
                costs = total_cost(problem, mine), total_cost(problem, other)
                if np.isfinite(costs).all():
                    assert costs[0] == pytest.approx(costs[1], rel=1e-9)
                compared += moved
    assert compared > 100


def test_rows_that_are_too_full_are_replaced() -> None:
    """A node that holds more than its memory is given a set that fits, though it saves less."""
    for seed in range(40):
        problem = random_problem(seed, Coupling.SLOWEST, origin="all", extras=False, slack=1.0)
        if not problem.experts:
            continue
        holds = np.ones((problem.nodes, problem.experts), np.uint8)
        response = BestResponse(problem, compile_traffic(problem), SgdParams())
        for node in range(problem.nodes):
            response.respond(node, holds, False, never)
        assert (holds @ problem.column_bytes <= problem.capacity_bytes).all()
