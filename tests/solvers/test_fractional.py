"""The fractional knapsacks of all nodes: the best value, and a step towards it."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import optimize

from solvers.kernels import fractional, whole
from solvers.problem import Bools, Float64
from tests.oracles.relaxation import best_knapsack, best_whole_knapsack

SEEDS = st.integers(0, 2**32)


@given(SEEDS, st.sampled_from(["equal", "few", "any"]), st.sampled_from(["any", "whole", "few"]))
@example(12540, "equal", "whole")
@settings(max_examples=600)
def test_knapsacks_are_solved(seed: int, sizes: str, profits: str) -> None:
    """Equal to the best per byte first, never below it: with sizes and profits that are equal, whole (so that
    different prices of memory have the same value) or any, negative ones among them, from no room to room
    for all."""
    rng = np.random.default_rng(seed)
    nodes, experts = int(rng.integers(1, 4)), int(rng.integers(0, 14))
    size = {
        "equal": np.ones(experts),
        "few": rng.choice([0.5, 0.75, 1.0], experts),
        "any": rng.uniform(1e-3, 1.0, experts),
    }[sizes]
    profit = rng.normal(0.3, 1.0, (nodes, experts)) * 10.0 ** rng.uniform(-6, 6)
    if profits == "whole":
        profit = rng.integers(-3, 8, (nodes, experts)).astype(np.float64)
    elif profits == "few":
        profit *= rng.random((nodes, experts)) < 0.2
    room = rng.choice([0.0, 1.0, 2.5, float(size.sum()), 100.0], nodes) * rng.choice([1.0, rng.random()])
    want = sum(best_knapsack(profit[m], size, float(room[m])) for m in range(nodes))
    found = fractional.knapsacks(profit, size, room)
    assert found == pytest.approx(want, rel=1e-12, abs=1e-300)
    assert found >= want * (1.0 - 1e-14)


@given(SEEDS, st.integers(1, 4), st.sampled_from([1, 2_000]))
@settings(max_examples=200)
def test_whole_knapsacks_are_solved(seed: int, kinds: int, branches: int) -> None:
    """Over whole experts of up to four sizes: the best of all sets, and where the search may not branch no
    less than that and no more than the fractional knapsack."""
    rng = np.random.default_rng(seed)
    nodes, experts = int(rng.integers(1, 4)), int(rng.integers(0, 12))
    size = np.sort(rng.choice(np.arange(1, 40), kinds, replace=False))[::-1].astype(np.int64)
    kind = rng.integers(0, kinds, experts)
    profit = rng.normal(0.3, 1.0, (nodes, experts)) * 10.0 ** rng.uniform(-6, 6)
    room = rng.integers(0, 100, nodes)
    held = np.empty((nodes, experts))
    found = whole.knapsacks(profit, kind, size, room, branches, held)
    assert (held @ size[kind] <= room).all()
    assert (profit * held).sum() <= found * (1 + 1e-12)
    most = fractional.knapsacks(profit, size[kind].astype(np.float64), room.astype(np.float64))
    assert found <= most * (1 + 1e-12)
    want = sum(best_whole_knapsack(profit[m], size[kind], int(room[m])) for m in range(nodes))
    assert found >= want * (1 - 1e-12)
    if branches > 1:
        assert found == pytest.approx(want, rel=1e-12, abs=1e-300)
        assert (profit * held).sum() == pytest.approx(want, rel=1e-12, abs=1e-300)


def test_large_knapsacks_are_solved() -> None:
    """The same for hundreds of experts whose profits span twelve orders of magnitude."""
    rng = np.random.default_rng(2)
    for _ in range(40):
        profit, size = rng.lognormal(0.0, 5.0, (3, 700)), rng.choice([0.3, 0.5, 1.0], 700)
        room = rng.uniform(0.0, 300.0, 3)
        want = sum(best_knapsack(profit[m], size, float(room[m])) for m in range(3))
        assert want * (1 - 1e-13) <= fractional.knapsacks(profit, size, room) <= want * (1 + 1e-11)


def _advanced(
    x: Float64, profit: Float64, metric: Float64, free: Bools, size: Float64, room: Float64, guess: float
) -> Float64:
    """Where a step of length 1 by the profit ends, from x; all float64[N, E]."""
    moved, ahead = x.copy(), np.empty_like(x)
    before, sum_x, sum_earned, told = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x), np.empty(2)
    fractional.advance(
        profit - 1.0,
        np.full(x.shape[1], 1.5),
        np.full(x.shape, 0.5),
        free,
        size,
        room,
        metric,
        1.0,
        np.full(len(x), guess),
        moved,
        ahead,
        before,
        sum_x,
        sum_earned,
        told,
        0,
        len(x),
    )
    np.testing.assert_allclose(before, profit, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(ahead, 2.0 * moved - x, atol=1e-12)
    np.testing.assert_array_equal(sum_x, moved)
    np.testing.assert_array_equal(sum_earned, profit - 1.0)
    want = [(metric * (moved - x) ** 2).sum(), (before * (moved - x)).sum()]
    np.testing.assert_allclose(told, want, rtol=1e-9, atol=1e-9)
    return moved


@given(SEEDS)
@settings(max_examples=400)
def test_a_step_ends_at_the_nearest_point(seed: int) -> None:
    """Within 0..1 and the room, and clip(x + (profit - price * size) / metric) at the price of memory that
    root finding by scipy gives, 0 where all fits: the optimality conditions of the nearest point; whatever
    price is guessed. What is not free stays. What goes with it is as said."""
    rng = np.random.default_rng(seed)
    nodes, experts = int(rng.integers(1, 4)), int(rng.integers(0, 14))
    size = rng.choice([0.5, 0.75, 1.0], experts) if rng.random() < 0.5 else np.ones(experts)
    metric = rng.lognormal(0.0, 2.0, (nodes, experts))
    free = rng.random((nodes, experts)) < 0.8
    x = np.where(free, rng.random((nodes, experts)), rng.integers(0, 2, (nodes, experts)))
    profit = rng.normal(0.5, 1.0, (nodes, experts)) * metric * rng.choice([1.0, 30.0])
    room = rng.choice([0.0, 0.7, 3.0, 50.0], nodes)
    guess = float(rng.choice([0.0, 1e-6, 0.3, 1.0, 1e6]))
    held = _advanced(x, profit, metric, free, size, room, guess)
    for m in range(nodes):
        of = free[m]
        wish, pull = (x[m] + profit[m] / metric[m])[of], (size / metric[m])[of]

        def over(
            price: float, m: int = m, of: Bools = of, wish: Float64 = wish, pull: Float64 = pull
        ) -> float:
            return float(size[of] @ np.clip(wish - price * pull, 0.0, 1.0)) - float(room[m])

        high = float(np.max(wish / pull, initial=0.0)) + 1.0
        price = 0.0 if over(0.0) <= 0.0 else optimize.brentq(over, 0.0, high, xtol=1e-14, rtol=1e-14)
        assert ((held[m] >= 0.0) & (held[m] <= 1.0)).all()
        assert size[of] @ held[m, of] <= room[m] + 1e-8
        np.testing.assert_allclose(held[m, of], np.clip(wish - price * pull, 0.0, 1.0), atol=1e-6)
        np.testing.assert_array_equal(held[m, ~of], x[m, ~of])


def test_no_point_is_nearer() -> None:
    """In the metric no random point of the knapsack is nearer than where the step ends."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        size, metric = rng.choice([0.5, 1.0], 6), rng.lognormal(0.0, 1.0, (1, 6))
        x, room = rng.random((1, 6)), np.array([1.5])
        profit = rng.normal(0.2, 1.0, (1, 6)) * metric
        held = _advanced(x, profit, metric, np.ones((1, 6), np.bool_), size, room, 0.1)
        points = rng.uniform(0.0, 1.0, (300, 6)) * (rng.random((300, 6)) < 0.6)
        points *= np.minimum(1.0, room / np.maximum(points @ size, 1e-9))[:, None]
        wish = x + profit / metric
        distance = ((points - wish) ** 2 * metric).sum(axis=1)
        assert ((held - wish) ** 2 * metric).sum() <= distance.min() + 1e-7
