from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrations.diff import difference
from migrations.earliest import earliest, receiving_seconds
from migrations.model import Limits, PlanStatus
from migrations.planner import plan
from migrations.timing import copy_rates
from tests.migrations.instances import Change, changes, cluster, unlike_links


def _bound(change: Change, limits: Limits | None = None) -> float:
    limits = Limits() if limits is None else limits
    apart = difference(change.problem, change.source, change.target)
    rates = copy_rates(change.problem, limits)
    return receiving_seconds(change.problem, apart, limits, rates, earliest(change.problem, apart, rates))


def test_an_expert_that_only_the_origin_has_takes_as_long_as_its_link() -> None:
    """A quarter of the origin's slow egress, into a node whose own link is fast, bounds the plan."""
    change = cluster([20, 20], [[1, 0], [1, 0]], [[1, 1], [1, 0]], origin=True, min_replicas=0)
    change = Change(change.problem.replace(origin_egress_bytes_per_second=1.0), change.source, change.target)
    assert _bound(change) == pytest.approx(40.0)
    assert plan(change.problem, change.source, change.target).estimate.seconds == pytest.approx(40.0)


def test_a_full_node_waits_for_the_copy_that_lets_it_drop() -> None:
    """Node 1 has no room until its only expert is on node 0: the two copies come one after the other."""
    change = cluster([20, 10, 10], [[0, 0], [1, 0], [0, 1]], [[1, 0], [0, 1], [0, 1]], bandwidth=1.0)
    assert _bound(change) == pytest.approx(20.0)
    assert plan(change.problem, change.source, change.target).estimate.seconds == pytest.approx(20.0)


def test_a_copy_from_afar_counts_for_its_receiver_or_comes_late() -> None:
    """Node 1 misses two experts, one of which only a slow sender has. Either the slow copy takes its whole
    time, or it comes through node 0 later: both take more than two copies at the node's pace."""
    change = cluster([30, 30, 30], [[0, 1], [0, 0], [1, 0]], [[0, 1], [1, 1], [1, 0]])
    problem = change.problem.replace(
        ingress_bytes_per_second=np.array([100.0, 1.0, 100.0]),
        egress_bytes_per_second=np.array([100.0, 100.0, 0.5]),
    )
    change = Change(problem, change.source, change.target)
    assert _bound(change) == pytest.approx(30.0)
    assert plan(problem, change.source, change.target).estimate.seconds == pytest.approx(30.0)


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    change=changes(),
    seed=st.integers(0, 2**32),
    receives=st.integers(1, 3),
    sends=st.integers(1, 2),
)
def test_no_plan_is_faster_than_its_bound(change: Change, seed: int, receives: int, sends: int) -> None:
    """Over links of 1 to a million bytes a second, whatever the caps, the bound stays below every plan."""
    change = unlike_links(change, np.random.default_rng(seed))
    limits = Limits(max_receives=receives, max_sends=sends)
    made = plan(change.problem, change.source, change.target, limits=limits)
    if made.status is PlanStatus.OK and made.moves:
        assert _bound(change, limits) <= made.estimate.seconds * (1 + 1e-9)
