"""The multipliers of the dual against naive twins, which check that they are feasible."""

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from solvers import chunks
from solvers.dual.hosted import Hosting
from solvers.dual.radius import levels, split
from solvers.dual.single import SingleCalls
from solvers.dual.slowest import SlowestCalls
from solvers.problem import Coupling
from solvers.traffic import compile_traffic, route_keys
from tests.oracles.instances import random_problem
from tests.oracles.multipliers import HostingTwin, SingleTwin, SlowestTwin

SEEDS = range(24)
KINDS = ["slowest", "single", "hosting"]


def _pair(kind: str, seed: int) -> tuple[Any, Any, tuple[int, int]]:
    """A part of the dual and its twin, and the shape of what is held. Many gaps are zero."""
    blocks = [[4, 2, 3], [5], [1, 1]][seed % 3]
    problem = random_problem(
        600 + seed, Coupling.SLOWEST, nodes=1 + seed % 5, blocks=blocks, routes=20, width=4
    )
    traffic, level = compile_traffic(problem), levels(problem)
    near, far = split(level, np.random.default_rng(seed).uniform(0, 9, problem.nodes))
    gap = [level.gap, near, far][seed // 3 % 3]
    shape = (problem.nodes, problem.experts)
    if kind == "single":
        return (
            SingleCalls(traffic.activity, problem.block_offset, level.order, gap),
            SingleTwin(traffic.activity, level.order, gap),
            shape,
        )
    if kind == "hosting":
        return (
            Hosting(problem, traffic, level.order, gap),
            HostingTwin(problem, traffic, level.order, gap),
            shape,
        )
    return (
        SlowestCalls(problem, traffic, level.order, gap),
        SlowestTwin(problem, traffic, level.order, gap),
        shape,
    )


def _potentials(part: Any) -> list[npt.NDArray[Any]]:
    found = [getattr(part, name, None) for name in ("_potential", "_reach")]
    return [array for array in found if array is not None and array.size]


def _mirror(part: Any, twin: Any) -> None:
    """Gives the twin, whose arrays go by node, expert and server, the multipliers of the part."""
    if isinstance(part, SlowestCalls):
        for n, i in np.argwhere(part._place >= 0):
            twin.potential[n, :, i] = part._potential[n, part._place[n, i]]
        return
    twin.reach = part._reach.copy()
    if isinstance(part, Hosting):
        twin.potential = part._potential.copy()


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_their_twins(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step for step, against what is held inside 0..1 or outside, near or far from their bounds, parts have
    the constant, the earnings and the potentials of loops over routes, levels and experts, in which theta is
    >= 0 with a sum of at most 1; and so has a restart, at the mean potentials."""
    for seed in SEEDS:
        monkeypatch.setattr(chunks, "_LEAST_WORK", 0 if seed % 2 else 10**9)
        part, twin, shape = _pair(kind, seed)
        rng = np.random.default_rng(seed)
        sums = [np.zeros(a.shape) for a in _potentials(part)]
        close = 1e-8 if kind == "slowest" else 1e-9  # powers are a polynomial's
        lengths = [*rng.exponential(2.0, 5), 1e3, 0.1]
        for length in lengths:
            held = rng.uniform(-0.3, 1.3, shape) * rng.integers(0, 2, shape)
            earned = np.ones(shape)
            constant, moved = part.step(held, float(length), earned)
            want = twin.step(held.T, float(length))
            assert constant == pytest.approx(want.constant, rel=close, abs=1e-12)
            np.testing.assert_allclose(earned - 1.0, want.earned.T, rtol=close, atol=close)
            assert np.isfinite(moved)
            assert moved >= 0.0
            for total, mine in zip(sums, _potentials(part), strict=True):
                total += mine
        held = rng.uniform(0, 1, shape)
        earned = np.zeros(shape)
        constant, far = part.restart(held, len(lengths), earned)
        for total, mine in zip(sums, _potentials(part), strict=True):
            kept = mine != 0.0  # where nobody calls there are no potentials
            np.testing.assert_allclose(mine[kept], total[kept] / len(lengths), rtol=1e-9, atol=1e-9)
        _mirror(part, twin)
        want = twin.step(held.T, 0.0) if kind == "single" else twin.earnings(held.T)
        assert constant == pytest.approx(want.constant, rel=close, abs=1e-12)
        np.testing.assert_allclose(earned, want.earned.T, rtol=close, atol=close)
        assert far >= 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_parts_go_on_where_another_stood(kind: str) -> None:
    """With another's multipliers a new part has its constant and earnings, in single precision; those of
    another kind or shape it does not take."""
    for seed in SEEDS:
        part, _, shape = _pair(kind, seed)
        rng = np.random.default_rng(seed)
        for length in rng.exponential(2.0, 5):
            part.step(rng.uniform(0, 1, shape), float(length), np.zeros(shape))
        held = rng.uniform(0, 1, shape)
        other, _, _ = _pair(kind, seed)
        assert other.resume(part.multipliers)
        found, wanted = np.zeros(shape), np.zeros(shape)
        constant, _ = other.restart(held, 1, found)
        want, _ = part.step(held, 0.0, wanted)
        assert constant == pytest.approx(want, rel=1e-5, abs=1e-6)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
        stranger, _, elsewhere = _pair(kind, seed + 1)
        assert elsewhere == shape or not stranger.resume(part.multipliers)
        for unlike in set(KINDS) - {kind}:
            assert not _pair(unlike, seed)[0].resume(part.multipliers)


def test_levels_more_or_fewer_go_on_with_the_nearest_and_the_last() -> None:
    """Where far servers shared a level and now don't, or the other way round, the potentials of the nearest
    levels stay theirs, and the last one's are the last one's."""
    problem = random_problem(3, Coupling.SLOWEST, nodes=6, blocks=[4], routes=30, width=3)
    traffic = compile_traffic(problem)
    for before, after in ((3, 5), (5, 3), (1, 4), (4, 4)):
        parts = [
            SlowestCalls(problem, traffic, level.order, level.gap)
            for level in (levels(problem, before), levels(problem, after))
        ]
        for length in (1.0, 2.0, 0.5):
            parts[0].step(np.full((6, 4), 0.3), length, np.zeros((6, 4)))
        given = parts[0].multipliers.potential
        assert parts[1].resume(parts[0].multipliers)
        parts[1].restart(np.full((6, 4), 0.3), 1, np.zeros((6, 4)))
        found = parts[1].multipliers.potential
        same = min(given.shape[1], found.shape[1]) - 1
        assert given.shape[1] != found.shape[1] or before == after
        np.testing.assert_allclose(found[:, :same], given[:, :same], rtol=1e-6)
        np.testing.assert_allclose(found[:, -1], given[:, -1], rtol=1e-6)


def test_routes_that_were_not_there_pay_as_far_as_the_others() -> None:
    """Hosts' multipliers follow their routes through other orders and rates; a new route has the mean."""
    problem = random_problem(5, Coupling.COLOCATED, nodes=3, blocks=[5, 4], routes=40, width=3)
    level = levels(problem)
    part = Hosting(problem, compile_traffic(problem), level.order, level.gap)
    rng = np.random.default_rng(0)
    for _ in range(6):
        part.step(rng.uniform(0, 0.4, (3, 9)), 1.0, np.zeros((3, 9)))
    kept = np.setdiff1d(rng.permutation(problem.routes), [0])
    fewer = problem.replace(
        route_node=problem.route_node[kept],
        route_block=problem.route_block[kept],
        route_experts=problem.route_experts[kept],
        route_rate=problem.route_rate[kept] * 3.0,
    )
    then = Hosting(fewer, compile_traffic(fewer), level.order, level.gap)
    assert then.resume(part.multipliers)
    reached = dict(zip(part.multipliers.key.tolist(), part.multipliers.reach.tolist(), strict=True))
    assert len(set(reached.values())) > 5
    keys = route_keys(compile_traffic(fewer))
    np.testing.assert_allclose(then._reaches, [reached[key] for key in keys.tolist()])
    back = Hosting(problem, compile_traffic(problem), level.order, level.gap)
    then.restart(np.zeros((3, 9)), 1, np.zeros((3, 9)))
    assert back.resume(then.multipliers)
    new = ~np.isin(route_keys(compile_traffic(problem)), keys)
    if new.any():
        np.testing.assert_allclose(back._reaches[new], then.multipliers.reach.mean(), rtol=1e-6)


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


def test_merged_levels_are_never_dearer() -> None:
    """With fewer levels than servers there are at most so many with a gap, and whoever holds an expert, its
    call costs no more than with all of them, and the same at the nearest servers and at the origin."""
    for seed in range(30):
        nodes = 2 + seed % 6
        problem = random_problem(seed, Coupling.SLOWEST, nodes=nodes, blocks=[2], routes=5)
        full = levels(problem)
        for most in (2, 3, 5):
            merged = levels(problem, most)
            assert ((merged.gap > 0).sum(axis=1) <= max(most, 1)).all()
            np.testing.assert_array_equal(merged.order, full.order)
            np.testing.assert_array_equal(merged.nearest, full.nearest)
            reach, whole = np.cumsum(merged.gap, axis=1), np.cumsum(full.gap, axis=1)
            assert (reach <= whole + 1e-12).all()
            near = min(most - 1, nodes)
            np.testing.assert_allclose(reach[:, : near - 1], whole[:, : near - 1], rtol=1e-12)
            origin = np.isfinite(problem.origin_latency_seconds)
            np.testing.assert_allclose(reach[origin, -1], whole[origin, -1], rtol=1e-12)


def _worth(reach: Any, begin: Any, left: Any, pace: float, before: float) -> Any:
    """What multipliers up to each `reach` give, less the squared way there by twice the pace."""
    within = np.clip(np.atleast_1d(reach)[:, None] - begin[:-1], 0.0, np.diff(begin))
    return within @ left - (reach - before) ** 2 / (2.0 * max(pace, 1e-300))


def test_calls_pay_as_far_as_is_best() -> None:
    """Against any fractions held, a step takes how far calls pay to the maximum of what that gives less the
    squared way there by twice the pace: no point of a fine grid is better."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        nodes = int(rng.integers(1, 6))
        gap = rng.exponential(1.0, (nodes, nodes)) * rng.integers(0, 2, (nodes, nodes))
        order = np.array([rng.permutation(nodes) for _ in range(nodes)])
        part = SingleCalls(np.ones((nodes, 1)), np.array([0, 1]), order, gap)
        held, length = rng.random((nodes, 1)), float(rng.exponential(2.0))
        part._reach = rng.random((nodes, 1)) * gap.sum(axis=1)[:, None]
        before = part._reach[:, 0].copy()
        part.step(held, length, np.zeros((nodes, 1)))
        for n in range(nodes):
            begin = np.concatenate(([0.0], np.cumsum(gap[n])))
            known = (begin, 1.0 - np.cumsum(held[order[n], 0]), 0.25 * length * begin[-1], before[n])
            found = _worth(part._reach[n], *known)[0]
            assert found >= _worth(np.linspace(0.0, begin[-1], 500), *known).max() - 1e-9
