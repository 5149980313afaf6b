"""Convolutions against their definition, and the knapsacks made of them against the exact one."""

import itertools
import time

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.algorithms import solve
from solvers.cost.evaluate import total_cost
from solvers.feasible.violations import shortfalls
from solvers.heuristics import convolution, maxconv
from solvers.heuristics.convolution import choose_counts_concave, choose_counts_rounded, is_concave, max_plus
from solvers.problem import Coupling
from solvers.response.knapsack import choose_counts
from tests.oracles.convolution import knapsack
from tests.oracles.convolution import max_plus as naive
from tests.oracles.instances import random_problem

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
WHOLE = st.lists(st.integers(-20, 20).map(float), min_size=1, max_size=14).map(np.array)
SEEDS = st.integers(0, 2**32)


def _concave(rises: list[float]) -> Float64:
    return np.concatenate(([0.0], np.cumsum(sorted(rises, reverse=True))))


CONCAVE = st.lists(st.integers(-9, 9).map(float), max_size=14).map(_concave)


@given(WHOLE, WHOLE | CONCAVE)
@settings(max_examples=150)
def test_equals_the_definition(a: Float64, b: Float64) -> None:
    """Any with any and any with concave, ties included: the naive convolution, bit for bit."""
    assert (max_plus(a, b) == naive(a, b)).all()
    assert (max_plus(b, a) == naive(a, b)).all()


@given(WHOLE, CONCAVE, WHOLE)
@settings(max_examples=100)
def test_algebra(a: Float64, b: Float64, c: Float64) -> None:
    """Commutative and associative, with [0] as identity; larger terms never make it smaller; the concave stay
    concave."""
    assert (max_plus(a, b) == max_plus(b, a)).all()
    assert (max_plus(max_plus(a, b), c) == max_plus(a, max_plus(b, c))).all()
    assert (max_plus(a, np.zeros(1)) == a).all()
    assert (max_plus(a + 1.0, b) >= max_plus(a, b)).all()
    assert is_concave(max_plus(b, b))


def test_what_is_not_concave_or_not_finite_is_done_naively() -> None:
    """Where the arg-max is not monotone the fast routine would be wrong; minus infinity stays what it is."""
    a = np.array([0.0, 0.0, 5.0, 5.0, 9.0])
    b = np.array([0.0, 1.0, 7.0])
    assert not is_concave(b)
    assert (max_plus(a, b) == naive(a, b)).all()
    holes = np.array([-np.inf, 3.0, -np.inf, 4.0])
    assert not is_concave(holes)
    assert (max_plus(holes, np.array([0.0, 2.0, 3.0])) == naive(holes, np.array([0.0, 2.0, 3.0]))).all()
    assert len(max_plus(np.zeros(0), b)) == 0


def _tables(seed: int, concave: bool) -> tuple[Float64, Int64, Int64, int]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 6, size=int(rng.integers(1, 7)))
    start = np.concatenate(([0], np.cumsum(counts + 1))).astype(np.int64)
    values = rng.normal(1.0, 1.0, start[-1])
    for b, (first, last) in enumerate(itertools.pairwise(start.tolist())):
        if concave:
            values[first:last] = _concave(rng.normal(0.5, 1.0, counts[b]).tolist())
        forced = int(rng.integers(0, 2)) if counts[b] > 1 else 0
        values[first : first + forced] = -np.inf
        if rng.random() < 0.3 and counts[b] > 2:
            values[last - 1] = -np.inf
    size = rng.choice([4, 6, 9, 14], len(counts)).astype(np.int64)
    return values, start, size, int(rng.integers(0, 120))


@given(SEEDS)
@settings(max_examples=120)
def test_concave_tables_are_solved_exactly(seed: int) -> None:
    """Several sizes, forced and forbidden counts: the best of all choices, or that none fits."""
    values, start, size, capacity = _tables(seed, True)
    best = knapsack(values, start, size, capacity)
    counts = choose_counts_concave(values, start, size, capacity, 0.1)
    if counts is None:
        assert best == -np.inf
        return
    assert counts @ size <= capacity
    assert values[start[:-1] + counts].sum() == pytest.approx(best, abs=1e-9)


@given(SEEDS)
@settings(max_examples=100)
def test_tables_that_are_not_concave_fall_back(seed: int) -> None:
    """Any tables given to the concave knapsack come out as from the exact one."""
    values, start, size, capacity = _tables(seed, False)
    best = knapsack(values, start, size, capacity)
    counts = choose_counts_concave(values, start, size, capacity, 0.1)
    reached = -np.inf if counts is None else values[start[:-1] + counts].sum()
    assert reached == pytest.approx(best, abs=1e-9)


@given(SEEDS, st.sampled_from([0.01, 0.1, 0.5]))
@settings(max_examples=120)
def test_rounded_tables_keep_their_promise(seed: int, eps: float) -> None:
    """Merged in the tree, the gain over the least counts is at least 1 - eps of the best, within the
    capacity."""
    values, start, size, capacity = _tables(seed, False)
    best = knapsack(values, start, size, capacity)
    counts = choose_counts_rounded(values, start, size, capacity, eps)
    if counts is None:
        assert best == -np.inf
        return
    assert counts @ size <= capacity
    least = sum(float(values[a:b][np.argmax(values[a:b] > -np.inf)]) for a, b in itertools.pairwise(start))
    gain = float(values[start[:-1] + counts].sum()) - least
    assert gain >= (1 - eps) * (best - least) - 1e-9


