"""What each baseline is, on instances where it can be told by hand."""

from typing import Any

import numpy as np

from solvers.feasible.violations import shortfalls
from solvers.heuristics.eplb import eplb, smartmoe
from solvers.heuristics.popularity import global_popularity, local_popularity, random, redundance, uniform
from solvers.params import EplbParams
from solvers.problem import PlacementProblem
from solvers.traffic import compile_traffic


def _problem(calls: Any, capacity: list[int], **changes: Any) -> PlacementProblem:
    """One block of unit experts; calls[n, e] per second, one expert each; an origin, so nothing must be
    held."""
    rate = np.array(calls, float)
    node, expert = np.indices(rate.shape).reshape(2, -1)
    nodes, experts = rate.shape
    values: dict[str, Any] = {
        "expert_bytes": np.array([1]),
        "experts_per_block": np.array([experts]),
        "capacity_bytes": np.array(capacity),
        "latency_seconds": np.where(np.eye(nodes) == 1, 1.0, 3.0),
        "origin_latency_seconds": np.full(nodes, 9.0),
        "route_node": node.astype(np.int32),
        "route_block": np.zeros(len(node), np.int32),
        "route_experts": expert[:, None].astype(np.int32),
        "route_rate": rate.reshape(-1),
        "min_replicas": 0,
    }
    return PlacementProblem(**(values | changes))


def test_uniform_goes_round() -> None:
    """Each expert once, node after node, skipping the full ones."""
    problem = _problem(np.ones((3, 5)), [2, 1, 9])
    holds = uniform(problem, compile_traffic(problem))
    assert holds.tolist() == [[1, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 1]]
    twice = problem.replace(min_replicas=2, capacity_bytes=np.array([4, 4, 4]))
    assert (uniform(twice, compile_traffic(twice)).sum(axis=0) == 2).all()


def test_local_popularity_takes_its_own_favourites() -> None:
    """Each node its most called experts; coverage then displaces a duplicate, the least useful one."""
    calls = [[9, 5, 1, 0], [8, 6, 0, 1]]
    problem = _problem(calls, [2, 2])
    assert local_popularity(problem, compile_traffic(problem)).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]
    covered = problem.replace(min_replicas=1)
    holds = local_popularity(covered, compile_traffic(covered))
    assert holds.sum(axis=0).tolist() == [1, 1, 1, 1]
    assert holds.sum(axis=1).tolist() == [2, 2]


def test_eplb_replicates_the_hottest_and_balances() -> None:
    """The expert with the largest load per replica gets the spare slots, no node holds one twice, and
    replicas go, largest load first, to the node with the least load."""
    calls = np.array([[8, 4, 2, 2, 0, 0], [8, 0, 2, 2, 4, 0]])
    problem = _problem(calls, [4, 4])
    holds = eplb(problem, compile_traffic(problem), EplbParams())
    load = calls.sum(axis=0)
    replicas = holds.sum(axis=0)
    assert replicas.sum() == 8
    assert replicas[0] == 2
    assert (replicas >= 1).all()
    carried = holds @ (load / replicas)
    # 8 each, 4 each, 4 to the first; the two halves of a 4 must part; the idle expert takes the last slot
    assert carried.tolist() == [18.0, 14.0]


def test_eplb_is_blind_to_who_calls() -> None:
    """Swapping the traffic of the nodes changes nothing: only total load counts."""
    calls = np.random.default_rng(0).integers(1, 50, (2, 8))
    problem, swapped = _problem(calls, [6, 6]), _problem(calls[::-1], [6, 6])
    first = eplb(problem, compile_traffic(problem), EplbParams())
    assert (first == eplb(swapped, compile_traffic(swapped), EplbParams())).all()


def test_eplb_splits_memory_over_blocks() -> None:
    """With several blocks each node's slots are shared out evenly, and no byte is left while an expert would
    fit."""
    problem = _problem(
        np.ones((2, 4)),
        [6, 7],
        expert_bytes=np.array([1, 1]),
        experts_per_block=np.array([4, 4]),
    )
    holds = eplb(problem, compile_traffic(problem), EplbParams())
    per_block = holds.reshape(2, 2, 4).sum(axis=2)
    assert per_block.sum(axis=1).tolist() == [6, 7]
    assert per_block.min() >= 3


