"""/v1/clusters/{cluster_id}/audit and /v1/audit"""

from typing import Annotated

from fastapi import APIRouter, Query
from redis.asyncio import Redis
from starlette.requests import Request
from starlette.responses import Response

from app.audit import store
from app.audit.schemas import AUDIT_ID_PATTERN, AuditList
from app.clusters.store import require_cluster
from app.http.answers import large_json_answer
from app.http.openapi import answer, problems
from app.http.parameters import ClusterId, PageSize
from app.http.state import redis_of
from app.storage.keys import EVERYWHERE

router = APIRouter(prefix="/v1", tags=["audit"])

Before = Annotated[str | None, Query(pattern=AUDIT_ID_PATTERN)]


@router.get(
    "/audit",
    summary="List what operators changed in the service",
    description="Clusters that were created, changed and deleted, and tokens of all clusters. The newest "
    f"{store.KEPT} entries are kept.",
    operation_id="list_global_audit",
    response_class=Response,
    responses={200: answer(AuditList, "A page, newest first."), **problems()},
)
async def list_global_audit(request: Request, limit: PageSize = 20, before: Before = None) -> Response:
    return await _page(redis_of(request), EVERYWHERE, limit, before)


@router.get(
    "/clusters/{cluster_id}/audit",
    summary="List what operators changed in a cluster",
    description="Every successful change by an operator: who, when, in which trace, and the "
    f"generation in force before and after. The newest {store.KEPT} entries are kept.",
    operation_id="list_audit",
    response_class=Response,
    responses={200: answer(AuditList, "A page, newest first."), **problems(404)},
)
async def list_audit(
    request: Request, cluster_id: ClusterId, limit: PageSize = 20, before: Before = None
) -> Response:
    redis = redis_of(request)
    await require_cluster(redis, cluster_id)
    return await _page(redis, cluster_id, limit, before)


async def _page(redis: Redis, scope: str, limit: int, before: str | None) -> Response:
    entries, next_before = await store.read_page(redis, scope, limit=limit, before=before)
    return await large_json_answer(AuditList(entries=entries, next_before=next_before))
