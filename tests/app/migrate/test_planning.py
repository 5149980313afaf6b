"""What plans are made under: bandwidth limits shared out, and the words for nodes."""

from typing import Any

import numpy as np
import pytest

from app.clusters.schemas import ClusterSettings
from app.migrate.planning import names_of, problem_for_planning, rate_limit, receivers
from app.statistics.fleet import Fleet
from migrations.planner import plan
from solvers.problem import UInt8
from tests.app.worker.replayed import Replayed, settings


@pytest.mark.parametrize(
    ("changes", "nodes", "expected"),
    [
        ({}, 4, None),
        ({"max_node_migration_bytes_per_second": 5e6}, 4, 5e6),
        ({"max_migration_bytes_per_second": 8e6}, 4, 2e6),
        ({"max_migration_bytes_per_second": 8e6, "max_node_migration_bytes_per_second": 5e6}, 1, 5e6),
        ({"max_migration_bytes_per_second": 8e6, "max_node_migration_bytes_per_second": 5e6}, 4, 2e6),
        ({"max_migration_bytes_per_second": 8e6}, 0, 8e6),
    ],
)
def test_limit_of_a_node_is_its_own_and_its_share(
    changes: dict[str, Any], nodes: int, expected: float | None
) -> None:
    """The lower of the node's limit and of the cluster's, shared by the nodes that receive."""
    assert rate_limit(ClusterSettings(**changes), nodes) == expected


def test_plans_are_estimated_under_the_limit() -> None:
    """Halving what a node may receive makes the plan's lower bound and its length at least twice as long as
    at the limit before, and no copy runs faster than the limit."""
    fleet = Replayed(settings(), 0)
    fleet.pass_time({"edge-a": "python", "edge-b": "novels", "edge-c": "man_de", "edge-d": "man_ja"}, 2)
    built = fleet.built()
    outcome = fleet.solve(built)
    assert outcome.holds is not None
    target: UInt8 = outcome.holds
    source = np.zeros_like(target)
    assert receivers(source, target) == 4
    live = np.ones(4, np.bool_)
    seconds = []
    for limit in (2e6, 1e6):
        problem = problem_for_planning(built.problem, live, limit)
        made = plan(problem, source, target)
        assert all(
            move.bytes <= limit * (move.end_seconds - move.start_seconds) * (1 + 1e-9) for move in made.moves
        )
        seconds.append(made.estimate.seconds)
    assert seconds[1] >= 1.99 * seconds[0]


def test_words_say_which_nodes_are_lost_and_which_are_draining() -> None:
    """A node that may hold nothing is named with the reason; others by their id alone."""
    fleet: Fleet = Replayed(settings(), 0).fleet
    names = names_of(fleet, usable={"edge-a", "edge-b"}, live={"edge-a", "edge-b", "edge-c"})
    assert [names.node(row) for row in range(4)] == [
        "node edge-a",
        "node edge-b",
        "node edge-c (draining)",
        "node edge-d (lost)",
    ]