def test_eplb_hierarchical_keeps_groups_together() -> None:
    """Two pairs of nodes, four groups of two experts: the groups go by load to the pair with less of it, no
    expert is held by both pairs, and each pair replicates its own hottest."""
    calls = np.array([[9, 9, 1, 1, 5, 5, 6, 6]] * 4)
    problem = _problem(calls, [3, 3, 3, 3])
    holds = eplb(problem, compile_traffic(problem), EplbParams(node_groups=2, expert_groups=4))
    left, right = holds[:2].any(axis=0), holds[2:].any(axis=0)
    assert left.tolist() == [True, True, True, True, False, False, False, False]
    assert right.tolist() == [False, False, False, False, True, True, True, True]
    assert holds.sum(axis=0).tolist() == [2, 2, 1, 1, 1, 1, 2, 2]
    hot = _problem(np.array([[90, 9, 1, 1, 5, 5, 6, 6]] * 4), [3, 3, 3, 3])
    flat = eplb(hot, compile_traffic(hot), EplbParams())
    assert (flat[:2].any(axis=0) & flat[2:].any(axis=0)).any()


def test_smartmoe_balances_without_replicas() -> None:
    """Each expert once, largest load to the node with the least, as far as the slots go."""
    calls = np.array([[8, 7, 5, 4, 1, 0]])
    problem = _problem(np.vstack((calls, calls)), [4, 4])
    holds = smartmoe(problem, compile_traffic(problem))
    assert (holds.sum(axis=0) == 1).all()
    assert sorted((holds @ calls[0]).tolist()) == [12, 13]


def test_global_popularity_has_one_ranking() -> None:
    """All nodes hold a prefix of the same ranking, whoever calls."""
    problem = _problem([[9, 0, 3, 0], [0, 8, 3, 0]], [1, 3])
    assert global_popularity(problem, compile_traffic(problem)).tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]


def test_redundance_fills_what_uniform_leaves() -> None:
    """First everything once, then the most called experts where most memory is free."""
    problem = _problem([[9, 5, 1, 0], [0, 0, 1, 0]], [3, 4], min_replicas=1)
    traffic = compile_traffic(problem)
    base, holds = uniform(problem, traffic), redundance(problem, traffic)
    assert (holds >= base).all()
    assert holds.sum(axis=0).tolist() == [2, 2, 2, 1]


def test_redundance_and_random_use_every_device() -> None:
    """Two sizes on several devices: replicas are added only where they pack, and until none does."""
    problem = _problem(
        np.zeros((2, 3)),
        [9, 9],
        expert_bytes=np.array([3, 2]),
        experts_per_block=np.array([3, 3]),
        device_node=np.array([0, 0, 1]),
        device_capacity_bytes=np.array([5, 4, 9]),
        route_rate=np.ones(6),
        min_replicas=1,
    )
    traffic = compile_traffic(problem)
    for holds in (redundance(problem, traffic), random(problem, traffic, np.random.default_rng(1))):
        assert not shortfalls(problem, holds)
        for node, column in np.argwhere(holds == 0):
            more = holds.copy()
            more[node, column] = 1
            if traffic.activity.sum(axis=0)[column] > 0:
                assert shortfalls(problem, more)


def test_random_depends_on_the_seed_alone() -> None:
    """The same generator state, the same placement; other seeds, others."""
    problem = _problem(np.ones((3, 6)), [3, 3, 3])
    traffic = compile_traffic(problem)
    found = [random(problem, traffic, np.random.default_rng(seed)) for seed in (0, 0, 1, 2)]
    assert (found[0] == found[1]).all()
    assert any((found[0] != other).any() for other in found[2:])
    assert all((holds.sum(axis=1) == 3).all() for holds in found)
