"""What may be done to migration plans."""

import uuid

from redis.asyncio import Redis

from app.clusters.store import require_cluster
from app.errors import Conflict, FieldError, Gone, InvalidRequest, NotFound
from app.migration_plans import store
from app.migration_plans.schemas import (
    CancelMode,
    PlanCommand,
    PlanList,
    PlanProgress,
    PlanRecord,
    PlanRequest,
    PlanSummary,
    PlanVerb,
)
from app.placements.service import require_generation
from app.storage.clock import server_now
from migrations.states import PLAN_TRANSITIONS, PlanEvent, PlanState

NO_PROGRESS = PlanProgress(
    moves_total=0, moves_succeeded=0, moves_failed=0, moves_released=0, bytes_total=0, bytes_done=0
)

# What a plan is in once the command took effect: giving it again is no conflict.
_ALREADY: dict[tuple[PlanVerb, CancelMode | None], frozenset[PlanState]] = {
    (PlanVerb.PAUSE, None): frozenset({PlanState.PAUSED}),
    (PlanVerb.RESUME, None): frozenset({PlanState.RUNNING}),
    (PlanVerb.CANCEL, CancelMode.DRAIN): frozenset({PlanState.CANCELLING, PlanState.CANCELLED}),
    (PlanVerb.CANCEL, CancelMode.ROLLBACK): frozenset({PlanState.ROLLING_BACK}),
}
_EVENTS: dict[tuple[PlanVerb, CancelMode | None], PlanEvent] = {
    (PlanVerb.PAUSE, None): PlanEvent.PAUSE,
    (PlanVerb.RESUME, None): PlanEvent.RESUME,
    (PlanVerb.CANCEL, CancelMode.DRAIN): PlanEvent.CANCEL_DRAIN,
    (PlanVerb.CANCEL, CancelMode.ROLLBACK): PlanEvent.CANCEL_ROLLBACK,
}


async def create_plan(redis: Redis, cluster_id: str, wanted: PlanRequest) -> PlanRecord:
    """Ask the worker for a plan between generations that are retained."""
    await require_cluster(redis, cluster_id)
    if wanted.from_generation is not None and not wanted.validate_only:
        raise _refused(
            "/from_generation",
            "null: nodes start from what they hold; or validate_only",
            "NEEDS_VALIDATE_ONLY",
        )
    for name in ("from_generation", "to_generation"):
        generation = getattr(wanted, name)
        if generation is not None:
            try:
                await require_generation(redis, cluster_id, generation)
            except (NotFound, Gone) as error:
                raise _refused(f"/{name}", error.detail, "UNKNOWN_GENERATION") from None
    now = server_now()
    record = PlanRecord(
        plan_id=str(uuid.uuid4()),
        from_generation=wanted.from_generation,
        to_generation=wanted.to_generation,
        created_at=now,
        updated_at=now,
        state=PlanState.PENDING,
        reason=None,
        validate_only=wanted.validate_only,
        estimate=None,
        progress=NO_PROGRESS,
        moves=[],
    )
    await store.enqueue(redis, cluster_id, record)
    return record


async def list_plans(redis: Redis, cluster_id: str, *, limit: int, before: str | None) -> PlanList:
    await require_cluster(redis, cluster_id)
    plans, next_before = await store.read_page(redis, cluster_id, limit=limit, before=before)
    return PlanList(migration_plans=plans, next_before=next_before)


async def command(
    redis: Redis, cluster_id: str, plan_id: str, verb: PlanVerb, mode: CancelMode | None = None
) -> PlanSummary:
    """Tell the worker; `Conflict` where the plan's state does not allow it. The plan as it is before."""
    summary = await store.read_summary(redis, cluster_id, plan_id)
    if summary is None:
        raise absent(cluster_id, plan_id)
    wanted = (verb, mode)
    if summary.state in _ALREADY[wanted]:
        return summary
    if (summary.state, _EVENTS[wanted]) not in PLAN_TRANSITIONS:
        raise Conflict(f"plan {plan_id} is {summary.state.value}, which does not allow {verb.value}")
    await store.command(redis, cluster_id, PlanCommand(plan_id=plan_id, verb=verb, mode=mode))
    return summary


def absent(cluster_id: str, plan_id: str) -> NotFound:
    return NotFound(f"there is no plan {plan_id} in cluster {cluster_id}, or not any more")


def _refused(pointer: str, detail: str, code: str) -> InvalidRequest:
    return InvalidRequest(f"{pointer}: {detail}", errors=[FieldError(pointer, detail, code)])
