"""The multipliers of the dual against naive twins, which check that they are feasible."""

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from solvers import chunks, slowest_calls
from solvers.hosting import Hosting
from solvers.levels import levels, split
from solvers.problem import Coupling
from solvers.single_calls import SingleCalls
from solvers.slowest_calls import SlowestCalls
from solvers.traffic import compile_traffic
from tests.oracles.instances import random_problem
from tests.oracles.multipliers import HostingTwin, SingleTwin, SlowestTwin

SEEDS = range(24)
KINDS = ["slowest", "grouped", "single", "hosting"]


def _pair(kind: str, seed: int) -> tuple[Any, Any, tuple[int, int]]:
    """A part of the dual and its twin, and the shape of what is held. Many gaps are zero."""
    blocks = [[4, 2, 3], [5], [1, 1]][seed % 3]
    problem = random_problem(
        600 + seed, Coupling.SLOWEST, nodes=1 + seed % 5, blocks=blocks, routes=20, width=4
    )
    traffic, level = compile_traffic(problem), levels(problem)
    near, far = split(level, np.random.default_rng(seed).uniform(0, 9, problem.nodes))
    gap = [level.gap, near, far][seed // 3 % 3]
    shape = (problem.experts, problem.nodes)
    if kind == "single":
        return (
            SingleCalls(traffic.activity, level.order, gap),
            SingleTwin(traffic.activity, level.order, gap),
            shape,
        )
    if kind == "hosting":
        return (
            Hosting(problem, traffic, level.order, gap),
            HostingTwin(problem, traffic, level.order, gap),
            shape,
        )
    part = SlowestCalls(problem, traffic, level.order, gap)
    group, _ = slowest_calls.groups(gap, 2 if kind == "grouped" else problem.nodes)
    return part, SlowestTwin(problem, traffic, level.order, gap, group), shape


def _potentials(part: Any) -> list[npt.NDArray[Any]]:
    found = [getattr(part, name, None) for name in ("_potential", "_alpha")]
    return [array for array in found if array is not None and array.size]


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_their_twins(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step for step, against what is held inside 0..1 or outside, near or far from their bounds, parts have
    the constant, the earnings and the potentials of loops over routes, levels and experts, in which theta is
    >= 0 with a sum of at most 1 and alpha in 0..1; and so has a restart, at the mean potentials."""
    if kind == "grouped":
        monkeypatch.setattr(slowest_calls, "_MOST_CALLS", 0)
        monkeypatch.setattr(slowest_calls, "_LEAST_GROUPS", 2)
    for seed in SEEDS:
        monkeypatch.setattr(chunks, "_LEAST_WORK", 0 if seed % 2 else 10**9)
        part, twin, shape = _pair(kind, seed)
        rng = np.random.default_rng(seed)
        sums = [np.zeros(a.shape) for a in _potentials(part)]
        # powers are a polynomial's, and the alphas that raise potentials are kept in single precision
        close = {"slowest": 1e-8, "grouped": 1e-6}.get(kind, 1e-9)
        lengths = [*rng.exponential(2.0, 5), 1e3, 0.1]
        for length in lengths:
            held = rng.uniform(-0.3, 1.3, shape) * rng.integers(0, 2, shape)
            earned = np.ones(shape)
            constant, moved = part.step(held, float(length), earned)
            want = twin.step(held, float(length))
            assert constant == pytest.approx(want.constant, rel=close, abs=1e-12)
            np.testing.assert_allclose(earned - 1.0, want.earned, rtol=close, atol=close)
            assert np.isfinite(moved)
            assert moved >= 0.0
            for total, mine in zip(sums, _potentials(part), strict=True):
                total += mine
        held = rng.uniform(0, 1, shape)
        earned = np.zeros(shape)
        constant, far = part.restart(held, len(lengths), earned)
        for total, mine in zip(sums, _potentials(part), strict=True):
            kept = mine != 0.0  # alpha of a level without a gap is nobody's
            np.testing.assert_allclose(mine[kept], total[kept] / len(lengths), rtol=1e-5, atol=1e-5)
        for name in ("potential", "alpha"):
            if getattr(part, "_" + name, np.zeros(0)).size:
                setattr(twin, name, getattr(part, "_" + name).copy())
        want = twin.step(held, 0.0) if kind == "single" else twin.earnings(held)
        assert constant == pytest.approx(want.constant, rel=close, abs=1e-12)
        np.testing.assert_allclose(earned, want.earned, rtol=close, atol=close)
        assert far >= 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Side by side on four threads or in one go, potentials and earnings are the same to the bit, the
    constant up to the order of its sum, and a run repeated is the same to the bit."""
    results = []
    for least in (10**9, 0, 0):
        monkeypatch.setattr(chunks, "_LEAST_WORK", least)
        part, _, shape = _pair(kind, 3)
        rng = np.random.default_rng(1)
        constant, earned = 0.0, np.zeros(shape)
        for _ in range(20):
            earned[:] = 0.0
            constant, _ = part.step(rng.uniform(0, 1, shape), 0.5, earned)
        results.append((constant, earned, *copy.deepcopy(_potentials(part))))
    for one, four, again in zip(*results, strict=True):
        np.testing.assert_array_equal(four, again)
        if isinstance(one, float):
            assert one == pytest.approx(four, rel=1e-13)
        else:
            np.testing.assert_array_equal(one, four)


def test_groups_keep_the_gaps() -> None:
    """Every level is in a group, the groups hold all gaps, and the last gap has its own; up to as many
    groups as levels nothing is shared."""
    rng = np.random.default_rng(0)
    for nodes in (1, 2, 5, 9):
        gap = rng.exponential(1.0, (nodes, nodes)) * rng.integers(0, 2, (nodes, nodes))
        for most in (2, 4, 9):
            group, weight = slowest_calls.groups(gap, most)
            for n in range(nodes):
                sums = np.bincount(group[n], gap[n], minlength=weight.shape[1])
                np.testing.assert_allclose(sums, weight[n], rtol=1e-12)
                if most < nodes:
                    assert group[n, -1] == most - 1
                    assert (group[n, :-1] < most - 1).all()
                    assert (np.diff(group[n]) >= 0).all()
                else:
                    assert group[n].tolist() == list(range(nodes))
