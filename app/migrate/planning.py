"""From the planner's plan, in indices, to the plan that is stored and carried out, in names."""

import secrets
from collections.abc import Collection
from datetime import datetime

import numpy as np

from app.clusters.schemas import ClusterSettings
from app.migrate.durations import Durations, rounds_of_moves
from app.migration_plans.schemas import PlanEstimate, PlannedMove, PlanProgress, PlanRecord
from app.statistics.fleet import Fleet
from migrations.model import ORIGIN, Estimate, Limits, Move, MoveKind, Plan, PlanStatus
from migrations.naming import Names
from migrations.states import PlanState
from solvers.problem import PlacementProblem, UInt8


def planning_limits(max_copies_per_cluster: int) -> Limits:
    """The caps of the timing model that plans are made under."""
    return Limits(max_copies=max_copies_per_cluster)


def release_limits(max_copies_per_node: int, max_copies_per_cluster: int) -> Limits:
    """How many moves may be in nodes' hands at once: more than run at once, so that no node waits for us."""
    return Limits(
        max_receives=max_copies_per_node,
        max_sends=max_copies_per_node,
        origin_max_sends=max_copies_per_cluster,
        max_copies=max_copies_per_cluster,
    )


def rate_limit(settings: ClusterSettings, receivers: int) -> float | None:
    """Bytes per second that a node may receive, while up to `receivers` nodes do at once; None: as many as
    it can. The cluster's limit is shared out evenly, so that it holds whatever nodes do."""
    limits = []
    if settings.max_node_migration_bytes_per_second is not None:
        limits.append(settings.max_node_migration_bytes_per_second)
    if settings.max_migration_bytes_per_second is not None:
        limits.append(settings.max_migration_bytes_per_second / max(1, receivers))
    return min(limits, default=None)


def receivers(source: UInt8, target: UInt8) -> int:
    """How many nodes are to receive something."""
    return int(((target == 1) & (source == 0)).any(axis=1).sum())


def problem_for_planning(
    problem: PlacementProblem, live: "np.ndarray[tuple[int], np.dtype[np.bool_]]", limit: float | None
) -> PlacementProblem:
    """Nodes that are not live have no room, so that no plan parks an expert there; no link is faster than
    `limit`."""
    changes: dict[str, object] = {}
    if limit is not None:
        for name in ("ingress_bytes_per_second", "egress_bytes_per_second"):
            given = getattr(problem, name)
            changes[name] = np.full(problem.nodes, limit) if given is None else np.minimum(given, limit)
    if live.all():
        return problem.replace(**changes) if changes else problem
    changes["capacity_bytes"] = np.where(live, problem.capacity_bytes, 0)
    if problem.device_node is not None and problem.device_capacity_bytes is not None:
        changes["device_capacity_bytes"] = np.where(
            live[problem.device_node], problem.device_capacity_bytes, 0
        )
    return problem.replace(**changes)


def names_of(
    fleet: Fleet, usable: Collection[str] | None = None, live: Collection[str] | None = None
) -> Names:
    """What reasons and violations call nodes and experts. With `usable` and `live`, a node that may hold
    nothing is said to be lost or draining."""
    nodes = fleet.node_ids
    if usable is not None:
        nodes = tuple(
            node if node in usable else f"{node} ({'draining' if live and node in live else 'lost'})"
            for node in nodes
        )
    return Names(nodes, tuple(f"layer {layer} of {model_id}" for model_id, layer in fleet.blocks))


def new_plan_id(generation: int) -> str:
    return f"g{generation}-{secrets.token_hex(4)}"


def plan_record(
    plan: Plan,
    fleet: Fleet,
    durations: Durations,
    *,
    moves_at_once: int,
    plan_id: str,
    from_generation: int | None,
    to_generation: int,
    created_at: datetime,
    state: PlanState,
    reason: str | None = None,
    validate_only: bool = False,
    rate_limit_bytes_per_second: float | None = None,
) -> PlanRecord:
    moves = [_named(move, fleet) for move in plan.moves]
    transfer_seconds = _finite(plan.estimate.seconds)
    return PlanRecord(
        plan_id=plan_id,
        from_generation=from_generation,
        to_generation=to_generation,
        created_at=created_at,
        updated_at=created_at,
        state=state,
        reason=reason,
        validate_only=validate_only,
        rate_limit_bytes_per_second=rate_limit_bytes_per_second,
        estimate=PlanEstimate(
            bytes=plan.estimate.bytes,
            seconds=durations.expected(transfer_seconds, rounds_of_moves(moves, moves_at_once)),
            transfer_seconds=transfer_seconds,
            lower_bound_seconds=_finite(plan.estimate.lower_bound_seconds),
        ),
        progress=PlanProgress(
            moves_total=len(moves),
            moves_succeeded=0,
            moves_failed=0,
            moves_released=0,
            bytes_total=plan.estimate.bytes,
            bytes_done=0,
        ),
        moves=moves,
    )


def indexed_plan(record: PlanRecord) -> Plan:
    """The stored plan in indices of its own, equal for equal names: what `migrations` decides releases on."""
    nodes: dict[str, int] = {}
    blocks: dict[tuple[str, int], int] = {}
    moves = []
    for move in record.moves:
        source: int | None = None
        if move.from_origin:
            source = ORIGIN
        elif move.source is not None:
            source = nodes.setdefault(move.source, len(nodes))
        moves.append(
            Move(
                move_id=move.move_id,
                kind=move.kind,
                block=blocks.setdefault((move.model_id, move.layer), len(blocks)),
                expert=move.expert,
                source=source,
                destination=nodes.setdefault(move.destination, len(nodes)),
                bytes=move.bytes,
                depends_on=tuple(move.depends_on),
                start_seconds=move.start_seconds,
                end_seconds=move.end_seconds,
            )
        )
    copied = sum(move.bytes for move in moves if move.kind is MoveKind.COPY)
    seconds = max((move.end_seconds for move in moves), default=0.0)
    return Plan(PlanStatus.OK, None, "", "", tuple(moves), Estimate(copied, seconds, 0.0))


def _named(move: Move, fleet: Fleet) -> PlannedMove:
    model_id, layer = fleet.blocks[move.block]
    return PlannedMove.model_construct(
        move_id=move.move_id,
        kind=move.kind,
        model_id=model_id,
        layer=layer,
        expert=move.expert,
        source=None if move.source is None or move.source == ORIGIN else fleet.node_ids[move.source],
        from_origin=move.source == ORIGIN,
        destination=fleet.node_ids[move.destination],
        bytes=move.bytes,
        depends_on=list(move.depends_on),
        start_seconds=move.start_seconds,
        end_seconds=move.end_seconds,
    )


def _finite(seconds: float) -> float:
    """An INFEASIBLE plan's bound may be infinite, which JSON has no number for."""
    return seconds if np.isfinite(seconds) else 0.0
