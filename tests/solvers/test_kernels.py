"""The one-node subproblem: terms, tables and knapsacks against enumeration."""

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.cost.coupling import FORMS
from solvers.cost.evaluate import evaluate, nearest_nodes
from solvers.feasible.repair import finite_fallback
from solvers.kernels import evaluation, tables, terms
from solvers.kernels import knapsack as kernel
from solvers.params import SgdParams
from solvers.problem import Coupling, PlacementProblem
from solvers.response.best_response import BestResponse
from solvers.response.knapsack import _by_value, choose_counts, hull_counts
from solvers.stopping import never
from solvers.traffic import compile_traffic
from tests.oracles.instances import random_holds, random_problem
from tests.oracles.placements import objectives

SEEDS = st.integers(0, 2**32)
Terms = tuple[
    npt.NDArray[np.float64], tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.float64], int]
]


def _terms(problem: PlacementProblem, holds: npt.NDArray[np.uint8], node: int) -> Terms:
    """Modular part and terms of `node` in block 0."""
    traffic = compile_traffic(problem)
    experts = int(problem.experts_per_block[0])
    costs = np.empty((problem.nodes, experts))
    evaluation.serving_costs(
        holds, problem.latency_seconds, finite_fallback(problem), node, 0, experts, costs
    )
    modular = np.zeros(experts)
    width = max(1, traffic.experts.shape[1])
    form = FORMS[problem.coupling]
    room = max(1, len(traffic.rate) * form.terms(width, problem.has_origin))
    subsets = (np.empty((room, width), np.int32), np.empty(room, np.int32), np.empty(room))
    count = terms.build_terms(
        form.code,
        node,
        int(traffic.start[0]),
        int(traffic.start[1]),
        traffic.node,
        traffic.experts,
        traffic.rate,
        costs,
        problem.latency_seconds,
        nearest_nodes(problem),
        problem.origin_latency_seconds,
        0,
        holds,
        modular,
        *subsets,
    )
    return modular, (*subsets, count)


@given(SEEDS, st.sampled_from(Coupling), st.sampled_from(["all", "none"]))
@settings(max_examples=200)
def test_terms_are_the_saving(seed: int, coupling: Coupling, origin: str) -> None:
    """Modular part plus terms equals the fall of J for every set of the node, under every coupling."""
    problem = random_problem(seed, coupling, nodes=3, blocks=[4], routes=10, origin=origin, extras=False)
    node = seed % 3
    holds = random_holds(problem, seed)
    if origin == "none":
        holds[(node + 1) % 3] = 1  # else J is infinite where the expert is nowhere
    modular, subsets = _terms(problem, holds, node)
    sets = np.array(list(itertools.product((0, 1), repeat=4)), np.uint8)
    placements = np.repeat(holds[None], len(sets), axis=0)
    placements[:, node] = sets
    cost = objectives(problem, placements)
    for i, held in enumerate(sets):
        assert tables.value_of(held, modular, *subsets) == pytest.approx(cost[0] - cost[i], abs=1e-9)


@given(SEEDS, st.integers(4, 6))
@settings(max_examples=60)
def test_terms_of_long_routes_say_no_more_than_the_saving(seed: int, width: int) -> None:
    """Under `colocated` without an origin, routes of many experts have terms for some of their sets: every
    set saves at least what the terms say, a set that holds all of the block exactly that, and what the row
    in force saves is exact."""
    problem = random_problem(
        seed, Coupling.COLOCATED, nodes=3, blocks=[6], routes=6, origin="none", extras=False, width=width
    )
    node = seed % 3
    holds = random_holds(problem, seed)
    holds[(node + 1) % 3] = 1
    modular, subsets = _terms(problem, holds, node)
    sets = np.array(list(itertools.product((0, 1), repeat=6)), np.uint8)
    placements = np.repeat(holds[None], len(sets), axis=0)
    placements[:, node] = sets
    cost = objectives(problem, placements)
    said = np.array([tables.value_of(held, modular, *subsets) for held in sets])
    assert (said <= cost[0] - cost + 1e-9).all()
    assert said[-1] == pytest.approx(cost[0] - cost[-1], abs=1e-9)
    response = BestResponse(problem, compile_traffic(problem), SgdParams())
    for n in (node, *range(3)):
        before = evaluate(problem, holds)
        fitted = int(holds[n].astype(np.int64) @ problem.column_bytes) <= int(problem.capacity_bytes[n])
        if response.respond(n, holds, True, never) and fitted:
            assert evaluate(problem, holds) < before


