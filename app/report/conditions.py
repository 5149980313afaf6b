"""How far the cluster is: the conditions operators and clients look at, and each node's part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from app.nodes.schemas import ApplyState
from app.observe.holdup import Holdup, in_words, together
from app.observe.observation import Observation
from app.observe.remedies import bring_back, listed, nodes_out
from app.placements.schemas import Condition, ConditionType, NodeProgress, Outlook, PlacementStatus
from moeplace_agent.wording import agreeing, counted
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
    waiting_for: Holdup | None,
    trouble: Holdup | None,
    before: PlacementStatus | None,
    now: datetime,
    no_placement: Holdup | None = None,
    findings: Sequence[Finding] = (),
) -> PlacementStatus:
    """routes: node_id -> version of its newest assignment. waiting_for: what the plan being carried out waits
    for; trouble: why none is; no_placement: why there is no newer placement. before: the last status, whose
    conditions keep their `since` where they did not change. findings: conditions that other modules add, each
    type at most once, the first MAX_FINDINGS of them."""
    nodes = _nodes(observation, routes)
    conditions = [
        _available(observation, problem),
        _converged(observation, nodes, [waiting_for, trouble], no_placement),
        _migrating(active_plan, waiting_for, trouble),
        _fresh(telemetry, now),
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


def _available(observation: Observation, problem: PlacementProblem | None) -> Finding:
    fleet, live = observation.fleet, observation.live
    unready = _unready(observation)
    if unready is not None:
        return _missing(ConditionType.AVAILABLE, unready)
    experts = fleet.experts
    unheld = observation.held.sum(axis=0) == 0
    count = int(unheld.sum())
    are = agreeing(count, "is", "are")
    if count == 0:
        return Finding(ConditionType.AVAILABLE, True, f"all {experts} experts are held by live nodes")
    if problem is not None and np.isfinite(problem.origin_latency_seconds[observation.live_mask]).all():
        reason = f"{count} of {experts} experts {are} served only by the origin"
        return Finding(ConditionType.AVAILABLE, True, reason)
    reason = f"{count} of {experts} experts {are} held by no live node"
    remedy = "register nodes that hold them, or give the cluster an origin (PUT /v1/clusters/CLUSTER)"
    remedy = remedy.replace("CLUSTER", observation.cluster.cluster_id)
    if observation.in_force is not None:
        had = observation.in_force.holds[:, unheld].sum(axis=1).tolist()
        lost = [node for node, some in zip(fleet.node_ids, had, strict=True) if some and node not in live]
        if lost:
            reason = f"{reason}; the placement gave them to {listed(lost)}"
            remedy = f"{bring_back(observation, lost)}, or {remedy}"
    return Finding(ConditionType.AVAILABLE, False, reason, Outlook.CANNOT, remedy)


def _converged(
    observation: Observation,
    nodes: list[NodeProgress],
    plan: Sequence[Holdup | None],
    no_placement: Holdup | None,
) -> Finding:
    if observation.in_force is None:
        found = no_placement or _unready(observation) or _unsolved(observation, "there is no placement yet")
        return _missing(ConditionType.CONVERGED, found)
    if not observation.live:
        return _missing(ConditionType.CONVERGED, _no_live_node(observation))
    live = [node for node in nodes if node.live]
    holdups: list[Holdup] = []
    different = [node for node in live if node.missing_count or node.excess_count]
    if different:
        missing = sum(node.missing_count for node in different)
        excess = sum(node.excess_count for node in different)
        nodes_of = f"{len(different)} of {counted(len(live), 'live node')}"
        words = f"{nodes_of}: {counted(missing, 'expert')} missing, {excess} too many"
        holdups += [Holdup(Outlook.UNDER_WAY, words), *(one for one in plan if one is not None)]
    holdups += _wrong_nodes(observation, nodes, no_placement)
    obsolete = sum(node.obsolete_count for node in live)
    if obsolete and not different:
        words = f"live nodes hold {counted(obsolete, 'expert')} of models that were deleted or replaced"
        holdups.append(Holdup(Outlook.UNDER_WAY, words))
    stale = [node.node_id for node in live if not node.routes_current]
    if stale and not different:
        words = f"{len(stale)} of {len(live)} live nodes do not use the newest routes, first {stale[0]}"
        remedy = f"if it lasts, check the agent of {stale[0]} and its log"
        holdups.append(Holdup(Outlook.WAITING, words, remedy))
    holdups += _failed_nodes(observation, live)
    holdup = together(holdups)
    if holdup is not None:
        return _missing(ConditionType.CONVERGED, holdup)
    generation = observation.in_force.generation
    words = f"all {len(live)} live nodes hold and route as generation {generation} says"
    return Finding(ConditionType.CONVERGED, True, words)


def _wrong_nodes(
    observation: Observation, nodes: list[NodeProgress], no_placement: Holdup | None
) -> list[Holdup]:
    """The placement in force gives experts to nodes that are not to hold any, or may be another soon."""
    wrong = []
    lost = [node.node_id for node in nodes if not node.live and node.desired_count]
    if lost:
        wrong.append(f"{listed(lost)} of the placement {agreeing(len(lost), 'is', 'are')} not alive")
    usable = observation.usable
    leaving = [n for n in nodes if n.live and n.node_id not in usable and n.desired_count]
    if leaving:
        count = sum(node.desired_count for node in leaving)
        drained = listed([node.node_id for node in leaving])
        wrong.append(f"{counted(count, 'expert')} of {drained}, to be drained, must go elsewhere")
    if not wrong:
        return []
    holdups = [Holdup(Outlook.UNDER_WAY, words) for words in wrong]
    if no_placement is not None:
        return [no_placement, *holdups]
    return [*holdups, _unsolved(observation, "the placement without them is still to come")]


def _failed_nodes(observation: Observation, live: list[NodeProgress]) -> list[Holdup]:
    failed = [
        node.node_id
        for node in live
        if node.state is ApplyState.FAILED
        and (node.missing_count or node.excess_count or not node.routes_current)
    ]
    if not failed:
        return []
    status = observation.statuses.get(failed[0])
    said = "no reason" if status is None or not status.reason else status.reason
    words = (
        f"{len(failed)} of {len(live)} live nodes cannot apply their assignment, first {failed[0]}: {said}"
    )
    remedy = f"fix what {failed[0]} reports, or drain it (DELETE {_nodes_path(observation)}/{failed[0]})"
    return [Holdup(Outlook.WAITING, words, remedy)]


def _unready(observation: Observation) -> Holdup | None:
    """What there can be no placement without."""
    if not observation.fleet.experts:
        path = f"/v1/clusters/{observation.cluster.cluster_id}/models/MODEL"
        return Holdup(Outlook.WAITING, "no model is registered", f"register one: PUT {path}")
    return None if observation.live else _no_live_node(observation)


def _no_live_node(observation: Observation) -> Holdup:
    known = list(observation.fleet.node_ids)
    if not known:
        path = f"{_nodes_path(observation)}/NODE"
        remedy = f"start an agent, or register a node: PUT {path}"
        return Holdup(Outlook.WAITING, "no node is alive: none is registered", remedy)
    words = f"no node is alive: {listed(known)} sent no heartbeat within a lease"
    return Holdup(Outlook.WAITING, words, f"start the agents of {listed(known)}")


def _unsolved(observation: Observation, words: str) -> Holdup:
    """There is no placement of the fleet as it is, and nothing is known to be in its way."""
    path = f"/v1/clusters/{observation.cluster.cluster_id}"
    if not observation.usable:
        remedy = f"start another node's agent, or {bring_back(observation, observation.fleet.node_ids)}"
        return Holdup(Outlook.CANNOT, f"{words}: no node may hold experts: {nodes_out(observation)}", remedy)
    if observation.recomputes:
        return Holdup(Outlook.UNDER_WAY, f"{words}: it is being computed")
    if observation.paused:
        remedy = f"resume it (POST {path}/placement:resume), or PUT {path}/placement"
        return Holdup(Outlook.WAITING, f"{words}: an operator paused recomputation", remedy)
    remedy = f"set `automatic` to true (PATCH {path}), or POST {path}/optimizations"
    return Holdup(Outlook.WAITING, f"{words}: the cluster's setting `automatic` is false", remedy)


def _nodes_path(observation: Observation) -> str:
    return f"/v1/clusters/{observation.cluster.cluster_id}/nodes"


def _missing(kind: ConditionType, holdup: Holdup) -> Finding:
    return Finding(kind, False, holdup.reason, holdup.outlook, holdup.remedy)


def _migrating(active_plan: str | None, waiting_for: Holdup | None, trouble: Holdup | None) -> Finding:
    """No plan is what there is most of the time: it has an outlook only where one is wanted."""
    kind = ConditionType.MIGRATING
    if active_plan is not None:
        words = f"plan {active_plan} is being carried out"
        if waiting_for is None:
            return Finding(kind, True, words)
        return Finding(kind, True, f"{words}; {waiting_for.reason}", remedy=waiting_for.remedy)
    if trouble is not None:
        return _missing(kind, trouble)
    if waiting_for is not None:
        return _missing(kind, waiting_for)
    return Finding(kind, False, "no plan is being carried out")


def _fresh(telemetry: Telemetry, now: datetime) -> Finding:
    kind, within = ConditionType.TELEMETRY_FRESH, telemetry.fresh_seconds
    if telemetry.until is None:
        words = "no telemetry has arrived"
    elif (now - telemetry.until).total_seconds() <= within:
        return Finding(kind, True, f"windows arrive at least every {within:g} s")
    else:
        words = f"no window has arrived for over {within:g} s, the newest ended {in_words(telemetry.until)}"
    remedy = "send what tokens activate: POST .../nodes/NODE/telemetry"
    return Finding(kind, False, words, Outlook.WAITING, remedy)
