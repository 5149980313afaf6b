"""/v1/clusters/{cluster_id}/migration_plans, the moves released to nodes, and their reports"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.access.guard import principal_of
from app.clusters.store import require_cluster
from app.errors import ProblemError
from app.http import conditional
from app.http.answers import json_answer, large_json_answer, version_of, versioned_answer
from app.http.document import await_version, cache_of, unchanged, version_in_force
from app.http.json_body import Limits, json_body, read_json
from app.http.openapi import (
    CLUSTER_ID,
    CONDITIONAL,
    NODE_ID,
    PREFER_WAIT,
    answer,
    body,
    document_answers,
    operation,
    problems,
)
from app.http.parameters import BeforeRecord, ClusterId, PageSize, RecordId, path_id
from app.http.state import redis_of, token_of, waiters_of
from app.http.waiting import wait_until
from app.migration_plans import service, store
from app.migration_plans.reports import ReportMemory, report_move, report_moves
from app.migration_plans.schemas import (
    CancelRequest,
    MoveReport,
    MoveReportAnswer,
    MoveReportBatch,
    MoveReportBatchAnswer,
    PlanList,
    PlanRequest,
    PlanResource,
    PlanSummary,
    PlanVerb,
    ReleasedMoves,
    ReleasedMovesMetadata,
)
from app.nodes.service import require_node
from app.schema import RECORD_ID_PATTERN
from app.storage import topics
from app.storage.documents import EncodedDocument, encode_document
from app.storage.keys import ClusterKeys
from migrations.states import PlanState

CLUSTER = "/v1/clusters/{cluster_id}"
router = APIRouter(prefix=f"{CLUSTER}/migration_plans", tags=["migrations"])

REPORT_LIMITS = Limits(body_bytes=4 << 20, values=60_000, names=60_000)
"""Two thousand of them, with their reasons."""

LOCATION = {"Location": {"description": "URL of the plan.", "schema": {"type": "string"}}}
REPORT_EXAMPLES = {
    "in progress": {
        "instance_uid": "0199d8a2-6c1e",
        "generation": 7,
        "attempt": 1,
        "state": "IN_PROGRESS",
        "bytes_done": 49152,
    },
    "succeeded": {
        "instance_uid": "0199d8a2-6c1e",
        "generation": 7,
        "state": "SUCCEEDED",
        "bytes_done": 98304,
    },
    "failed": {
        "instance_uid": "0199d8a2-6c1e",
        "generation": 7,
        "state": "FAILED",
        "reason": "the source closed the connection",
    },
}


# --- what agents ask: plain routes
async def get_moves(request: Request) -> Response:
    cluster_id, node_id = path_id(request, "cluster_id"), path_id(request, "node_id")
    same = unchanged(request, cluster_id, topics.moves(node_id))
    if same is not None:
        return same
    redis, key = redis_of(request), ClusterKeys(cluster_id).moves(node_id)
    none_yet: EncodedDocument | None = None

    async def read() -> str | None:
        nonlocal none_yet
        version = await version_in_force(request, cluster_id, topics.moves(node_id), key)
        if version is None:
            # Nothing was ever released to the node: an empty list to wait on, as any other.
            none_yet = await _no_moves(request, cluster_id, node_id)
            return none_yet.version
        none_yet = None
        return version

    async def absent() -> ProblemError:
        return service.absent(cluster_id, node_id)

    version = await await_version(request, cluster_id, topics.moves(node_id), read, absent, holder=node_id)
    if none_yet is not None:
        return conditional.respond(request, none_yet)
    tag = conditional.named_tag(request, version)
    if tag is not None:
        return conditional.not_modified(request, tag)
    document = await cache_of(request).get(redis, key, version)
    return conditional.respond(request, document or await _no_moves(request, cluster_id, node_id))


async def _no_moves(request: Request, cluster_id: str, node_id: str) -> EncodedDocument:
    redis = redis_of(request)
    cluster = await require_cluster(redis, cluster_id)
    await require_node(redis, cluster_id, node_id)
    metadata = ReleasedMovesMetadata(uid=cluster.uid, generation=0, digest="0" * 16)
    moves = ReleasedMoves(metadata=metadata, node_id=node_id, moves=[])
    return encode_document(
        moves.model_dump_json().encode(), uid=cluster.uid, generation=0, digest=metadata.digest
    )


async def put_report(request: Request) -> Response:
    cluster_id = path_id(request, "cluster_id")
    plan_id, move_id = request.path_params["plan_id"], request.path_params["move_id"]
    report = await read_json(request, MoveReport)
    node_id = principal_of(request).node_id
    return json_answer(
        await report_move(
            redis_of(request), _memory(request), cluster_id, plan_id, move_id, report, by_node=node_id
        )
    )


async def post_reports(request: Request) -> Response:
    cluster_id, node_id = path_id(request, "cluster_id"), path_id(request, "node_id")
    batch = await read_json(request, MoveReportBatch, limits=REPORT_LIMITS)
    return json_answer(
        await report_moves(redis_of(request), _memory(request), cluster_id, node_id, batch.reports)
    )


def _memory(request: Request) -> ReportMemory:
    state = request.app.state
    memory: ReportMemory | None = getattr(state, "report_memory", None)
    if memory is None:
        memory = state.report_memory = ReportMemory()
    return memory


MOVES = f"{CLUSTER}/nodes/{{node_id}}/moves"
REPORTS = f"{CLUSTER}/nodes/{{node_id}}/move_reports"
REPORT = f"{CLUSTER}/migration_plans/{{plan_id}}/moves/{{move_id}}/report"

polled = [Route(MOVES, get_moves, methods=["GET"])]
routes = [
    *polled,
    Route(REPORTS, post_reports, methods=["POST"]),
    Route(REPORT, put_report, methods=["PUT"]),
]

_PLAN_ID = {
    "name": "plan_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": RECORD_ID_PATTERN},
}
_MOVE_ID = {
    "name": "move_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1, "maxLength": 64},
}

openapi: dict[str, Any] = {
    "paths": {
        MOVES: {
            "get": operation(
                "get_moves",
                "Read the moves released to a node",
                "migrations",
                [CLUSTER_ID, NODE_ID, *CONDITIONAL],
                {
                    **document_answers(
                        ReleasedMoves, "The moves in order. A move disappears when it is done."
                    ),
                    **problems(404),
                },
                description="Only the newest waiting request of a node is held.",
            )
        },
        REPORTS: {
            "post": operation(
                "post_move_reports",
                "Report several moves",
                "migrations",
                [CLUSTER_ID, NODE_ID],
                {
                    200: answer(
                        MoveReportBatchAnswer,
                        "The number of accepted reports, and a pointer to each rejected one.",
                    ),
                    **problems(404, reads_body=True),
                },
                request=body(
                    MoveReportBatch,
                    examples={
                        "one": {
                            "reports": [
                                {"plan_id": "plan-7", "move_id": "m1", **REPORT_EXAMPLES["succeeded"]}
                            ]
                        }
                    },
                ),
            )
        },
        REPORT: {
            "put": operation(
                "put_move_report",
                "Report a move",
                "migrations",
                [CLUSTER_ID, _PLAN_ID, _MOVE_ID],
                {
                    200: answer(MoveReportAnswer, "Accepted, or already known."),
                    **problems(404, 409, reads_body=True),
                },
                description="The full state of the move. Repeating a report changes nothing, and the "
                "final state of an attempt cannot be changed. A success changes what the "
                "node is known to hold.",
                request=body(MoveReport, examples=REPORT_EXAMPLES),
            )
        },
    }
}


# --- what operators ask
@router.get(
    "",
    summary="List the migration plans",
    operation_id="list_migration_plans",
    response_class=Response,
    responses={200: answer(PlanList, "A page, newest first, without moves."), **problems(404)},
)
async def list_plans(
    request: Request,
    cluster_id: ClusterId,
    limit: PageSize = 20,
    before: BeforeRecord = None,
) -> Response:
    return await large_json_answer(
        await service.list_plans(redis_of(request), cluster_id, limit=limit, before=before)
    )


@router.post(
    "",
    status_code=202,
    summary="Plan a migration between generations",
    description="Returns the moves, bytes and seconds that are needed; with `validate_only` false the "
    "plan is carried out. With `Prefer: wait=N` the answer is 200 if the plan is made "
    "within N <= 30 seconds.",
    operation_id="create_migration_plan",
    response_class=Response,
    openapi_extra={
        **body(PlanRequest, examples={"what would it take": {"from_generation": 6, "to_generation": 7}}),
        "parameters": [PREFER_WAIT],
    },
    responses={
        200: answer(PlanSummary, "The plan is made.", headers=LOCATION),
        202: answer(PlanSummary, "The request waits for the worker.", headers=LOCATION),
        **problems(404, 429, reads_body=True),
    },
)
async def create_plan(
    request: Request, cluster_id: ClusterId, wanted: Annotated[PlanRequest, Depends(json_body(PlanRequest))]
) -> Response:
    redis = redis_of(request)
    record = await service.create_plan(redis, cluster_id, wanted)
    first = PlanSummary.model_validate(record.model_dump(exclude={"moves"}))

    async def read() -> PlanSummary:
        return await store.read_summary(redis, cluster_id, record.plan_id) or first

    def made(summary: PlanSummary) -> bool:
        return summary.estimate is not None or summary.state is not PlanState.PENDING

    summary = first
    seconds = conditional.wait_seconds(request)
    if seconds:
        waiter = waiters_of(request).waiter(cluster_id, topics.plan(record.plan_id), token=token_of(request))
        summary = await wait_until(waiter, seconds, read, made)
    return json_answer(
        summary,
        status=200 if made(summary) else 202,
        headers={
            **conditional.waited(request),
            "Location": f"/v1/clusters/{cluster_id}/migration_plans/{record.plan_id}",
        },
    )


@router.get(
    "/{plan_id}",
    summary="Read a plan and its progress",
    operation_id="get_migration_plan",
    response_class=Response,
    openapi_extra={"parameters": CONDITIONAL},
    responses={**document_answers(PlanResource, "With all its moves."), **problems(404)},
)
async def get_plan(request: Request, cluster_id: ClusterId, plan_id: RecordId) -> Response:
    redis = redis_of(request)
    cluster = await require_cluster(redis, cluster_id)
    stored: bytes | None = None

    async def read() -> str | None:
        nonlocal stored
        stored = await store.read_resource(redis, cluster_id, plan_id)
        return None if stored is None else version_of(stored, cluster.uid)

    async def absent() -> ProblemError:
        # Nothing comes to be under an id that was not given out.
        raise service.absent(cluster_id, plan_id)

    await await_version(request, cluster_id, topics.plan(plan_id), read, absent)
    return await versioned_answer(request, stored or b"", uid=cluster.uid)


def _told() -> dict[int | str, dict[str, Any]]:
    return {
        202: answer(
            PlanSummary,
            "The worker was notified, or the plan is already in this state. The "
            "answer is the plan as it is now.",
        ),
        **problems(404, 409, 429),
    }


@router.post(
    "/{plan_id}:pause",
    status_code=202,
    summary="Pause a plan: release no further moves",
    operation_id="pause_migration_plan",
    response_class=Response,
    responses=_told(),
)
async def pause_plan(request: Request, cluster_id: ClusterId, plan_id: RecordId) -> Response:
    return json_answer(
        await service.command(redis_of(request), cluster_id, plan_id, PlanVerb.PAUSE), status=202
    )


@router.post(
    "/{plan_id}:resume",
    status_code=202,
    summary="Resume a plan",
    operation_id="resume_migration_plan",
    response_class=Response,
    responses=_told(),
)
async def resume_plan(request: Request, cluster_id: ClusterId, plan_id: RecordId) -> Response:
    return json_answer(
        await service.command(redis_of(request), cluster_id, plan_id, PlanVerb.RESUME), status=202
    )


@router.post(
    "/{plan_id}:cancel",
    status_code=202,
    summary="Cancel a plan",
    description="DRAIN: released moves finish, and nothing else is released. ROLLBACK: return to the "
    "generation before. Without a body: DRAIN.",
    operation_id="cancel_migration_plan",
    response_class=Response,
    openapi_extra=body(CancelRequest, examples={"rollback": {"mode": "ROLLBACK"}}, required=False),
    responses={
        **_told(),
        **problems(404, 409, 429, reads_body=True),
    },
)
async def cancel_plan(
    request: Request,
    cluster_id: ClusterId,
    plan_id: RecordId,
    wanted: Annotated[CancelRequest, Depends(json_body(CancelRequest, required=False))],
) -> Response:
    summary = await service.command(redis_of(request), cluster_id, plan_id, PlanVerb.CANCEL, wanted.mode)
    return json_answer(summary, status=202)