def _random_terms(seed: int, experts: int) -> Terms:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 12))
    size = rng.integers(min(2, experts), min(4, experts) + 1, size=count).astype(np.int32)
    members = np.full((max(1, count), 4), -1, np.int32)
    for t in range(count):
        members[t, : size[t]] = rng.choice(experts, size[t], replace=False)
    weight = rng.exponential(1.0, count)
    modular = rng.normal(0.2, 0.5, experts)
    return modular, (members, size, weight, count)


@given(SEEDS, st.integers(1, 7))
@settings(max_examples=200)
def test_tables_against_enumeration(seed: int, experts: int) -> None:
    """The exact table is the best over all k-subsets; the greedy one reaches what its set is worth, at most
    that, and exactly that where the saving is modular; both respect what is forced and what is forbidden."""
    modular, subsets = _random_terms(seed, experts)
    state = np.random.default_rng(seed + 1).choice([-1, 0, 0, 0, 1], experts).astype(np.int8)
    best = np.full(experts + 1, -np.inf)
    for bits in itertools.product((0, 1), repeat=experts):
        held = np.array(bits, np.uint8)
        if ((state == 1) & (held == 0)).any() or ((state == -1) & (held == 1)).any():
            continue
        worth = modular[held == 1].sum()
        for t in range(subsets[3]):
            worth += subsets[2][t] if held[subsets[0][t, : subsets[1][t]]].all() else 0.0
        best[held.sum()] = max(best[held.sum()], worth)
    values, sets = np.empty(experts + 1), np.zeros((experts + 1, experts), np.uint8)
    tables.exact_table(state, modular, *subsets, np.empty(2**experts), values, sets)
    np.testing.assert_allclose(values, best, atol=1e-9)
    greedy, greedy_sets = np.empty(experts + 1), np.zeros((experts + 1, experts), np.uint8)
    tables.greedy_table(state, modular, *subsets, 3, greedy, greedy_sets)
    assert ((greedy == -np.inf) == (best == -np.inf)).all()
    assert (greedy <= best + 1e-9).all()
    if subsets[3] == 0:
        np.testing.assert_allclose(greedy, best, atol=1e-9)
    for table, chosen in ((values, sets), (greedy, greedy_sets)):
        for k in np.flatnonzero(best > -np.inf):
            held = chosen[k]
            assert held.sum() == k
            assert not ((state == 1) & (held == 0)).any()
            assert not ((state == -1) & (held == 1)).any()
            assert tables.value_of(held, modular, *subsets) == pytest.approx(table[k], abs=1e-9)


def _knapsack(seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, size=int(rng.integers(1, 5)))
    start = np.concatenate(([0], np.cumsum(counts + 1))).astype(np.int64)
    values = rng.normal(1.0, 1.0, start[-1])
    values[rng.random(len(values)) < 0.2] = -np.inf
    size = rng.choice([2, 4, 6], len(counts)).astype(np.int64)
    return values, start, size, int(rng.integers(0, 30))


def _best_counts(
    values: npt.NDArray[np.float64], start: npt.NDArray[np.int64], size: npt.NDArray[np.int64], capacity: int
) -> float:
    best = -np.inf
    for counts in itertools.product(*(range(n) for n in np.diff(start))):
        if np.dot(counts, size) <= capacity:
            best = max(best, float(values[start[:-1] + np.array(counts)].sum()))
    return best


