"""/v1/clusters/{cluster_id}/optimizations"""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from app.clusters.store import require_cluster
from app.errors import ProblemError
from app.http import conditional
from app.http.answers import json_answer, large_json_answer, version_of, versioned_answer
from app.http.document import await_version
from app.http.json_body import json_body
from app.http.openapi import CONDITIONAL, PREFER_WAIT, answer, body, document_answers, problems
from app.http.parameters import BeforeRecord, ClusterId, PageSize, RecordId
from app.http.state import redis_of, token_of, waiters_of
from app.http.waiting import wait_until
from app.optimizations import service, store
from app.optimizations.schemas import AlgorithmList, OptimizationList, OptimizationRecord, OptimizationRequest
from app.storage import topics
from app.storage.keys import ClusterKeys
from app.storage.records import read_record

router = APIRouter(prefix="/v1/clusters/{cluster_id}/optimizations", tags=["optimizations"])
algorithms_router = APIRouter(prefix="/v1/algorithms", tags=["optimizations"])

LOCATION = {"Location": {"description": "URL of the optimization.", "schema": {"type": "string"}}}
APPLIED = {"Preference-Applied": {"description": "wait=N", "schema": {"type": "string"}}}
EXAMPLES = {
    "now": {},
    "what if": {
        "validate_only": True,
        "algorithm": "certified",
        "time_limit_seconds": 10.0,
        "overrides": {"remove_nodes": ["node-b"], "capacity_bytes": {"node-a": 8000000000}},
    },
}


@router.post(
    "",
    status_code=202,
    summary="Solve now, or ask what a solve would give",
    description="With `validate_only` nothing is put into force. With `Prefer: wait=N` the answer is "
    "200 if the solve ends within N <= 30 seconds.",
    operation_id="create_optimization",
    response_class=Response,
    openapi_extra={**body(OptimizationRequest, examples=EXAMPLES), "parameters": [PREFER_WAIT]},
    responses={
        200: answer(OptimizationRecord, "The solve has ended.", headers=LOCATION | APPLIED),
        202: answer(OptimizationRecord, "The solve waits or runs.", headers=LOCATION),
        **problems(404, 429, reads_body=True),
    },
)
async def create_optimization(
    request: Request,
    cluster_id: ClusterId,
    wanted: Annotated[OptimizationRequest, Depends(json_body(OptimizationRequest))],
) -> Response:
    redis = redis_of(request)
    record = await service.start(redis, cluster_id, wanted)
    identity = record.optimization_id

    async def read() -> OptimizationRecord:
        stored = await store.read_stored(redis, cluster_id, identity)
        key = ClusterKeys(cluster_id).optimization(identity)
        return record if stored is None else read_record(OptimizationRecord, stored, key)

    seconds = conditional.wait_seconds(request)
    if seconds:
        waiter = waiters_of(request).waiter(
            cluster_id, topics.optimization(identity), token=token_of(request)
        )
        record = await wait_until(waiter, seconds, read, lambda found: found.state in service.FINAL)
    return json_answer(
        record,
        status=200 if record.state in service.FINAL else 202,
        headers={
            **conditional.waited(request),
            "Location": f"/v1/clusters/{cluster_id}/optimizations/{identity}",
        },
    )


@router.get(
    "",
    summary="List the optimizations",
    operation_id="list_optimizations",
    response_class=Response,
    responses={200: answer(OptimizationList, "A page, newest first."), **problems(404)},
)
async def list_optimizations(
    request: Request,
    cluster_id: ClusterId,
    limit: PageSize = 20,
    before: BeforeRecord = None,
) -> Response:
    return await large_json_answer(
        await service.list_optimizations(redis_of(request), cluster_id, limit=limit, before=before)
    )


@router.get(
    "/{optimization_id}",
    summary="Read an optimization",
    operation_id="get_optimization",
    response_class=Response,
    openapi_extra={"parameters": CONDITIONAL},
    responses={
        **document_answers(OptimizationRecord, "Its state, and its result once it has ended."),
        **problems(404),
    },
)
async def get_optimization(request: Request, cluster_id: ClusterId, optimization_id: RecordId) -> Response:
    redis = redis_of(request)
    cluster = await require_cluster(redis, cluster_id)
    stored: bytes | None = None

    async def read() -> str | None:
        nonlocal stored
        stored = await store.read_stored(redis, cluster_id, optimization_id)
        return None if stored is None else version_of(stored, cluster.uid)

    async def absent() -> ProblemError:
        # Nothing comes to be under an id that was not given out.
        raise service.absent(cluster_id, optimization_id)

    await await_version(request, cluster_id, topics.optimization(optimization_id), read, absent)
    return await versioned_answer(request, stored or b"", uid=cluster.uid)


@router.post(
    "/{optimization_id}:cancel",
    summary="Cancel an optimization",
    operation_id="cancel_optimization",
    response_class=Response,
    responses={200: answer(OptimizationRecord, "Cancelled."), **problems(404, 409)},
)
async def cancel_optimization(request: Request, cluster_id: ClusterId, optimization_id: RecordId) -> Response:
    return json_answer(await service.cancel(redis_of(request), cluster_id, optimization_id))


@algorithms_router.get(
    "",
    summary="List the algorithms that placements can be computed with",
    operation_id="list_algorithms",
    response_class=Response,
    responses={200: answer(AlgorithmList, "Every algorithm."), **problems()},
)
async def list_algorithms() -> Response:
    return json_answer(await asyncio.to_thread(service.list_algorithms))
