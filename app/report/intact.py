"""Whether all that is stored of a cluster can be read and reckoned with, as a condition."""

from collections.abc import Sequence

from app.errors import DamagedRecord
from app.placements.schemas import Condition, ConditionType, Outlook, PlacementStatus
from app.report.conditions import Finding
from app.storage.clock import server_now
from moeplace_agent.wording import abridged

NAMED = 5
"""Faults that one reason names; of the rest it gives the number."""

_REMEDY = (
    "for what is named: register the node again, change the setting, or repair or delete the key in Redis"
)


def intact(faults: Sequence[str]) -> Finding:
    """faults: of an observation."""
    if not faults:
        return Finding(ConditionType.INTACT, True, "all stored records can be read and used")
    reason = abridged(faults[:NAMED], len(faults) - NAMED)
    return Finding(ConditionType.INTACT, False, reason, outlook=Outlook.CANNOT, remedy=_REMEDY)


def damaged(status: PlacementStatus, damage: DamagedRecord) -> PlacementStatus:
    """The last status, of a cluster that cannot be looked at: `damage` is the only news."""
    condition = Condition(
        type=ConditionType.INTACT,
        status=False,
        reason=f"nothing is done for this cluster: {damage.detail}",
        outlook=Outlook.CANNOT,
        remedy=f"repair or delete key {damage.key} in Redis",
        since=server_now(),
    )
    known = next((it for it in status.conditions if it.type is ConditionType.INTACT), None)
    if known is not None and not known.status:
        condition = condition.model_copy(update={"since": known.since})
    others = [it for it in status.conditions if it.type is not ConditionType.INTACT]
    return status.model_copy(update={"conditions": [*others, condition]})
