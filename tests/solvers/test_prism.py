"""The two stages of activation-aware placement, and when it moves anything."""

import itertools
from typing import Any

import numpy as np
import pytest

from solvers.cost.evaluate import total_cost
from solvers.feasible.violations import shortfalls
from solvers.heuristics.prism import balanced_devices, cover, entropy_slots, most_frequent, prism
from solvers.problem import Coupling, PlacementProblem
from solvers.traffic import compile_traffic
from tests.oracles.instances import random_problem


def _problem(calls: Any, capacity: list[int], **changes: Any) -> PlacementProblem:
    """Unit experts; calls[n][b][e] per second, one expert each; everything must be held somewhere."""
    node, block, expert, rate = [], [], [], []
    for n, b in itertools.product(range(len(calls)), range(len(calls[0]))):
        for e, r in enumerate(calls[n][b]):
            node.append(n)
            block.append(b)
            expert.append([e])
            rate.append(float(r))
    nodes = len(calls)
    values: dict[str, Any] = {
        "expert_bytes": np.ones(len(calls[0]), np.int64),
        "experts_per_block": np.array([len(block) for block in calls[0]]),
        "capacity_bytes": np.array(capacity),
        "latency_seconds": np.where(np.eye(nodes) == 1, 1.0, 3.0),
        "origin_latency_seconds": np.full(nodes, 9.0),
        "route_node": np.array(node),
        "route_block": np.array(block),
        "route_experts": np.array(expert),
        "route_rate": np.array(rate),
        "coupling": Coupling.SUM,
    }
    return PlacementProblem(**(values | changes))


def test_slots_follow_entropy() -> None:
    """A block called evenly over four experts has twice the entropy of one over two: slots 4 to 2; a block
    always called the same way gets none of them."""
    calls = [[[1, 1, 1, 1, 0, 0, 0, 0], [5, 5, 0, 0, 0, 0, 0, 0], [9, 0, 0, 0, 0, 0, 0, 0]]]
    problem = _problem(calls, [6], min_replicas=0)
    assert entropy_slots(problem, compile_traffic(problem)).tolist() == [[4, 2, 0]]
    full = problem.replace(capacity_bytes=[22])
    assert entropy_slots(full, compile_traffic(full)).tolist() == [[8, 8, 6]]
    idle = problem.replace(route_rate=np.zeros(problem.routes))
    assert entropy_slots(idle, compile_traffic(idle)).tolist() == [[2, 2, 2]]


def test_slots_of_unequal_sizes_fill_the_memory() -> None:
    """With equal entropies the numbers of slots are equal, not the bytes; what is left serves who fits."""
    problem = _problem([[[1] * 8, [1] * 8]], [17], expert_bytes=[1, 3], min_replicas=0)
    assert entropy_slots(problem, compile_traffic(problem)).tolist() == [[5, 4]]


def test_slots_move_to_blocks_that_cannot_be_covered() -> None:
    """A block with fewer slots in all than experts takes them from one with more than it needs, on the larger
    node first."""
    calls = [[[1, 1, 1, 1], [9, 0, 0, 0]], [[1, 1, 1, 1], [9, 0, 0, 0]]]
    problem = _problem(calls, [5, 3])
    slots = entropy_slots(problem, compile_traffic(problem))
    assert slots.sum(axis=0).tolist() == [4, 4]
    assert slots.tolist() == [[1, 4], [3, 0]]


