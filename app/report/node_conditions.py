"""Conditions about nodes and clocks: what no placement can mend, and a person can."""

import math
from collections.abc import Mapping

from app.observe.observation import Observation
from app.placements.schemas import ConditionType, Outlook
from app.report.conditions import Finding
from moeplace_agent.wording import abridged, counted

CLOCK_SECONDS = 5.0
"""A clock is wrong where it differs by more. Leases and deadlines do not depend on it; the ends of telemetry
windows do, and a window that ends 60 s ahead is refused."""

NAMED = 3
"""Processes or nodes that a reason names; of the others it gives the number."""


def node_findings(observation: Observation, processes: Mapping[str, float]) -> list[Finding]:
    """processes: name of a process of the service -> seconds that its host's clock is ahead of Redis's."""
    return [_clocks(observation, processes), _distinct(observation)]


def _clocks(observation: Observation, processes: Mapping[str, float]) -> Finding:
    clocks = {
        **{f"process {name}": ahead for name, ahead in processes.items()},
        **{f"node {node_id}": ahead for node_id, ahead in observation.clocks_ahead.items()},
    }
    wrong = sorted(
        ((name, ahead) for name, ahead in clocks.items() if abs(ahead) > CLOCK_SECONDS),
        key=lambda found: -abs(found[1]),
    )
    if not wrong:
        known = counted(len(clocks), "known clock")
        words = f"none of {known} is more than {CLOCK_SECONDS:g} s from that of Redis"
        return Finding(ConditionType.CLOCKS_AGREE, True, words)
    named = [
        f"the clock of {name} is about {_rough(ahead):g} s {_side(ahead)} that of Redis"
        for name, ahead in wrong[:NAMED]
    ]
    return Finding(
        ConditionType.CLOCKS_AGREE,
        False,
        abridged(named, len(wrong) - len(named)),
        outlook=Outlook.CANNOT,
        remedy="synchronise the clocks of all hosts with NTP, including the host of Redis",
    )


def _rough(ahead: float) -> float:
    """To the next 5 s, so that the words stay the same from look to look."""
    return 5.0 * max(1.0, math.floor(abs(ahead) / 5.0 + 0.5))


def _side(ahead: float) -> str:
    return "ahead of" if ahead > 0 else "behind"


def _distinct(observation: Observation) -> Finding:
    conflicts = observation.conflicts
    if not conflicts:
        return Finding(ConditionType.NODES_DISTINCT, True, "no two agents use the same node_id")
    named = [
        f"another agent, at {conflict.other}, uses the node_id {node_id} of the agent at {conflict.holder}"
        for node_id, conflict in sorted(conflicts.items())[:NAMED]
    ]
    return Finding(
        ConditionType.NODES_DISTINCT,
        False,
        abridged(named, len(conflicts) - len(named)),
        outlook=Outlook.CANNOT,
        remedy="give each agent a node_id of its own, or stop one of the two",
    )
