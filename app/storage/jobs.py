"""What the API asks of the worker: entries of the cluster's list of jobs, in the order they were asked."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from app.schema import Schema

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