def test_coarser_units_still_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer units than the sizes ask for, the counts fit and are at least those of a capacity smaller by
    a unit per expert."""
    monkeypatch.setattr(convolution, "UNIT_LIMIT", 40)
    for seed in range(60):
        values, start, size, _ = _tables(seed, True)
        values[values == -np.inf] = np.repeat(values[start[1:] - 2], np.diff(start))[values == -np.inf]
        values = np.concatenate(
            [_concave(np.diff(values[a:b]).tolist()) for a, b in itertools.pairwise(start)]
        )
        if not np.isfinite(values).all():
            continue
        size, capacity = size * 1009 + 1, 60_000
        counts = choose_counts_concave(values, start, size, capacity, 0.1)
        assert counts is not None
        assert counts @ size <= capacity
        smaller = capacity - (capacity // 40 + 1) * (len(values) + 1)
        assert values[start[:-1] + counts].sum() >= knapsack(values, start, size, max(0, smaller)) - 1e-9


def test_much_faster_than_the_exact_knapsack_on_fine_capacity() -> None:
    """Sizes with a small common divisor, 60 blocks: both forms take less than a tenth of the exact
    recursion's time."""
    rng = np.random.default_rng(0)
    blocks, experts = 60, 32
    start = np.arange(blocks + 1) * (experts + 1)
    values = np.concatenate([_concave(rng.exponential(1.0, experts).tolist()) for _ in range(blocks)])
    size = rng.choice([1009, 1423, 2003], blocks).astype(np.int64)
    capacity = 140_000
    seconds = {}
    reached = {}
    for chooser in (choose_counts, choose_counts_concave, choose_counts_rounded):
        chooser(values[: start[2]], start[:3], size[:2], 5000, 0.2)  # loads the kernels
        taken = []
        counts = None
        for _ in range(3):
            began = time.perf_counter()
            counts = chooser(values, start, size, capacity, 0.2)
            taken.append(time.perf_counter() - began)
        seconds[chooser.__name__] = min(taken)
        assert counts is not None
        reached[chooser.__name__] = float(values[start[:-1] + counts].sum())
    assert seconds["choose_counts_concave"] < 0.1 * seconds["choose_counts"]
    assert seconds["choose_counts_rounded"] < 0.1 * seconds["choose_counts"]
    assert reached["choose_counts_concave"] == pytest.approx(reached["choose_counts"])
    assert reached["choose_counts_rounded"] >= 0.8 * reached["choose_counts"]


def test_maxconv_against_sgd() -> None:
    """One node: `concave` is exact under `sum`; `fptas` saves at least 1 - eps of what `sgd` saves, under
    every coupling."""
    for seed in range(15):
        for coupling in Coupling:
            problem = random_problem(
                seed, coupling, nodes=1, blocks=[5, 4, 3], routes=20, origin="all", extras=False, slack=0.5
            ).replace(min_replicas=0)
            empty = total_cost(problem, np.zeros((1, 12), np.uint8))
            bare = {"bound_steps": 0}
            exact = solve(problem, "sgd", params=bare).objective
            rounded = solve(problem, "maxconv", params=bare | {"eps": 0.1}).objective
            assert exact is not None
            assert rounded is not None
            assert empty - rounded >= 0.9 * (empty - exact) - 1e-9
            for surrogate in ("shares", "singletons"):
                modular = solve(problem, "maxconv", params=bare | {"mode": "concave", "surrogate": surrogate})
                assert modular.placement is not None
                assert modular.objective is not None
                assert not shortfalls(problem, modular.placement.holds)
                assert modular.objective <= empty + 1e-9
                if coupling is Coupling.SUM:
                    assert modular.objective == pytest.approx(exact)


@pytest.mark.parametrize("coupling", list(Coupling))
def test_maxconv_costs_what_sgd_costs(coupling: Coupling, monkeypatch: pytest.MonkeyPatch) -> None:
    """On fleets whose expert sizes have a tiny common divisor, with the tree for every knapsack: within 1 %
    of `sgd`. By a modular surrogate it was 21 % above it under `slowest` and 65 % under `colocated`."""
    monkeypatch.setattr(maxconv, "_FEW_STEPS", 0)
    for seed in range(4):
        problem = random_problem(
            seed, coupling, nodes=3, blocks=[8, 8, 6], routes=200, origin="all", extras=False, width=4
        )
        problem = problem.replace(
            expert_bytes=np.array([1009, 1423, 2003]),
            capacity_bytes=np.random.default_rng(seed).integers(6_000, 15_000, 3),
            min_replicas=0,
        )
        costs = [solve(problem, name, params={"bound_steps": 0}).objective for name in ("sgd", "maxconv")]
        assert costs[0] is not None
        assert costs[1] is not None
        assert costs[1] <= 1.01 * costs[0]
