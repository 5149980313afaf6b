"""Conditions about clocks and about agents that want to be one node."""

from dataclasses import replace

from app.nodes.schemas import NodeConflict
from app.placements.schemas import ConditionType
from app.report.node_conditions import node_findings
from tests.app.report.test_conditions import observed


def test_a_clock_that_is_wrong_is_named() -> None:
    """The process and the node whose clocks are wrong, and by how much, with what to do."""
    seen = replace(observed(), clocks_ahead={"edge-a": -38.0, "edge-b": 0.4})
    found = node_findings(seen, {"api 12 on host-a": 41.0, "worker 13 on host-b": 0.1})[0]
    assert (found.type, found.status) == (ConditionType.CLOCKS_AGREE, False)
    assert "the clock of process api 12 on host-a is about 40 s ahead of that of Redis" in found.reason
    assert "the clock of node edge-a is about 40 s behind that of Redis" in found.reason
    assert "edge-b" not in found.reason
    assert found.remedy is not None


def test_clocks_that_agree_are_counted() -> None:
    """The condition holds, and says of how many clocks."""
    found = node_findings(replace(observed(), clocks_ahead={"edge-a": 1.0}), {"api 1 on a": 0.0})[0]
    assert found.status
    assert found.reason.startswith("none of 2 known clocks is")


def test_two_agents_of_one_node_are_named() -> None:
    """Who has the node and who came; the condition holds where there is no such pair."""
    conflict = NodeConflict(at_milliseconds=1, holder="http://10.0.0.1:9000", other="http://10.0.0.2:9000")
    found = node_findings(replace(observed(), conflicts={"edge-a": conflict}), {})[1]
    assert (found.type, found.status) == (ConditionType.NODES_DISTINCT, False)
    assert found.reason == (
        "another agent, at http://10.0.0.2:9000, uses the node_id edge-a of the agent at http://10.0.0.1:9000"
    )
    assert node_findings(observed(), {})[1].status
