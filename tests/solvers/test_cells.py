"""The kernel of calls kept as cells, against a naive twin."""

import numpy as np
import pytest

from solvers.kernels import cells

GROUPS, NODES, EXPERTS, WIDTH, LEVELS = 6, 3, 8, 3, 2


def cells_of_group(cell: int) -> slice:
    """All cells of the group that a cell is in: the exponents are taken from their highest potential."""
    return slice(cell // EXPERTS * EXPERTS, (cell // EXPERTS + 1) * EXPERTS)


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e9, 1e20, 1e38])
def test_shares_are_a_softmax_whatever_the_potentials(scale: float) -> None:
    """Potentials are kept in 32 bits: those of 1e9 are rounded by up to 64, far beyond the exponents that
    the kernel's table has."""
    rng = np.random.default_rng(7)
    count = GROUPS * EXPERTS
    group = np.arange(GROUPS + 1, dtype=np.int64) * EXPERTS
    route = np.arange(GROUPS + 1, dtype=np.int64) * 10
    node = np.repeat(rng.integers(0, NODES, GROUPS), EXPERTS).astype(np.int32)
    column = np.tile(np.arange(EXPERTS), GROUPS).astype(np.int32)
    routes = np.stack(
        [first + rng.choice(EXPERTS, WIDTH, replace=False) for first in np.repeat(group[:-1], 10)]
    ).astype(np.int32)
    rate = rng.uniform(0.5, 2.0, len(routes))
    order = np.tile(np.arange(NODES), (NODES, 1))
    ends = np.tile(np.array([0, 1, NODES]), (NODES, 1))
    gap = rng.uniform(0.1, 1.0, (NODES, LEVELS))
    held = rng.uniform(0.0, 0.4, (EXPERTS, NODES))
    potential = (scale * rng.uniform(-0.1, 1.0, (count, LEVELS))).astype(np.float32)
    before, total, calls = potential.copy(), np.zeros_like(potential), np.zeros_like(potential)
    earned, told = np.zeros((EXPERTS, NODES)), np.empty(2)
    length = 0.01 * scale
    cells.share(
        group, route, node, column, routes, rate, order, ends, gap, held, length, -30.0, potential, total,
        calls, earned, told,
    )  # fmt: skip

    lack = np.stack([1.0 - held[:, 0], 1.0 - held.sum(axis=1)], axis=1)[column]
    with np.errstate(over="ignore"):
        risen = np.clip(before + length * lack, -30.0, 1e30).astype(np.float32)
    assert (potential == risen).all()
    assert (total == risen).all()

    shares = np.zeros((count, LEVELS))
    for r, members in enumerate(routes):
        level = np.vstack([np.zeros(LEVELS), potential[members].astype(np.float64)])
        of_group = potential[cells_of_group(members[0])].astype(np.float64)
        weight = np.exp(np.maximum(-600.0, level - np.maximum(0.0, of_group.max(axis=0))))
        shares[members] += rate[r] * weight[1:] / weight.sum(axis=0)
    np.testing.assert_allclose(calls, shares, rtol=1e-5, atol=1e-9)
    assert told[0] == pytest.approx(float((gap[node] * shares).sum()), rel=1e-5)
    paid = gap[node] * shares
    expected = np.zeros_like(earned)
    for c in range(count):
        expected[column[c], order[node[c], 0]] += paid[c].sum()
        expected[column[c], order[node[c], 1:]] += paid[c, 1]
    np.testing.assert_allclose(earned, expected, rtol=1e-5, atol=1e-9)


def test_experts_far_below_the_highest_are_shared_by_their_own_difference() -> None:
    """A route whose experts all lie 100 and more below the highest potential of their group is shared by the
    difference between its own experts, and not in equal parts: a climb whose routes fall back to equal parts
    gains nothing any more."""
    group, route = np.array([0, 3]), np.array([0, 1])
    routes, rate = np.array([[1, 2]], np.int32), np.ones(1)
    order, ends, gap = np.zeros((1, 1), np.int64), np.array([[0, 1]]), np.ones((1, 1))
    potential = np.array([[150.0], [50.0], [47.0]], np.float32)
    total, calls = np.zeros_like(potential), np.zeros_like(potential)
    cells.share(
        group, route, np.zeros(3, np.int32), np.arange(3, dtype=np.int32), routes, rate, order, ends, gap,
        np.zeros((3, 1)), 0.0, -30.0, potential, total, calls, np.zeros((3, 1)), np.empty(2),
    )  # fmt: skip
    assert calls[:, 0] == pytest.approx([0.0, 1.0 / (1.0 + np.exp(-3.0)), 1.0 / (1.0 + np.exp(3.0))])
