"""What the status of a cluster says in words."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import numpy as np

from app.clusters.schemas import ClusterRecord, ClusterSettings
from app.observe.observation import Observation
from app.placements.schemas import ConditionType, Outlook, PlacementStatus
from app.report.conditions import MAX_FINDINGS, Finding, Telemetry, placement_status
from app.statistics.fleet import Fleet

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def observed(settings: ClusterSettings | None = None) -> Observation:
    """A cluster in which nothing is registered."""
    record = ClusterRecord(
        cluster_id="c", uid="u", created_at=NOW, updated_at=NOW, settings=settings or ClusterSettings()
    )
    return Observation(
        cluster=record,
        fleet=Fleet.of((), ()),
        statuses={},
        live=frozenset(),
        lease_ends={},
        held=np.zeros((0, 0), np.uint8),
        obsolete={},
        in_force=None,
        paused=False,
        active_plan=None,
        commands_waiting=False,
        jobs_waiting=False,
        spec_version=1,
        held_version=1,
        live_version=1,
    )


def status_of(
    observation: Observation,
    findings: Iterable[Finding] = (),
    *,
    before: PlacementStatus | None = None,
    now: datetime = NOW,
) -> PlacementStatus:
    return placement_status(
        observation,
        None,
        {},
        Telemetry(None, 30.0),
        active_plan=None,
        waiting_for=None,
        trouble=None,
        before=before,
        now=now,
        findings=list(findings),
    )


def test_other_modules_add_conditions_with_their_remedy() -> None:
    """A finding becomes a condition after the service's own; its `since` stays while its status does."""
    kind = ConditionType.TELEMETRY_FRESH
    finding = Finding(kind, False, "3 nodes skip sources", Outlook.CANNOT, "restart the agents")
    first = status_of(observed(), [finding])
    assert first.conditions[-1].model_dump(exclude={"since"}) == {
        "type": kind,
        "status": False,
        "reason": "3 nodes skip sources",
        "outlook": Outlook.CANNOT,
        "remedy": "restart the agents",
    }
    second = status_of(observed(), [finding], before=first, now=NOW + timedelta(seconds=9))
    assert second.conditions[-1].since == NOW


def test_conditions_that_others_add_are_bounded() -> None:
    """However many findings there are, the status has at most MAX_FINDINGS of them."""
    own = len(status_of(observed()).conditions)
    many = [Finding(ConditionType.MIGRATING, False, f"number {index}") for index in range(1000)]
    assert len(status_of(observed(), many).conditions) == own + MAX_FINDINGS
