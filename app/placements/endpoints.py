"""/v1/clusters/{cluster_id}/placement, /placements and what each node gets of them"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.clusters.store import require_cluster
from app.errors import NotFound, ProblemError
from app.http import conditional
from app.http.answers import json_answer, large_json_answer
from app.http.document import serve_document, unchanged
from app.http.json_body import Limits, json_body, read_json
from app.http.noted import Change, note_changes
from app.http.openapi import (
    CLUSTER_ID,
    CONDITIONAL,
    ETAG,
    NODE_ID,
    answer,
    body,
    document_answers,
    operation,
    problems,
)
from app.http.parameters import ClusterId, PageSize, path_id
from app.http.state import redis_of
from app.nodes.service import require_node
from app.placements import examples, service
from app.placements.schemas import (
    Assignment,
    AutomationState,
    OperatorPlacement,
    PlacementDocument,
    PlacementList,
    PlacementOutcome,
    PlacementStatus,
    RollbackRequest,
)
from app.schema import MAX_EXACT
from app.storage import topics
from app.storage.keys import ClusterKeys

CLUSTER = "/v1/clusters/{cluster_id}"
router = APIRouter(prefix=CLUSTER, tags=["placements"])

PLACEMENT = Limits(body_bytes=8 << 20, values=2**19, names=60_000)
"""Of a whole fleet."""


async def get_placement(request: Request) -> Response:
    cluster_id = path_id(request, "cluster_id")
    same = unchanged(request, cluster_id, topics.PLACEMENT)
    if same is not None:
        return same
    keys = ClusterKeys(cluster_id)

    async def absent() -> ProblemError:
        await require_cluster(redis_of(request), cluster_id)
        return NotFound(f"cluster {cluster_id} has no placement yet: it needs a model and nodes that hold it")

    def of_version(version: str) -> str:
        return keys.placement_generation(int(version.split(".")[1]))

    return await serve_document(
        request, cluster_id, topics.PLACEMENT, keys.placement, absent, version_key=of_version
    )


async def put_placement(request: Request) -> Response:
    cluster_id = path_id(request, "cluster_id")
    wanted = await read_json(request, OperatorPlacement, limits=PLACEMENT)
    document = await service.put_placement(
        redis_of(request), cluster_id, wanted, lambda version: conditional.require_match(request, version)
    )
    return conditional.represent(request, document)


async def get_assignment(request: Request) -> Response:
    cluster_id, node_id = path_id(request, "cluster_id"), path_id(request, "node_id")
    same = unchanged(request, cluster_id, topics.assignment(node_id))
    if same is not None:
        return same
    redis = redis_of(request)

    async def absent() -> ProblemError:
        await require_cluster(redis, cluster_id)
        await require_node(redis, cluster_id, node_id)
        return NotFound(f"node {node_id} has no assignment yet: the worker has not got to it")

    return await serve_document(
        request,
        cluster_id,
        topics.assignment(node_id),
        ClusterKeys(cluster_id).assignment(node_id),
        absent,
        holder=node_id,
    )


async def get_placement_status(request: Request) -> Response:
    cluster_id = path_id(request, "cluster_id")

    async def absent() -> ProblemError:
        await require_cluster(redis_of(request), cluster_id)
        return NotFound(f"nothing is known of cluster {cluster_id} yet: the worker has not got to it")

    return await serve_document(
        request, cluster_id, topics.STATUS, ClusterKeys(cluster_id).placement_status, absent
    )


polled = [
    Route(f"{CLUSTER}/nodes/{{node_id}}/assignment", get_assignment, methods=["GET"]),
    Route(f"{CLUSTER}/placement", get_placement, methods=["GET"]),
]
routes = [
    *polled,
    Route(f"{CLUSTER}/placement", put_placement, methods=["PUT"]),
    Route(f"{CLUSTER}/placement/status", get_placement_status, methods=["GET"]),
]

_TAG = "placements"
_MATCHING: list[dict[str, Any]] = [
    {
        "name": "If-Match",
        "in": "header",
        "required": False,
        "description": "The ETag of the placement that this one supersedes.",
        "schema": {"type": "string"},
    },
    {
        "name": "If-None-Match",
        "in": "header",
        "required": False,
        "description": "`*`: only if there is no placement yet.",
        "schema": {"type": "string"},
    },
]

openapi: dict[str, Any] = {
    "paths": {
        f"{CLUSTER}/nodes/{{node_id}}/assignment": {
            "get": operation(
                "get_assignment",
                "Read a node's experts and routes",
                _TAG,
                [CLUSTER_ID, NODE_ID, *CONDITIONAL],
                {
                    **document_answers(Assignment, "What the node polls.", example=examples.ASSIGNMENT),
                    **problems(404),
                },
                description="What the node should hold in the end, and where to call the experts that "
                "it does not hold now. Only the newest waiting request of a node is held.",
            )
        },
        f"{CLUSTER}/placement": {
            "get": operation(
                "get_placement",
                "Read the placement in force",
                _TAG,
                [CLUSTER_ID, *CONDITIONAL],
                {
                    **document_answers(
                        PlacementDocument,
                        "Which node should hold which experts, and the evidence for it.",
                        example=examples.PLACEMENT,
                    ),
                    **problems(404),
                },
            ),
            "put": operation(
                "put_placement",
                "Put a placement of your own into force",
                _TAG,
                [CLUSTER_ID, *_MATCHING],
                {
                    200: answer(PlacementDocument, "In force, as a new generation.", headers=ETAG),
                    **problems(404, 409, 412, 428, reads_body=True),
                },
                description="Nodes and layers that are not named hold nothing. The placement must fit "
                "the memory and devices of the nodes, and hold every expert often enough. "
                "Pause the automatic recomputation to keep it. Sending the placement that "
                "is already in force changes nothing: resume a paused plan to it, or make "
                "a new plan after a cancelled one with `POST /migration_plans`.",
                request=body(OperatorPlacement, examples={"two nodes": {"holds": examples.HOLDS}}),
            ),
        },
        f"{CLUSTER}/placement/status": {
            "get": operation(
                "get_placement_status",
                "Read the conditions and the progress of nodes",
                _TAG,
                [CLUSTER_ID, *CONDITIONAL],
                {**document_answers(PlacementStatus, "Conditions and nodes."), **problems(404)},
            )
        },
    }
}


@router.post(
    "/placement:rollback",
    summary="Roll back to an earlier placement",
    description="Puts an earlier placement into force as a new generation. Pause the automatic "
    "recomputation to keep it. With `If-Match`, the request is refused if another "
    "placement came into force meanwhile.",
    operation_id="rollback_placement",
    response_class=Response,
    openapi_extra={
        **body(RollbackRequest, examples={"rollback": {"to_generation": 6}}),
        "parameters": [{**_MATCHING[0], "description": "The ETag of the placement in force."}],
    },
    responses={
        200: answer(PlacementDocument, "In force, as a new generation.", headers=ETAG),
        **problems(404, 409, 410, 412, reads_body=True),
    },
)
async def rollback_placement(
    request: Request,
    cluster_id: ClusterId,
    wanted: Annotated[RollbackRequest, Depends(json_body(RollbackRequest))],
) -> Response:
    def check(version: str | None) -> None:
        if "if-match" in request.headers:
            conditional.require_match(request, version)

    document = await service.rollback(redis_of(request), cluster_id, wanted.to_generation, check)
    return conditional.represent(request, document)


@router.post(
    "/placement:pause",
    summary="Pause automatic recomputation",
    operation_id="pause_placement",
    response_class=Response,
    responses={200: answer(AutomationState, "Paused."), **problems(404)},
)
async def pause_placement(request: Request, cluster_id: ClusterId) -> Response:
    return await _set_paused(request, cluster_id, paused=True)


@router.post(
    "/placement:resume",
    summary="Resume automatic recomputation",
    operation_id="resume_placement",
    response_class=Response,
    responses={200: answer(AutomationState, "Not paused."), **problems(404)},
)
async def resume_placement(request: Request, cluster_id: ClusterId) -> Response:
    return await _set_paused(request, cluster_id, paused=False)


async def _set_paused(request: Request, cluster_id: str, *, paused: bool) -> Response:
    before = await service.set_paused(redis_of(request), cluster_id, paused)
    note_changes(request.scope, [Change(pointer="/paused", old=before, new=paused)])
    return json_answer(AutomationState(paused=paused))


@router.get(
    "/placements",
    summary="List the placements",
    operation_id="list_placements",
    response_class=Response,
    responses={200: answer(PlacementList, "A page, newest first."), **problems(404)},
)
async def list_placements(
    request: Request,
    cluster_id: ClusterId,
    limit: PageSize = 20,
    before: Annotated[int | None, Query(ge=1, le=MAX_EXACT)] = None,
) -> Response:
    return await large_json_answer(
        await service.list_placements(redis_of(request), cluster_id, limit=limit, before=before)
    )


@router.get(
    "/placements/{generation}",
    summary="Read one generation",
    operation_id="get_placement_generation",
    response_class=Response,
    responses={
        **document_answers(PlacementDocument, "It never changes.", example=examples.PLACEMENT),
        **problems(404, 410),
    },
)
async def get_placement_generation(
    request: Request, cluster_id: ClusterId, generation: Annotated[int, Path(ge=1, le=MAX_EXACT)]
) -> Response:
    document = await service.require_generation(redis_of(request), cluster_id, generation)
    return conditional.respond(request, document, cache_control=conditional.IMMUTABLE)


@router.get(
    "/placements/{generation}/outcome",
    summary="Read the outcome of a placement",
    description="Compares predicted and achieved improvement. The achieved improvement is measured "
    "repeatedly while the placement is in force, on traffic from after its convergence: "
    "the expected latency under this placement and under the one before.",
    operation_id="get_placement_outcome",
    response_class=Response,
    responses={200: answer(PlacementOutcome, "The outcome, as far as it is known."), **problems(404, 410)},
)
async def get_placement_outcome(
    request: Request, cluster_id: ClusterId, generation: Annotated[int, Path(ge=1, le=MAX_EXACT)]
) -> Response:
    return json_answer(await service.read_outcome(redis_of(request), cluster_id, generation))
