"""The sample of routes: exact while it fits, unbiased beyond, independent of order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.statistics.reservoir import Reservoir, capacity_per_block, merge, uniforms


def sample(blocks: int, items: list[tuple[int, int, float]], seed: int) -> Reservoir:
    """Unsampled items (block, expert, weight)."""
    return Reservoir.of(
        blocks,
        np.asarray([b for b, _, _ in items], np.int32),
        np.asarray([[e] for _, e, _ in items], np.uint16).reshape(-1, 1),
        np.asarray([w for _, _, w in items], np.float64),
        uniforms(seed, len(items)),
    )


def rows(reservoir: Reservoir) -> list[tuple[int, tuple[int, ...], float, float]]:
    return sorted(
        (b, tuple(x for x in e if x != 65535), w, q)
        for b, e, w, q in zip(
            reservoir.block.tolist(),
            reservoir.experts.tolist(),
            reservoir.weight.tolist(),
            reservoir.priority.tolist(),
            strict=True,
        )
    )


def naive(parts: list[Reservoir], capacity: int) -> tuple[list[object], list[float]]:
    """The definition: all items that no part dropped, sorted per block, the (m+1)-th is the threshold."""
    kept: list[object] = []
    thresholds = []
    for block in range(len(parts[0].threshold)):
        items = sorted((r for p in parts for r in rows(p) if r[0] == block), key=lambda r: -r[3])
        beyond = [items[capacity][3]] if len(items) > capacity else []
        threshold = max([float(p.threshold[block]) for p in parts] + beyond)
        kept += [r for r in items if r[3] > threshold]
        thresholds.append(threshold)
    return sorted(kept, key=repr), thresholds


items = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 5), st.floats(0, 1e6, allow_subnormal=False, width=32)),
    max_size=40,
)


@given(st.lists(items, min_size=1, max_size=5), st.integers(1, 8), st.randoms())
@settings(max_examples=150)
def test_merging_in_any_order_and_grouping_is_the_same(
    lists: list[list[tuple[int, int, float]]], capacity: int, random: object
) -> None:
    """Merged at once, one by one, or shuffled: the same items and thresholds, those of the definition."""
    parts = [sample(3, it, seed) for seed, it in enumerate(lists)]
    whole = merge(parts, capacity)
    single = merge([parts[0]], capacity)
    for part in parts[1:]:
        single = merge([single, part], capacity)
    backwards = merge([merge([part], capacity) for part in reversed(parts)], capacity)
    expected, thresholds = naive(parts, capacity)
    for found in (whole, single, backwards):
        assert sorted(rows(found), key=repr) == expected
        assert found.threshold.tolist() == thresholds
        assert all((found.block == b).sum() <= capacity for b in range(3))


@given(items)
@settings(max_examples=50)
def test_what_fits_is_exact(given_items: list[tuple[int, int, float]]) -> None:
    """Below capacity every item with weight is kept with its weight."""
    found = merge([sample(3, given_items, 1)], 1000)
    assert sorted(found.estimates().tolist()) == sorted(w for _, _, w in given_items if w > 0)
    assert not found.threshold.any()


def test_estimates_are_unbiased() -> None:
    """Over many seeds the mean estimate of a subset's weight is its weight, for heavy and light items."""
    weights = np.concatenate([np.full(150, 1.0), np.full(40, 5.0), np.asarray([300.0])])
    items = [(0, min(i // 50, 4), float(w)) for i, w in enumerate(weights)]
    truth = np.bincount([e for _, e, _ in items], [w for *_, w in items])
    estimates = []
    for seed in range(2000):
        kept = merge([sample(1, items, seed * 7919)], 20)
        estimates.append(np.bincount(kept.experts[:, 0], kept.estimates(), minlength=len(truth)))
    mean = np.mean(estimates, axis=0)
    error = np.std(estimates, axis=0) / np.sqrt(len(estimates))
    assert (np.abs(mean - truth) <= 5 * error + 1e-9).all(), (mean, truth, error)


def test_uniforms_are_uniform_and_named_by_their_seed() -> None:
    """In (0, 1], with the mean and spread of a uniform, the same for the same seed and no other."""
    u = uniforms(42, 20_000)
    assert ((u > 0) & (u <= 1)).all()
    assert u.mean() == pytest.approx(0.5, abs=0.01)
    assert u.var() == pytest.approx(1 / 12, abs=0.005)
    assert (u == uniforms(42, 20_000)).all()
    assert not np.isin(u, uniforms(43, 20_000)).any()


def test_widths_may_differ() -> None:
    """Routes of K = 1 and of K = 3 live in one reservoir."""
    wide = Reservoir.of(
        1, np.zeros(1, np.int32), np.asarray([[1, 2, 3]], np.uint16), np.ones(1), np.full(1, 0.5)
    )
    found = merge([sample(1, [(0, 4, 1.0)], 1), wide], 10)
    assert {r[1] for r in rows(found)} == {(4,), (1, 2, 3)}


def test_capacity_shrinks_with_the_number_of_blocks() -> None:
    """512 a block for small models, fewer where a bucket would grow too large, never none."""
    assert [capacity_per_block(b) for b in (0, 1, 32, 58, 256, 10_000)] == [512, 512, 512, 282, 64, 32]


def test_capacity_shrinks_with_the_size_of_the_fleet() -> None:
    """Samples of all nodes share the room of the cluster; a small fleet's are not affected."""
    assert [capacity_per_block(58, 13 * 58 * nodes) for nodes in (1, 8, 100, 1000)] == [282, 282, 222, 32]
