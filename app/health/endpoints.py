"""Whether the process lives, whether the service can work, and what it measures."""

import asyncio
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import Field
from redis.exceptions import RedisError, ResponseError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.errors import FieldError, Unavailable
from app.http.openapi import problem
from app.http.state import probing_redis_of, waiters_of
from app.observability.exposition import OPENMETRICS, exposition
from app.observability.metrics import TALLY
from app.schema import Schema
from app.storage import workers
from app.storage.writable import WritesRefused, check_writable

CHECK_SECONDS = 1.0

router = APIRouter(tags=["health"])


class Health(Schema):
    status: Literal["ALIVE"] = "ALIVE"


class ReadinessChecks(Schema):
    redis: Literal["OK"] = Field("OK", description="Redis answers and takes writes.")
    worker: Literal["OK"] = Field("OK", description="A worker is alive that holds or can take every lease.")
    draining: Literal["NO"] = Field("NO", description="This process is not about to end.")


class Readiness(Schema):
    status: Literal["READY"] = "READY"
    checks: ReadinessChecks = ReadinessChecks()
    live_workers: int = Field(ge=1)


@router.get("/healthz")
async def healthz() -> Health:
    """The process is alive and its event loop runs. This does not check Redis or workers."""
    return Health()


@router.get(
    "/readyz",
    responses={503: problem(503)},
)
async def readyz(request: Request) -> Readiness:
    """Redis answers and takes writes, a worker lives that holds or can take the leases of all clusters, and
    this process is not draining. Otherwise 503, each failed check in `errors`."""
    failed: list[FieldError] = []
    redis = probing_redis_of(request)
    live = starting = 0
    if waiters_of(request).draining:
        failed.append(FieldError("/checks/draining", "this process is about to end", "DRAINING"))
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            live = await workers.alive(redis)
            if live == 0:
                starting = await workers.starting(redis)
            await check_writable(redis)
    except WritesRefused as error:
        failed.append(FieldError("/checks/redis", f"Redis refuses writes: {error}", "WRITES_REFUSED"))
    except ResponseError as error:
        failed.append(FieldError("/checks/redis", f"Redis answers with an error: {error}", "UNREACHABLE"))
    except (RedisError, OSError, TimeoutError):
        failed.append(FieldError("/checks/redis", "Redis does not answer", "UNREACHABLE"))
    else:
        if live == 0 and starting > 0:
            message = "a worker starts; the first start compiles kernels, which takes a minute or more"
            failed.append(FieldError("/checks/worker", message, "NO_WORKER"))
        elif live == 0:
            message = "no worker lives that could take a cluster's lease"
            failed.append(FieldError("/checks/worker", message, "NO_WORKER"))
    if failed:
        raise Unavailable("; ".join(fault.detail for fault in failed), retry_after_seconds=1, errors=failed)
    return Readiness(live_workers=live)


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "content": {
                "text/plain": {"schema": {"type": "string"}},
                OPENMETRICS: {"schema": {"type": "string"}},
            }
        }
    },
)
async def metrics(request: Request) -> Response:
    """Metrics of all processes of this service, in Prometheus' text format; as OpenMetrics, with exemplars
    that name traces, where `Accept` asks for it."""
    TALLY.flush()  # here, since only the event loop counts
    text, content_type = await run_in_threadpool(exposition, request.headers.get("accept", ""))
    return Response(text, headers={"Content-Type": content_type, "Vary": "Accept"})
