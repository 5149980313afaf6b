from __future__ import annotations

import heapq
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrations import allocation
from migrations.allocation import allocate
from migrations.diff import difference
from migrations.estimate import lower_bound_seconds
from migrations.model import ORIGIN, Limits
from migrations.planner import plan
from migrations.timing import copy_rates
from solvers.problem import PlacementProblem
from tests.migrations.instances import Change, changes, cluster

_Copy = tuple[float, int, int, int]  # end, source, node, column


@st.composite
def _tiny(draw: st.DrawFn) -> Change:
    """Three nodes with room for everything, unequal links some of which may be missing, up to three experts
    of unequal sizes, each held somewhere."""
    nodes, experts = 3, draw(st.integers(1, 3))
    latency = np.where(np.eye(nodes, dtype=bool), 0.0, 0.01)
    for m, n in itertools.permutations(range(nodes), 2):
        if draw(st.integers(0, 5)) == 0:
            latency[n, m] = np.inf
    rates = st.lists(st.sampled_from([1.0, 2.0, 4.0, 8.0]), min_size=nodes, max_size=nodes)
    holders = [draw(st.integers(1, 2**nodes - 2)) for _ in range(experts)]
    source = np.array([[mask >> n & 1 for mask in holders] for n in range(nodes)], np.uint8)
    wanted = [draw(st.integers(0, 2**nodes - 1)) for _ in range(experts)]
    target = source | np.array([[mask >> n & 1 for mask in wanted] for n in range(nodes)], np.uint8)
    origin = draw(st.booleans())
    problem = PlacementProblem(
        expert_bytes=np.array([draw(st.sampled_from([4, 8, 12])) for _ in range(experts)]),
        experts_per_block=np.ones(experts, np.int64),
        capacity_bytes=np.full(nodes, 1000),
        latency_seconds=latency,
        origin_latency_seconds=np.full(nodes, 0.1 if origin else np.inf),
        route_node=np.zeros(0, np.int32),
        route_block=np.zeros(0, np.int32),
        route_experts=np.zeros((0, 1), np.int32),
        route_rate=np.zeros(0),
        ingress_bytes_per_second=np.array(draw(rates)),
        egress_bytes_per_second=np.array(draw(rates)),
        origin_egress_bytes_per_second=draw(st.sampled_from([2.0, 4.0])) if origin else None,
    )
    return Change(problem, source, target)


def _optimum(change: Change) -> float:
    """The shortest schedule of any copies, to third nodes as well, by trying every set of copies that may
    start whenever one ends: shortest paths over (what is held, what runs for how much longer)."""
    problem = change.problem
    nodes, size = problem.nodes, problem.column_bytes.tolist()
    rates = copy_rates(problem, Limits())
    possible = [(m, n, e) for m in range(nodes + 1) for n in range(nodes) for e in range(problem.experts)]
    possible = [(m, n, e) for m, n, e in possible if rates[m, n] > 0]
    goal = int("".join(str(bit) for bit in change.target.ravel()), 2)
    cells = change.target.size

    def bit(n: int, e: int) -> int:
        return 1 << cells - 1 - (n * problem.experts + e)

    start = int("".join(str(value) for value in change.source.ravel()), 2)
    queue: list[tuple[float, int, tuple[_Copy, ...]]] = [(0.0, start, ())]
    best: dict[tuple[int, tuple[_Copy, ...]], float] = {}
    while queue:
        now, held, running = heapq.heappop(queue)
        if held & goal == goal:
            return now
        key = (held, tuple((round(end - now, 9), m, n, e) for end, m, n, e in running))
        if best.get(key, np.inf) <= now:
            continue
        best[key] = now
        able = [
            (m, n, e)
            for m, n, e in possible
            if (m == nodes or held & bit(m, e)) and not held & bit(n, e)
            and all(n != other for _, _, other, _ in running)
            and (m == nodes or all(m != other for _, other, _, _ in running))
        ]  # fmt: skip
        for count in range(min(len(able), nodes) + 1):
            for begun in itertools.combinations(able, count):
                senders = [m for m, _, _ in begun if m != nodes]
                if len({n for _, n, _ in begun}) < count or len(set(senders)) < len(senders):
                    continue
                after = [*running, *((now + size[e] / rates[m, n], m, n, e) for m, n, e in begun)]
                if not after:
                    continue
                end = min(after)[0]
                landed = held
                for over, _, n, e in after:
                    if over <= end + 1e-12:
                        landed |= bit(n, e)
                left = tuple(sorted(copy for copy in after if copy[0] > end + 1e-12))
                heapq.heappush(queue, (float(end), landed, left))
    return float("inf")


