"""Nodes that come and go."""

import structlog

from app.report.flapping import LOSSES, WINDOW_SECONDS, Flapping

BOTH = frozenset("ab")


def test_a_node_lost_again_and_again_is_flapping() -> None:
    """LOSSES losses within the window make one node flap, until the first of them is older than that."""
    flapping = Flapping()
    assert flapping.observe(BOTH, BOTH, 0.0) == (0, 0)
    for loss in range(LOSSES):
        assert flapping.count(loss) == 0
        assert flapping.observe(BOTH, frozenset("b"), float(loss)) == (0, 1)
        assert flapping.observe(BOTH, BOTH, loss + 0.5) == (1, 0)
    assert flapping.count(LOSSES) == 1
    assert flapping.count(WINDOW_SECONDS) == 1
    assert flapping.count(WINDOW_SECONDS + 1.0) == 0


def test_a_site_that_fails_once_does_not_flap() -> None:
    """Many nodes lost once each are losses, and none of them flaps."""
    flapping = Flapping()
    flapping.observe(BOTH, BOTH, 0.0)
    assert flapping.observe(BOTH, frozenset(), 1.0) == (0, 2)
    assert flapping.count(1.0) == 0


def test_nodes_that_were_removed_are_not_lost() -> None:
    """A node that is no longer registered left in order; its losses are forgotten with it."""
    flapping = Flapping()
    flapping.observe(BOTH, BOTH, 0.0)
    assert flapping.observe(frozenset("b"), frozenset("b"), 1.0) == (0, 0)
    for loss in range(LOSSES):
        flapping.observe(BOTH, BOTH, 2.0 + loss)
        flapping.observe(BOTH, frozenset("b"), 2.5 + loss)
    assert flapping.count(6.0) == 1
    flapping.observe(frozenset("b"), frozenset("b"), 7.0)
    assert flapping.count(7.0) == 0


def test_lost_and_returned_nodes_are_named_in_the_log() -> None:
    """A line for the lost ones, a line for those that came, each with how many live; none where nothing
    changed."""
    flapping = Flapping()
    with structlog.testing.capture_logs() as lines:
        flapping.observe(BOTH, BOTH, 0.0)
        flapping.observe(BOTH, frozenset("b"), 1.0)
        flapping.observe(BOTH, frozenset("b"), 2.0)
        flapping.observe(BOTH, BOTH, 3.0)
    assert [(line["log_level"], line["nodes"], line["live"]) for line in lines] == [
        ("warning", "a", 1),
        ("info", "a", 2),
    ]
