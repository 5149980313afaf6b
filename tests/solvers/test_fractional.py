"""The fractional knapsacks of all nodes: the best value, and the nearest point."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import optimize

from solvers.kernels import fractional
from tests.oracles.relaxation import best_knapsack

SEEDS = st.integers(0, 2**32)


@given(SEEDS, st.sampled_from(["equal", "few", "any"]), st.sampled_from(["any", "whole", "few"]))
@example(12540, "equal", "whole")
@settings(max_examples=600, deadline=None)
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


def test_large_knapsacks_are_solved() -> None:
    """The same for hundreds of experts whose profits span twelve orders of magnitude."""
    rng = np.random.default_rng(2)
    for _ in range(40):
        profit, size = rng.lognormal(0.0, 5.0, (3, 700)), rng.choice([0.3, 0.5, 1.0], 700)
        room = rng.uniform(0.0, 300.0, 3)
        want = sum(best_knapsack(profit[m], size, float(room[m])) for m in range(3))
        assert want * (1 - 1e-13) <= fractional.knapsacks(profit, size, room) <= want * (1 + 1e-11)


@given(SEEDS)
@settings(max_examples=400, deadline=None)
def test_the_projection_is_the_nearest_point(seed: int) -> None:
    """Within 0..1 and the room, and clip(wish - price * pull) at the price of memory that root finding by
    scipy gives, 0 where all fits: the optimality conditions of the nearest point."""
    rng = np.random.default_rng(seed)
    nodes, experts = int(rng.integers(1, 4)), int(rng.integers(0, 14))
    size = rng.choice([0.5, 0.75, 1.0], experts) if rng.random() < 0.5 else np.ones(experts)
    pull = rng.lognormal(0.0, 2.0, (nodes, experts)) * size
    fixed = rng.random((nodes, experts)) < 0.2
    pull[fixed] = 0.0
    wish = rng.normal(0.5, 1.0, (nodes, experts)) * rng.choice([1.0, 30.0])
    wish[fixed] = 0.0  # what may not be held
    room = rng.choice([0.0, 0.7, 3.0, 50.0], nodes)
    held = np.full((nodes, experts), np.nan)
    fractional.project(wish, pull, size, room, held)
    for m in range(nodes):

        def over(price: float, m: int = m) -> float:
            return float(size @ np.clip(wish[m] - price * pull[m], 0.0, 1.0)) - float(room[m])

        high = float(np.max(wish[m] / np.where(pull[m] > 0, pull[m], np.inf), initial=0.0)) + 1.0
        price = 0.0 if over(0.0) <= 0.0 else optimize.brentq(over, 0.0, high, xtol=1e-14, rtol=1e-14)
        want = np.clip(wish[m] - price * pull[m], 0.0, 1.0)
        assert ((held[m] >= 0.0) & (held[m] <= 1.0)).all()
        assert size @ held[m] <= room[m] + 1e-8
        np.testing.assert_allclose(held[m], want, atol=1e-6)


def test_no_point_is_nearer() -> None:
    """In the metric size / pull no random point of the knapsack is nearer than the projection."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        size, pull = rng.choice([0.5, 1.0], 6), rng.lognormal(0.0, 1.0, (1, 6))
        wish, room = rng.normal(0.7, 1.0, (1, 6)), np.array([1.5])
        held = np.empty((1, 6))
        fractional.project(wish, pull, size, room, held)
        points = rng.uniform(0.0, 1.0, (300, 6)) * (rng.random((300, 6)) < 0.6)
        points *= np.minimum(1.0, room / np.maximum(points @ size, 1e-9))[:, None]
        distance = ((points - wish) ** 2 * size / pull).sum(axis=1)
        assert ((held - wish) ** 2 * size / pull).sum() <= distance.min() + 1e-7