@settings(max_examples=100)
@given(change=_tiny())
def test_no_schedule_of_a_tiny_cluster_beats_the_bound(change: Change) -> None:
    """The bound is at most the true optimum, found by trying every schedule, third nodes included; also where
    of all experts, as in large fleets, or of those that several nodes miss, the last steps alone count."""
    change_ = difference(change.problem, change.source, change.target)
    optimum = _optimum(change)
    assert allocate(change.problem, change_, Limits()).bound_seconds <= optimum * (1 + 1e-9)
    for limit, value in (("_MANY_NODES", 0), ("_WORK", 60.0)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(allocation, limit, value)
            assert allocate(change.problem, change_, Limits()).bound_seconds <= optimum * (1 + 1e-9)
    assert lower_bound_seconds(change.problem, change_, Limits()) <= optimum * (1 + 1e-9)


@settings(max_examples=25)
@given(change=changes(), receives=st.integers(1, 3), sends=st.integers(1, 3))
def test_an_allocation_gives_every_missing_copy_one_sender(change: Change, receives: int, sends: int) -> None:
    """Each node is sent what it misses, and nothing else, from nodes that hold it or are sent it by others
    before; the busiest link is no less busy than the bound says."""
    limits = Limits(max_receives=receives, max_sends=sends)
    problem = change.problem
    found = difference(problem, change.source, change.target)
    shared = allocate(problem, found, limits)
    np.testing.assert_array_equal(shared.sender >= 0, found.missing)
    for n, column in np.argwhere(found.missing).tolist():
        passed = {n}
        while (m := int(shared.sender[n, column])) != problem.nodes and not change.source[m, column]:
            assert m not in passed
            passed.add(m)
            n = m
    assert shared.seconds >= shared.bound_seconds * (1 - 1e-9)


def test_a_slow_sender_is_spared() -> None:
    """Of two holders, one four times as fast, the fast one is given most of what both could send, to the
    copy, and the bound is what both can send together."""
    experts = 40
    change = cluster(
        [10 * experts] * 4,
        [[1] * experts, [1] * experts, [0] * experts, [0] * experts],
        [[1] * experts, [1] * experts, [1] * (experts // 2) + [0] * (experts // 2),
         [0] * (experts // 2) + [1] * (experts // 2)],
    )  # fmt: skip
    problem = change.problem.replace(egress_bytes_per_second=np.array([10.0, 40.0, 1e-3, 1e-3]),
                                     ingress_bytes_per_second=np.full(4, 25.0))  # fmt: skip
    found = difference(problem, change.source, change.target)
    shared = allocate(problem, found, Limits())
    # 400 bytes at 10 and at 25 bytes/s: 400 / 35 s.
    assert shared.bound_seconds == pytest.approx(400 / 35, rel=0.06)
    assert shared.seconds == pytest.approx(400 / 35, rel=0.02)
    assert [(shared.sender == m).sum() for m in range(5)] == [11, 29, 0, 0, 0]
    made = plan(problem, change.source, change.target)
    assert made.estimate.seconds <= 1.25 * made.estimate.lower_bound_seconds
    assert all(move.source in (0, 1) for move in made.moves if move.source != ORIGIN)


def test_a_copy_that_must_pass_through_a_third_node_is_not_shared() -> None:
    """Where no holder is in reach of the node that misses the expert, there is nothing to share."""
    change = cluster([10, 10, 10], [[1], [0], [0]], [[1], [0], [1]])
    latency = change.problem.latency_seconds.copy()
    latency[2, 0] = np.inf
    problem = change.problem.replace(latency_seconds=latency)
    shared = allocate(problem, difference(problem, change.source, change.target), Limits())
    assert (shared.bound_seconds, shared.seconds, shared.sender.max()) == (0.0, 0.0, -1)
