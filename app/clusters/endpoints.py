"""/v1/clusters"""

from typing import Annotated

import orjson
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from app.access.guard import principal_of
from app.clusters import service
from app.clusters.changes import changes, patched
from app.clusters.schemas import ClusterList, ClusterResource, ClusterSettings
from app.http import conditional
from app.http.answers import json_answer
from app.http.json_body import MERGE_PATCH, json_body, judged, read_merge_patch
from app.http.noted import note_changes
from app.http.openapi import answer, body, problems
from app.http.parameters import ClusterId
from app.http.state import redis_of, settings_of

SETTINGS_TAG = {
    "ETag": {
        "description": "Version of the settings. It changes only when the settings change.",
        "schema": {"type": "string"},
    }
}
MATCHING = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "The ETag of the settings to be changed.",
    "schema": {"type": "string"},
}
PATCH_BODY = {
    "required": True,
    "content": {
        MERGE_PATCH: {
            "schema": {"type": "object", "maxProperties": 100, "propertyNames": {"maxLength": 64}},
            "examples": {
                "slower": {"value": {"optimization_interval_seconds": 600.0}},
                "the origin stays, faster": {"value": {"origin": {"egress_bytes_per_second": 2.5e8}}},
                "no limit any more": {"value": {"max_moves_per_interval": None}},
                "no decay": {"value": {"statistics_half_life_seconds": None}},
            },
        }
    },
}

router = APIRouter(prefix="/v1/clusters", tags=["clusters"])


@router.get(
    "",
    summary="List the clusters",
    operation_id="list_clusters",
    response_class=Response,
    responses={
        200: answer(ClusterList, "Ids of the clusters that the token may read, sorted."),
        **problems(),
    },
)
async def list_clusters(request: Request) -> Response:
    return json_answer(await service.list_clusters(redis_of(request), only=principal_of(request).cluster_id))


@router.get(
    "/{cluster_id}",
    summary="Read a cluster",
    operation_id="get_cluster",
    response_class=Response,
    responses={
        200: answer(ClusterResource, "Its settings and members.", headers=SETTINGS_TAG),
        **problems(404),
    },
)
async def get_cluster(request: Request, cluster_id: ClusterId) -> Response:
    cluster = await service.get_cluster(redis_of(request), cluster_id)
    return json_answer(cluster, headers=_tagged(cluster))


@router.put(
    "/{cluster_id}",
    summary="Create a cluster or replace its settings",
    description="Settings that are left out return to their defaults; `reset` in the answer names "
    "those that this changed. PATCH changes only the settings it names. Registering a "
    "model or a node also creates the cluster, with default settings. With `If-Match`, "
    "the request is refused if the settings have changed meanwhile.",
    operation_id="put_cluster",
    response_class=Response,
    openapi_extra=body(
        ClusterSettings,
        examples={
            "defaults": {},
            "origin": {
                "origin": {
                    "base_url": "https://experts.example",
                    "egress_bytes_per_second": 1.25e8,
                    "latency_seconds": 0.08,
                },
                "optimization_interval_seconds": 60.0,
            },
            "gentle migrations": {
                "max_moves_per_interval": 200,
                "max_migration_bytes_per_second": 2.5e7,
                "max_node_migration_bytes_per_second": 1e7,
            },
        },
    )
    | {"parameters": [MATCHING]},
    responses={
        200: answer(ClusterResource, "Replaced, or unchanged.", headers=SETTINGS_TAG),
        201: answer(ClusterResource, "Created.", headers=SETTINGS_TAG),
        **problems(409, 412, reads_body=True),
    },
)
async def put_cluster(
    request: Request,
    cluster_id: ClusterId,
    settings: Annotated[ClusterSettings, Depends(json_body(ClusterSettings))],
) -> Response:
    written = await service.put_cluster(
        redis_of(request), cluster_id, settings, _check(request), limit=settings_of(request).max_clusters
    )
    created = written.before is None
    headers = {"Location": f"/v1/clusters/{cluster_id}"} if created else {}
    return _answer(request, written, status=201 if created else 200, headers=headers)


@router.patch(
    "/{cluster_id}",
    summary="Change some of a cluster's settings",
    description="A JSON merge patch (RFC 7396): it changes the settings that it names. Null turns off what "
    "can be off (the origin, a limit, the half-life of statistics), and returns any other setting to its "
    "default. Without an origin `min_replicas` cannot stay 0: it returns to 1, and `reset` in the answer "
    "says so. With `If-Match`, the request is refused if the settings have changed meanwhile.",
    operation_id="patch_cluster",
    response_class=Response,
    openapi_extra={"requestBody": PATCH_BODY, "parameters": [MATCHING]},
    responses={
        200: answer(ClusterResource, "Changed, or unchanged.", headers=SETTINGS_TAG),
        **problems(404, 409, 412, reads_body=True),
    },
)
async def patch_cluster(request: Request, cluster_id: ClusterId) -> Response:
    patch = await read_merge_patch(request)

    def change(before: ClusterSettings) -> tuple[ClusterSettings, list[str]]:
        after = patched(before, patch)
        return judged(ClusterSettings, orjson.dumps(after.document)), after.reset

    written = await service.patch_cluster(
        redis_of(request), cluster_id, change, _check(request), limit=settings_of(request).max_clusters
    )
    return _answer(request, written, status=200, headers={})


def _check(request: Request) -> service.Check:
    def check(version: str | None) -> None:
        if "if-match" in request.headers or "if-none-match" in request.headers:
            conditional.require_match(request, version)

    return check


def _answer(request: Request, written: service.Written, *, status: int, headers: dict[str, str]) -> Response:
    after = written.cluster.settings
    note_changes(request.scope, changes(written.before, after))
    return json_answer(written.cluster, status=status, headers={**headers, **_tagged(written.cluster)})


def _tagged(cluster: ClusterResource) -> dict[str, str]:
    return {"ETag": conditional.entity_tag(service.version_of(cluster))}


@router.delete(
    "/{cluster_id}",
    status_code=204,
    summary="Delete a cluster",
    description="Deletes its models, nodes, statistics, placements and plans. Refused while one of "
    "its nodes is live.",
    operation_id="delete_cluster",
    response_class=Response,
    responses={204: {"description": "Forgotten."}, **problems(404, 409)},
)
async def delete_cluster(request: Request, cluster_id: ClusterId) -> Response:
    await service.delete_cluster(redis_of(request), cluster_id)
    return Response(status_code=204)
