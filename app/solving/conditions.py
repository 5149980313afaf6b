"""How far the cluster is: the conditions operators and clients look at, and each node's part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from app.placements.schemas import Condition, ConditionType, NodeProgress, Outlook, PlacementStatus
from app.solving.observation import Observation
from solvers.problem import PlacementProblem

TELEMETRY_FRESH_INTERVALS = 3.0
"""Telemetry is fresh until this many of the intervals that nodes are told have passed without a window."""


MAX_FINDINGS = 64
"""Conditions that other modules may add to one status; further ones are left out."""


@dataclass(frozen=True)
class Finding:
    """A condition before it is known since when it holds; the fields are those of `Condition`."""

    type: ConditionType
    status: bool
    reason: str
    outlook: Outlook | None = None
    remedy: str | None = None


@dataclass(frozen=True)
class Telemetry:
    """until: end of the newest folded window; fresh_seconds: how long after it telemetry counts as fresh."""

    until: datetime | None
    fresh_seconds: float


def placement_status(
    observation: Observation,
    problem: PlacementProblem | None,
    routes: Mapping[str, str],
    telemetry: Telemetry,
    *,
    active_plan: str | None,
    waiting_for: str | None,
    trouble: str | None,
    before: PlacementStatus | None,
    now: datetime,
    findings: Sequence[Finding] = (),
) -> PlacementStatus:
    """routes: node_id -> version of its newest assignment. waiting_for, trouble: in words, what holds the
    fleet up. before: the last status, whose conditions keep their `since` where they did not change.
    findings: conditions that other modules add, each type at most once, the first MAX_FINDINGS of them."""
    nodes = _nodes(observation, routes)
    conditions = [
        Finding(ConditionType.AVAILABLE, *_available(observation, problem)),
        Finding(ConditionType.CONVERGED, *_converged(observation, nodes, waiting_for, trouble)),
        Finding(ConditionType.MIGRATING, *_migrating(active_plan, waiting_for, trouble)),
        Finding(ConditionType.TELEMETRY_FRESH, *_fresh(telemetry, now)),
        *findings[:MAX_FINDINGS],
    ]
    known = {} if before is None else {condition.type: condition for condition in before.conditions}
    in_force = observation.in_force
    return PlacementStatus(
        cluster_uid=observation.cluster.uid,
        generation=None if in_force is None else in_force.generation,
        paused=observation.paused,
        conditions=[
            Condition(
                type=found.type,
                status=found.status,
                reason=found.reason,
                outlook=found.outlook,
                remedy=found.remedy,
                since=_since(found, known.get(found.type), now),
            )
            for found in conditions
        ],
        nodes=nodes,
        active_plan=active_plan,
    )


def _since(found: Finding, before: Condition | None, now: datetime) -> datetime:
    return before.since if before is not None and before.status == found.status else now


def _nodes(observation: Observation, routes: Mapping[str, str]) -> list[NodeProgress]:
    fleet, in_force = observation.fleet, observation.in_force
    desired = np.zeros(fleet.shape, np.uint8) if in_force is None else in_force.holds
    held = observation.held
    missing = ((desired == 1) & (held == 0)).sum(axis=1)
    excess = ((desired == 0) & (held == 1)).sum(axis=1)
    nodes = []
    for row, node_id in enumerate(fleet.node_ids):
        status = observation.statuses.get(node_id)
        version = None if status is None else status.assignment_version
        nodes.append(
            NodeProgress(
                node_id=node_id,
                live=node_id in observation.live,
                state=None if status is None else status.state,
                generation=None if status is None else status.generation,
                routes_current=version is not None and version == routes.get(node_id),
                desired_count=int(desired[row].sum()),
                held_count=int(held[row].sum()),
                missing_count=int(missing[row]),
                excess_count=int(excess[row]),
                obsolete_count=len(observation.obsolete.get(node_id, ())),
            )
        )
    return nodes


def _available(observation: Observation, problem: PlacementProblem | None) -> tuple[bool, str]:
    experts = observation.fleet.experts
    if not experts:
        return False, "no model is registered"
    if not observation.live:
        return False, "no node is alive"
    unheld = int((observation.held.sum(axis=0) == 0).sum())
    if unheld == 0:
        return True, f"all {experts} experts are held by live nodes"
    if problem is not None:
        rows = observation.live_mask
        if np.isfinite(problem.origin_latency_seconds[rows]).all():
            return True, f"{unheld} of {experts} experts are served by the origin alone"
    return False, f"{unheld} of {experts} experts are held by no live node"


def _converged(
    observation: Observation, nodes: list[NodeProgress], waiting_for: str | None, trouble: str | None
) -> tuple[bool, str]:
    if observation.in_force is None:
        return False, trouble or "there is no placement yet"
    live = [node for node in nodes if node.live]
    if not live:
        return False, "no node is alive"
    different = [node for node in live if node.missing_count or node.excess_count]
    if different:
        missing = sum(node.missing_count for node in different)
        excess = sum(node.excess_count for node in different)
        words = f"{len(different)} of {len(live)} live nodes lack {missing}, hold {excess} experts too many"
        why = trouble or waiting_for
        return False, words if why is None else f"{words}; {why}"
    obsolete = sum(node.obsolete_count for node in live)
    if obsolete:
        return False, f"live nodes hold {obsolete} experts of models that were deleted or replaced"
    stale = [node.node_id for node in live if not node.routes_current]
    if stale:
        return False, f"{len(stale)} of {len(live)} live nodes do not use the newest routes, first {stale[0]}"
    lost = [node.node_id for node in nodes if not node.live and node.desired_count]
    if lost:
        return False, f"{len(lost)} nodes of the placement are not alive, first {lost[0]}"
    generation = observation.in_force.generation
    return True, f"all {len(live)} live nodes hold and route as generation {generation} says"


def _migrating(active_plan: str | None, waiting_for: str | None, trouble: str | None) -> tuple[bool, str]:
    if active_plan is not None:
        return True, f"plan {active_plan} is being carried out" + (f"; {waiting_for}" if waiting_for else "")
    return False, trouble or "no plan is being carried out"


def _fresh(telemetry: Telemetry, now: datetime) -> tuple[bool, str]:
    if telemetry.until is None:
        return False, "no telemetry has arrived"
    age = (now - telemetry.until).total_seconds()
    if age <= telemetry.fresh_seconds:
        return True, f"windows arrive at least every {telemetry.fresh_seconds:g} s"
    ended = telemetry.until.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return False, f"no window has arrived for over {telemetry.fresh_seconds:g} s, the newest ended {ended}"
