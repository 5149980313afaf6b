"""/v1/clusters"""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from app.access.guard import principal_of
from app.clusters import service
from app.clusters.schemas import ClusterList, ClusterResource, ClusterSettings
from app.http.answers import json_answer
from app.http.json_body import json_body
from app.http.openapi import answer, body, problems
from app.http.parameters import ClusterId
from app.http.state import redis_of, settings_of

router = APIRouter(prefix="/v1/clusters", tags=["clusters"])


@router.get(
    "",
    summary="List the clusters",
    operation_id="list_clusters",
    response_class=Response,
    responses={200: answer(ClusterList, "Ids, in order, of those the token is for."), **problems()},
)
async def list_clusters(request: Request) -> Response:
    return json_answer(await service.list_clusters(redis_of(request), only=principal_of(request).cluster_id))


@router.get(
    "/{cluster_id}",
    summary="Read a cluster",
    operation_id="get_cluster",
    response_class=Response,
    responses={200: answer(ClusterResource, "Its settings and members."), **problems(404)},
)
async def get_cluster(request: Request, cluster_id: ClusterId) -> Response:
    return json_answer(await service.get_cluster(redis_of(request), cluster_id))


@router.put(
    "/{cluster_id}",
    summary="Create a cluster or replace its settings",
    description="Registering a model or a node creates the cluster too, with default settings.",
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
                "min_replicas": 0,
                "optimization_interval_seconds": 60.0,
            },
            "gentle migrations": {
                "max_moves_per_interval": 200,
                "max_migration_bytes_per_second": 2.5e7,
                "max_node_migration_bytes_per_second": 1e7,
            },
        },
    ),
    responses={
        200: answer(ClusterResource, "Replaced, or as it was."),
        201: answer(ClusterResource, "Created."),
        **problems(409, reads_body=True),
    },
)
async def put_cluster(
    request: Request,
    cluster_id: ClusterId,
    settings: Annotated[ClusterSettings, Depends(json_body(ClusterSettings))],
) -> Response:
    cluster, created = await service.put_cluster(
        redis_of(request), cluster_id, settings, limit=settings_of(request).max_clusters
    )
    headers = {"Location": f"/v1/clusters/{cluster_id}"} if created else None
    return json_answer(cluster, status=201 if created else 200, headers=headers)


@router.delete(
    "/{cluster_id}",
    status_code=204,
    summary="Forget a cluster",
    description="With its models, nodes, statistics, placements and plans; refused while a node of it lives.",
    operation_id="delete_cluster",
    response_class=Response,
    responses={204: {"description": "Forgotten."}, **problems(404, 409)},
)
async def delete_cluster(request: Request, cluster_id: ClusterId) -> Response:
    await service.delete_cluster(redis_of(request), cluster_id)
    return Response(status_code=204)
