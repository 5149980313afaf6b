"""The packing rule against trying every assignment, and the violations in words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.feasible.packing import fits, pack, packable_bytes, packs_within_bytes
from solvers.feasible.violations import shortfalls
from solvers.kernels.packing import fill_in_order
from solvers.problem import PlacementProblem
from tests.oracles.instances import random_holds, random_problem
from tests.oracles.placements import feasible_placements, packs


def _node(sizes: list[int], devices: list[int]) -> PlacementProblem:
    """One node, one block per expert."""
    return PlacementProblem(
        expert_bytes=np.array(sizes),
        experts_per_block=np.ones(len(sizes), np.int64),
        capacity_bytes=np.array([sum(devices)]),
        latency_seconds=np.array([[1.0]]),
        origin_latency_seconds=np.array([np.inf]),
        route_node=np.zeros(0, np.int32),
        route_block=np.zeros(0, np.int32),
        route_experts=np.zeros((0, 1), np.int32),
        route_rate=np.zeros(0),
        device_node=np.zeros(len(devices), np.int32),
        device_capacity_bytes=np.array(devices),
    )


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.lists(st.integers(0, 14), min_size=1, max_size=3),
)
@settings(max_examples=300)
def test_packs_exactly_what_can_be_packed(sizes: list[int], devices: list[int]) -> None:
    """None exactly where no assignment fits; what is returned respects every device."""
    problem = _node(sizes, devices)
    columns = np.arange(len(sizes))
    found = pack(problem, 0, columns)
    assert (found is not None) == packs(sizes, devices)
    assert fits(problem, np.ones((1, len(sizes)), np.uint8)) == (found is not None)
    if found is not None:
        used = np.bincount(found, weights=sizes, minlength=len(devices))
        assert (used <= devices).all()
        again = pack(problem, 0, columns)
        assert again is not None
        assert found.tolist() == again.tolist()


def test_largest_first_onto_the_roomiest() -> None:
    """The rule itself, by hand: 5 to the device of 9, 4 to that of 8, 3 and 1 to where more is free."""
    found = pack(_node([1, 5, 3, 4], [8, 9]), 0, np.arange(4))
    assert found is not None
    assert found.tolist() == [1, 1, 0, 0]


def test_the_rule_alone_would_refuse_this() -> None:
    """Roomiest-first splits 6, 4, 3, 3, 2 badly over 9 and 9; the later rules find 6 + 3 and 4 + 3 + 2."""
    assert pack(_node([6, 4, 3, 3, 2], [9, 9]), 0, np.arange(5)) is not None
    assert pack(_node([5, 5, 5], [9, 9]), 0, np.arange(3)) is None


def test_packable_bytes() -> None:
    """With one size, a device holds whole experts only; a drained node nothing."""
    problem = _node([4, 4, 4], [7, 9])
    assert packable_bytes(problem).tolist() == [12]
    assert packs_within_bytes(problem)
    assert packable_bytes(problem.replace(drained=np.array([1]))).tolist() == [0]
    mixed = _node([4, 5], [7, 9])
    assert packable_bytes(mixed).tolist() == [16]
    assert not packs_within_bytes(mixed)


@given(st.integers(0, 2**32))
@settings(max_examples=200)
def test_shortfalls_are_empty_exactly_for_feasible_placements(seed: int) -> None:
    """The words and the oracle agree on what is feasible."""
    problem = random_problem(seed)
    holds = random_holds(problem, seed)
    feasible = bool((feasible_placements(problem) == holds).all(axis=(1, 2)).any())
    assert (not shortfalls(problem, holds)) == feasible


@pytest.mark.parametrize(
    ("holds", "words"),
    [
        ([[1, 1, 1], [0, 0, 0]], "node 0 holds 12 bytes, its capacity is 8"),
        ([[1, 0, 0], [0, 1, 0]], "1 experts have fewer than 1 replicas, first expert 0 of block 2 with 0"),
        (
            [[0, 0, 1], [1, 1, 0]],
            "1 experts are absent where they are pinned, first expert 0 of block 0 at node 0",
        ),
        (
            [[1, 1, 0], [0, 1, 1]],
            "1 experts are held where they must not be, first expert 0 of block 1 at node 1",
        ),
    ],
)
def test_shortfalls_in_words(holds: list[list[int]], words: str) -> None:
    """Each kind of violation names the first offender."""
    problem = _node([4, 4, 4], [8]).replace(
        capacity_bytes=np.array([8, 8]),
        latency_seconds=np.ones((2, 2)),
        origin_latency_seconds=np.full(2, np.inf),
        device_node=None,
        device_capacity_bytes=None,
        pins=np.array([[1, 0, 0], [0, -1, 0]]),
    )
    assert words in shortfalls(problem, np.array(holds, np.uint8))
    drained = problem.replace(pins=None, drained=np.array([0, 1]))
    assert "node 1 may hold nothing, and holds 1 experts" in shortfalls(
        drained, np.array([[1, 1, 0], [0, 0, 1]], np.uint8)
    )


@pytest.mark.parametrize("seed", range(20))
def test_what_still_fits_in_order(seed: int) -> None:
    """The kernel takes what a loop in plain words takes: each in turn, if it fits into what is left."""
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 9, 30)
    order = rng.permutation(30)[: int(rng.integers(31))]
    room = int(rng.integers(0, size.sum()))
    row = np.zeros(30, np.uint8)
    fill_in_order(order, size, room, row)
    taken: list[int] = []
    for e in order.tolist():
        if sum(int(size[other]) for other in taken) + size[e] <= room:
            taken.append(e)
    assert sorted(taken) == np.flatnonzero(row).tolist()
