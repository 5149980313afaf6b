"""Routes sorted and merged, and the criteria that stop a search."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers import chunks
from solvers.problem import Coupling
from solvers.stopping import FirstOf, MaxRuntime, never
from solvers.traffic import compile_traffic
from tests.oracles.instances import random_problem


@given(st.integers(0, 2**32), st.integers(0, 60), st.booleans())
@settings(max_examples=150)
def test_merging_keeps_every_rate(seed: int, routes: int, threads: bool) -> None:
    """Per (node, block, set) the rates add up to the same; each set appears once; zero rates are gone; in one
    go or on several threads."""
    blocks = [3, 2, 1, 3, 2] if threads else [3, 2]
    problem = random_problem(seed, Coupling.SLOWEST, nodes=3, blocks=blocks, routes=routes)
    expected: dict[tuple[int, int, frozenset[int]], float] = {}
    for r in range(problem.routes):
        if problem.route_rate[r] > 0:
            experts = frozenset(int(e) for e in problem.route_experts[r] if e >= 0)
            key = (int(problem.route_node[r]), int(problem.route_block[r]), experts)
            expected[key] = expected.get(key, 0.0) + float(problem.route_rate[r])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "_LEAST_WORK", 0 if threads else 10**9)
        traffic = compile_traffic(problem)
    found: dict[tuple[int, int, frozenset[int]], float] = {}
    activity = np.zeros((3, problem.experts))
    for b in range(problem.blocks):
        for r in range(traffic.start[b], traffic.start[b + 1]):
            row = traffic.experts[r]
            count = int((row >= 0).sum())
            assert (row[count:] == -1).all()
            key = (int(traffic.node[r]), b, frozenset(row[:count].tolist()))
            assert key not in found
            found[key] = float(traffic.rate[r])
            activity[traffic.node[r], problem.block_offset[b] + row[:count]] += traffic.rate[r]
    assert found == pytest.approx(expected)
    np.testing.assert_allclose(traffic.activity, activity)


@given(st.integers(0, 2**32), st.integers(0, 60), st.booleans())
@settings(max_examples=100)
def test_under_sum_routes_are_single_calls(seed: int, routes: int, threads: bool) -> None:
    """Per node, block and expert the rates add up to the same, each in a route of its own."""
    problem = random_problem(seed, Coupling.SUM, nodes=3, blocks=[3, 2], routes=routes)
    expected = np.zeros((3, problem.experts))
    for r in range(problem.routes):
        for e in problem.route_experts[r]:
            if e >= 0:
                column = problem.block_offset[problem.route_block[r]] + e
                expected[problem.route_node[r], column] += problem.route_rate[r]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "_LEAST_WORK", 0 if threads else 10**9)
        traffic = compile_traffic(problem)
    np.testing.assert_allclose(traffic.activity, expected)
    assert traffic.experts.shape[1] == 1
    found = np.zeros_like(expected)
    block = np.repeat(np.arange(problem.blocks), np.diff(traffic.start))
    np.add.at(found, (traffic.node, problem.block_offset[block] + traffic.experts[:, 0]), traffic.rate)
    np.testing.assert_allclose(found, expected)
    assert len(traffic.rate) == (expected > 0).sum()


def test_criteria() -> None:
    """A limit of zero has passed, a long one has not, and the first of several decides."""
    assert not never()
    assert MaxRuntime(0.0)()
    assert not MaxRuntime(3600.0)()
    assert FirstOf((never, MaxRuntime(0.0)))()
    assert not FirstOf((never, never))()
    with pytest.raises(ValueError, match="seconds: is nan"):
        MaxRuntime(float("nan"))
