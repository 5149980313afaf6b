"""The condition that says whether what nodes count can be right."""

from app.placements.schemas import ConditionType, Outlook
from app.report.conditions import Finding
from app.statistics.plausibility import Doubt, by_node
from moeplace_agent.wording import abridged

_NAMED = 5


def data_quality(doubts: tuple[Doubt, ...]) -> Finding:
    """Names the first nodes, each with the ratio seen."""
    nodes = by_node(doubts)
    if not nodes:
        return Finding(ConditionType.TELEMETRY_PLAUSIBLE, True, "counts agree with tokens and among nodes")
    reasons = [doubt.reason for some in list(nodes.values())[:_NAMED] for doubt in some]
    return Finding(
        ConditionType.TELEMETRY_PLAUSIBLE,
        False,
        abridged(reasons, len(nodes) - _NAMED, "node"),
        Outlook.CANNOT,
        "make these nodes count each expert call of their own tokens once, and the tokens themselves; where "
        "a node is truly that busy, set the cluster's max_node_share higher (docs/telemetry.md, What is not "
        "taken at its word)",
    )
