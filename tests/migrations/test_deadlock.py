from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from migrations.model import PlanStatus
from migrations.planner import plan
from migrations.verify import verify
from tests.migrations.instances import Change, cluster, random_change


def _exists(change: Change) -> bool:
    """Whether any order of single copies and drops leads to the target: breadth first over all placements."""
    problem = change.problem
    size = problem.column_bytes
    keep = np.minimum(np.minimum(change.source.sum(0), change.target.sum(0)), problem.min_replicas)
    goal = change.target.tobytes()
    seen = {change.source.tobytes()}
    queue = deque([change.source])
    while queue:
        holds = queue.popleft()
        if holds.tobytes() == goal:
            return True
        copies, used = holds.sum(0), holds @ size
        for n in range(problem.nodes):
            for e in range(problem.experts):
                if holds[n, e]:
                    allowed = copies[e] > keep[e]
                else:
                    source = problem.has_origin or copies[e] > 0
                    allowed = source and used[n] + size[e] <= problem.capacity_bytes[n]
                if not allowed:
                    continue
                after = holds.copy()
                after[n, e] ^= 1
                if after.tobytes() not in seen:
                    seen.add(after.tobytes())
                    queue.append(after)
    return False


@pytest.mark.parametrize("origin", [False, True])
@pytest.mark.parametrize("equal_sizes", [False, True])
def test_the_planner_finds_a_plan_exactly_where_one_exists(origin: bool, equal_sizes: bool) -> None:
    """On small full clusters the planner agrees with an exhaustive search, and claims no proof it lacks."""
    rng = np.random.default_rng(11)
    found = impossible = tried = 0
    while tried < 60:
        change = random_change(
            rng,
            nodes=int(rng.integers(2, 4)),
            blocks=2,
            experts=2,
            copies=float(rng.choice([1.0, 1.2, 1.5])),
            fill=1.0,
            origin=origin,
            min_replicas=int(rng.integers(0 if origin else 1, 3)),
            equal_sizes=equal_sizes,
        )
        if change is None:
            continue
        tried += 1
        made = plan(change.problem, change.source, change.target)
        exists = _exists(change)
        assert (made.status is PlanStatus.OK) == exists, made.reason
        if exists:
            assert verify(change.problem, change.source, change.target, made) == ()
            found += 1
        else:
            assert made.reason is not None
            assert "no order of moves exists" in made.reason
            impossible += 1
    assert found > 20
    assert impossible > 0 or (origin or not equal_sizes)


def test_a_ring_of_full_nodes_turns_through_one_free_place() -> None:
    """Sixteen full nodes hand their expert on in a ring; one free place somewhere is enough."""
    nodes = 16
    source = np.vstack([np.eye(nodes, dtype=np.uint8), np.zeros((1, nodes), np.uint8)])
    target = np.vstack([np.roll(np.eye(nodes, dtype=np.uint8), 1, axis=1), np.zeros((1, nodes), np.uint8)])
    change = cluster([10] * (nodes + 1), source.tolist(), target.tolist())
    made = plan(change.problem, change.source, change.target)
    assert verify(change.problem, change.source, change.target, made) == ()
    assert made.estimate.bytes == 10 * (nodes + 1)


def test_a_large_expert_takes_the_place_of_small_ones() -> None:
    """Room for one large expert is made by moving several small ones away first."""
    change = cluster(
        [20, 20, 20],
        [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]],
        [[0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]],
        sizes=[10, 10, 20, 10],
    )
    made = plan(change.problem, change.source, change.target)
    assert verify(change.problem, change.source, change.target, made) == ()


def test_devices_are_laid_out_anew_where_that_makes_room() -> None:
    """Two small experts on two devices give way to a large one once both stand on the same device."""
    change = cluster([20, 20], [[1, 1, 0], [0, 0, 1]], [[1, 1, 1], [0, 0, 1]], sizes=[5, 5, 10])
    problem = change.problem.replace(
        device_node=np.array([0, 0, 1], np.int32), device_capacity_bytes=np.array([10, 10, 20])
    )
    made = plan(problem, change.source, change.target)
    assert made.status is PlanStatus.OK, made.reason
    assert verify(problem, change.source, change.target, made) == ()
    assert len(made.moves) == 1


def test_a_cluster_too_large_to_search_says_that_it_gave_up() -> None:
    """Where not every order was tried, the reason does not claim that none exists."""
    experts = 2100
    source = np.zeros((2, experts), np.uint8)
    source[0, : experts // 2] = 1
    source[1, experts // 2 :] = 1
    capacity = [10 * experts // 2] * 2
    change = cluster(capacity, source.tolist(), (1 - source).tolist())
    made = plan(change.problem, change.source, change.target)
    assert made.status is PlanStatus.INFEASIBLE
    assert made.reason is not None
    assert "though one may exist" in made.reason
    assert "node 0 lacks 10 bytes" in made.reason
