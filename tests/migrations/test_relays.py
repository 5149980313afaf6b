from __future__ import annotations

import numpy as np
import pytest

from benchmarks.migrations.instances import Fleet, unlike_migration
from migrations.allocation import allocate
from migrations.diff import difference
from migrations.model import Limits, MoveKind
from migrations.planner import plan
from migrations.relays import with_relays
from migrations.verify import verify
from solvers.problem import PlacementProblem
from tests.migrations.instances import Change, cluster


def _two_slow_receivers() -> Change:
    """Node 0 alone has two experts, which nodes 1 and 2 miss, behind links of 1 byte a second; node 3 has
    room, and nothing to do."""
    change = cluster(
        [20, 20, 20, 20],
        [[1, 1], [0, 0], [0, 0], [0, 0]],
        [[1, 1], [1, 0], [0, 1], [0, 0]],
    )
    problem = change.problem.replace(
        ingress_bytes_per_second=np.array([100.0, 1.0, 1.0, 100.0]),
        egress_bytes_per_second=np.full(4, 100.0),
    )
    return Change(problem, change.source, change.target)


def test_a_fast_node_passes_an_expert_on_where_its_only_holder_is_busy() -> None:
    """Two slow receivers of one sender: one is served by a third node, which holds nothing in the end."""
    change = _two_slow_receivers()
    made = plan(change.problem, change.source, change.target)
    assert verify(change.problem, change.source, change.target, made) == ()
    assert made.estimate.seconds == pytest.approx(10.1)
    assert {move.source for move in made.moves if move.kind is MoveKind.COPY} == {0, 3}


def test_nothing_goes_through_a_node_without_room() -> None:
    """The third node is full of what it keeps, so that one sender serves both, one after the other."""
    change = _two_slow_receivers()
    problem = change.problem.replace(capacity_bytes=np.array([20, 20, 20, 0]))
    made = plan(problem, change.source, change.target)
    assert made.estimate.seconds == pytest.approx(20.0)


@pytest.mark.parametrize("kept_away", ["drained", "pins"])
def test_nothing_goes_through_a_node_that_may_not_hold_it(kept_away: str) -> None:
    """A node that drains, or that a pin keeps free of the expert, passes nothing on."""
    change = _two_slow_receivers()
    problem = change.problem
    if kept_away == "drained":
        problem = problem.replace(drained=np.array([0, 0, 0, 1], np.uint8))
    else:
        pins = np.zeros((4, 2), np.int8)
        pins[3] = -1
        problem = problem.replace(pins=pins)
    assert not _relays(problem, change)


def test_alike_links_need_no_relay() -> None:
    """Where every link is as fast, no copy goes through a third node."""
    change = cluster([30, 20, 20], [[1, 1], [0, 0], [0, 0]], [[1, 1], [1, 0], [0, 1]], bandwidth=1.0)
    assert not _relays(change.problem, change)


def _relays(problem: PlacementProblem, change: Change) -> bool:
    apart = difference(problem, change.source, change.target)
    allocation = allocate(problem, apart, Limits())
    extended, _ = with_relays(problem, apart, Limits(), allocation, allocation.bound_seconds)
    return bool((extended.missing & ~apart.missing).any())


@pytest.mark.parametrize(
    ("memory", "fill", "origin", "equal"),
    [
        (1.5, 0.9, True, False),
        (1.2, 1.0, True, True),
        (2.0, 0.8, True, True),
        (2.0, 1.0, False, True),
        (1.5, 0.9, False, True),
    ],
)
def test_plans_over_links_of_1_kilobyte_to_1_gigabyte_a_second_are_near_their_bound(
    memory: float, fill: float, origin: bool, equal: bool
) -> None:
    """Six nodes whose plans took 1.4 to 12.5 times the bound stay within 1.25 of it."""
    migration = unlike_migration(Fleet(6, 4, 8, memory, fill, origin=origin, equal=equal))
    made = plan(migration.problem, migration.source, migration.target)
    assert verify(migration.problem, migration.source, migration.target, made) == ()
    assert made.estimate.seconds <= 1.25 * made.estimate.lower_bound_seconds
