from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrations.diff import difference
from migrations.estimate import lower_bound_seconds
from migrations.model import Limits, PlanStatus
from migrations.planner import plan
from migrations.timing import DEFAULT_BYTES_PER_SECOND, copy_rates
from tests.migrations.instances import Change, changes, cluster


def _bound(change: Change, limits: Limits | None = None) -> float:
    found = difference(change.problem, change.source, change.target)
    return lower_bound_seconds(change.problem, found, limits or Limits())


@settings(max_examples=100)
@given(
    change=changes(),
    receives=st.integers(1, 3),
    sends=st.integers(1, 3),
    most=st.none() | st.integers(1, 4),
)
def test_no_schedule_beats_the_bound(change: Change, receives: int, sends: int, most: int | None) -> None:
    """Every plan takes at least the bound, under any limits."""
    limits = Limits(max_receives=receives, max_sends=sends, max_copies=most)
    made = plan(change.problem, change.source, change.target, limits=limits)
    if made.status is PlanStatus.OK:
        assert made.estimate.seconds >= _bound(change, limits) * (1 - 1e-9)


def test_a_receiver_is_bound_by_its_ingress() -> None:
    """Three experts of 10 bytes into one node at 10 bytes/s take three seconds, from however many senders."""
    change = cluster(
        [10, 10, 10, 30],
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]],
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]],
    )
    assert _bound(change) == pytest.approx(3.0)


def test_the_only_holder_is_bound_by_its_egress() -> None:
    """Three experts that one node alone holds leave it one after another, to however many receivers."""
    change = cluster(
        [30, 10, 10, 10],
        [[1, 1, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]],
        [[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]],
    )
    assert _bound(change) == pytest.approx(3.0)


def test_the_origin_is_bound_by_its_egress() -> None:
    """Eight experts that only the origin has take two turns of its four slots."""
    nodes = 8
    change = cluster([10] * nodes, [[0] * nodes] * nodes, np.eye(nodes, dtype=int).tolist(), origin=True)
    assert _bound(change) == pytest.approx(2.0)
    made = plan(change.problem, change.source, change.target)
    assert made.estimate.seconds == pytest.approx(2.0)


def test_an_expert_spreads_no_faster_than_it_doubles() -> None:
    """From one holder to sixteen takes four rounds; two sends at once, at half the rate, are no faster."""
    nodes = 16
    change = cluster([10] * nodes, [[1]] + [[0]] * (nodes - 1), [[1]] * nodes)
    assert _bound(change) == pytest.approx(4.0)
    assert _bound(change, Limits(max_sends=2)) == pytest.approx(6.0)


def test_the_cap_of_the_cluster_counts() -> None:
    """Four copies to four nodes, one at a time in the whole cluster, take four seconds."""
    holds = np.vstack([np.eye(4, dtype=int), np.zeros((4, 4), dtype=int)])
    target = np.vstack([np.eye(4, dtype=int), np.eye(4, dtype=int)])
    change = cluster([10] * 8, holds.tolist(), target.tolist())
    assert _bound(change) == pytest.approx(1.0)
    assert _bound(change, Limits(max_copies=1)) == pytest.approx(4.0)


def test_little_free_room_lets_few_copies_run() -> None:
    """Six full nodes that turn their experts in a ring through one free place copy one after the other."""
    ring = np.vstack([np.eye(6, dtype=int), np.zeros((1, 6), dtype=int)])
    turned = np.vstack([np.roll(np.eye(6, dtype=int), 1, axis=1), np.zeros((1, 6), dtype=int)])
    assert _bound(cluster([10] * 7, ring.tolist(), turned.tolist())) == pytest.approx(6.0)
    assert _bound(cluster([20] * 7, ring.tolist(), turned.tolist())) == pytest.approx(1.0)


def test_nothing_to_copy_takes_no_time() -> None:
    """Drops alone take no time."""
    change = cluster([10, 10], [[1], [1]], [[1], [0]])
    assert _bound(change) == 0.0


def test_what_cannot_be_copied_takes_for_ever() -> None:
    """An expert that nobody has and no origin gives has an infinite bound."""
    assert _bound(cluster([10, 10], [[0], [0]], [[1], [0]])) == np.inf


def test_rates_follow_links_and_shares() -> None:
    """A copy runs at the smaller bandwidth; slots share a link; what cannot be reached has rate zero."""
    change = cluster([10, 10, 10], [[1], [0], [0]], [[1], [1], [0]], origin=True)
    latency = change.problem.latency_seconds.copy()
    latency[2, 0] = np.inf
    problem = change.problem.replace(
        egress_bytes_per_second=np.array([4.0, 8.0, 16.0]),
        ingress_bytes_per_second=np.array([16.0, 6.0, 2.0]),
        origin_egress_bytes_per_second=20.0,
        latency_seconds=latency,
        origin_latency_seconds=np.array([0.1, np.inf, 0.1]),
    )
    expected = [[0, 4, 0], [8, 0, 2], [16, 6, 0], [5, 0, 2]]
    np.testing.assert_array_equal(copy_rates(problem, Limits()), expected)
    halved = copy_rates(problem, Limits(max_sends=2, origin_max_sends=1))
    np.testing.assert_array_equal(halved, [[0, 2, 0], [4, 0, 2], [8, 6, 0], [16, 0, 2]])
    # Without any bandwidth given, each link has the documented default.
    silent = problem.replace(
        egress_bytes_per_second=None, ingress_bytes_per_second=None, origin_egress_bytes_per_second=None
    )
    rates = copy_rates(silent, Limits())
    assert rates[0, 1] == DEFAULT_BYTES_PER_SECOND
    assert rates[3, 0] == DEFAULT_BYTES_PER_SECOND / 4