def test_nodes_take_what_they_call_most() -> None:
    """With given counts no choice of experts has more local hits."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        calls = rng.integers(0, 50, (2, 2, 4))
        problem = _problem(calls, [4, 4])
        slots = rng.integers(0, 5, (2, 2))
        holds = most_frequent(problem, compile_traffic(problem), slots)
        for n, b in itertools.product(range(2), range(2)):
            hits = [sum(calls[n, b, list(c)]) for c in itertools.combinations(range(4), int(slots[n, b]))]
            assert calls[n, b][holds[n, 4 * b : 4 * b + 4] == 1].sum() == max(hits)


def test_repair_by_hand() -> None:
    """Both nodes hold the same two experts; the node with most to spare drops the one it calls least for the
    missing one it calls most, one step per missing expert."""
    calls = [[[9, 8, 2, 1]], [[9, 3, 0, 2]]]
    problem = _problem(calls, [2, 2])
    traffic = compile_traffic(problem)
    holds = most_frequent(problem, traffic, np.array([[2], [2]]))
    assert holds.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]
    assert cover(problem, traffic, holds) == 2
    # node 0 first (a tie): drops 1, takes 2; then 0 is to spare on both: node 0 drops it for 3
    assert holds.tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize("replicas", [1, 2])
def test_repair_covers_whenever_the_slots_allow(replicas: int) -> None:
    """On random traffic: coverage and memory hold, in as many steps as replicas were missing."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        calls = rng.pareto(1.0, (3, 2, 6))
        problem = _problem(
            calls, [4 + 4 * replicas + int(rng.integers(3)) for _ in range(3)], min_replicas=replicas
        )
        traffic = compile_traffic(problem)
        slots = entropy_slots(problem, traffic)
        holds = most_frequent(problem, traffic, slots)
        missing = int(np.maximum(0, replicas - holds.sum(axis=0, dtype=np.int64)).sum())
        assert cover(problem, traffic, holds) == missing
        assert not shortfalls(problem, holds)
        assert (holds.reshape(3, 2, 6).sum(axis=2) == slots).all()


def test_nothing_moves_without_new_statistics() -> None:
    """The same statistics again, with its own placement in force: that placement; with others, a move is made
    only where it pays within the horizon."""
    for seed in range(30):
        problem = random_problem(seed, nodes=3, blocks=[4, 3], origin="all", extras=False, slack=1.4)
        problem = problem.replace(min_replicas=1, ingress_bytes_per_second=np.ones(3))
        first = prism(problem, compile_traffic(problem))
        again = problem.replace(current=first, horizon_seconds=10.0)
        assert (prism(again, compile_traffic(again)) == first).all()
        changed = again.replace(route_node=(problem.route_node + 1) % 3)
        for horizon in (1e-6, 1.0, 1e9):
            moving = changed.replace(horizon_seconds=horizon)
            found = prism(moving, compile_traffic(moving))
            moved = bool((found != first).any())
            assert total_cost(moving, found) <= total_cost(moving, first)
            assert not moved or total_cost(moving, found) < total_cost(moving, first)
            assert not (moved and horizon == 1e-6)
        full = problem.replace(current=np.ones((3, 7), np.uint8), horizon_seconds=1e-6)
        assert not shortfalls(full, prism(full, compile_traffic(full)))


def test_devices_share_the_calls() -> None:
    """Equal experts on equal devices: by turns, the most called first, to the device called least."""
    problem = _problem(
        [[[8, 7, 4, 1, 0, 0]]],
        [4],
        device_node=[0, 0],
        device_capacity_bytes=[2, 2],
        min_replicas=0,
    )
    traffic = compile_traffic(problem)
    columns = np.arange(4)
    shared = balanced_devices(problem, traffic, 0, columns)
    assert shared is not None
    assert shared.tolist() == [0, 1, 1, 0]
    assert balanced_devices(problem, traffic, 0, np.arange(5)) is None
    # largest first onto the roomiest does not fit here; the packing rule's own order does
    uneven = _problem(
        [[[1, 1], [1, 1, 1]]],
        [12],
        expert_bytes=[3, 2],
        device_node=[0, 0],
        device_capacity_bytes=[6, 6],
        min_replicas=0,
    )
    devices = balanced_devices(uneven, compile_traffic(uneven), 0, np.arange(5))
    assert devices is not None
    assert np.bincount(devices, weights=uneven.column_bytes).tolist() == [6.0, 6.0]