@given(SEEDS)
@settings(max_examples=200)
def test_knapsack_is_exact(seed: int) -> None:
    """The knapsack over blocks finds the best counts within the capacity, or that none fit."""
    values, start, size, capacity = _knapsack(seed)
    best = _best_counts(values, start, size, capacity)
    counts = choose_counts(values, start, size, capacity, 0.1)
    if counts is None:
        assert best == -np.inf
    else:
        assert counts @ size <= capacity
        assert values[start[:-1] + counts].sum() == pytest.approx(best, abs=1e-9)


@given(SEEDS, st.sampled_from([0.01, 0.1, 0.5]))
@settings(max_examples=200)
def test_value_scaled_knapsack_keeps_its_promise(seed: int, eps: float) -> None:
    """What the value-scaled knapsack gains over the least counts is at least 1 - eps of the best."""
    values, start, size, capacity = _knapsack(seed)
    best = _best_counts(values, start, size, capacity)
    counts = _by_value(values, start, size, capacity, eps)
    if counts is None:
        assert best == -np.inf
        return
    assert counts @ size <= capacity
    least = sum(float(values[a:b][np.argmax(values[a:b] > -np.inf)]) for a, b in itertools.pairwise(start))
    gain = float(values[start[:-1] + counts].sum()) - least
    assert gain >= (1 - eps) * (best - least) - 1e-9


@given(SEEDS)
@settings(max_examples=300)
def test_concave_tables_of_one_size_need_no_recursion(seed: int) -> None:
    """Concave tables, some cut off below and above, linear stretches included: the hulls give the maximum."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 6, size=int(rng.integers(1, 5)))
    start = np.concatenate(([0], np.cumsum(counts + 1))).astype(np.int64)
    values = np.full(start[-1], -np.inf)
    for b, count in enumerate(counts.tolist()):
        least = int(rng.integers(0, count + 1))
        rises = -np.sort(-rng.choice([0.0, 0.1, 0.3, 0.7, float(rng.random())], count - least))
        values[start[b] + least : start[b + 1]] = np.concatenate(([0.0], np.cumsum(rises))) + rng.random()
    size = np.full(len(counts), 3, np.int64)
    capacity = int(rng.integers(0, 50))
    best = _best_counts(values, start, size, capacity)
    for counts_found in (
        choose_counts(values, start, size, capacity, 0.1),
        hull_counts(values, start, size, capacity),
    ):
        if counts_found is None:
            assert best == -np.inf
        else:
            assert counts_found @ size <= capacity
            assert values[start[:-1] + counts_found].sum() == pytest.approx(best, abs=1e-9)


@given(SEEDS)
@settings(max_examples=200)
def test_hulls_from_below(seed: int) -> None:
    """On any tables the hulls' counts fit, exist wherever some exist, and never claim more than the best."""
    values, start, size, capacity = _knapsack(seed)
    best = _best_counts(values, start, size, capacity)
    counts = hull_counts(values, start, size, capacity)
    assert (counts is None) == (best == -np.inf)
    if counts is not None:
        assert counts @ size <= capacity
        reached = values[start[:-1] + counts].sum()
        assert -np.inf < reached <= best + 1e-9


def test_knapsack_by_value_with_huge_sizes() -> None:
    """Sizes of gigabytes without a common divisor don't make the table larger."""
    start = np.array([0, 3, 6], np.int64)
    gains = np.array([0, 4, 5, 0, 3, 9], np.int64)
    size = np.array([10_000_000_019, 7_000_000_001], np.int64)
    choice = np.zeros(2, np.int32)
    assert kernel.group_knapsack_by_value(gains, start, size, 24_000_000_021, 20, choice) == 13
    assert choice.tolist() == [1, 2]
