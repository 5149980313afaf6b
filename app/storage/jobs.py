"""What the API asks of the worker: entries of the cluster's list of jobs, in the order they were asked."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field
from redis.asyncio.client import Pipeline

from app.errors import TooManyRequests
from app.schema import Schema
from app.storage import topics
from app.storage.keys import ClusterKeys

MAX_QUEUED = 16
"""Jobs waiting in a cluster; beyond, asking is answered 429."""


class JobKind(StrEnum):
    OPTIMIZATION = "OPTIMIZATION"
    """`id` names an `OptimizationRecord`, QUEUED when it was written."""
    PLAN = "PLAN"
    """`id` names a `PlanRecord`, PENDING, without moves: plan from `from_generation` (None: from what the
    nodes hold) to `to_generation`, and unless `validate_only` execute it."""


class Job(Schema):
    """One entry of `ClusterKeys.jobs`: RPUSHed by the API, LPOPed by the worker."""

    kind: JobKind
    id: Annotated[str, Field(min_length=1, max_length=64)]


async def require_room(pipe: Pipeline, keys: ClusterKeys) -> None:
    """`TooManyRequests` where `MAX_QUEUED` jobs wait; reads through a pipeline that watches the list."""
    waiting = await pipe.llen(keys.jobs)
    if waiting >= MAX_QUEUED:
        raise TooManyRequests(f"{waiting} jobs wait for the worker already", retry_after_seconds=10)


def queue_job(pipe: Pipeline, keys: ClusterKeys, job: Job) -> None:
    """Queue the job, and its announcement to the worker."""
    pipe.rpush(keys.jobs, job.model_dump_json())
    topics.announce(pipe, keys, topics.WORK)
