"""A solve that somebody asked for: now, or what if."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from app.schema import NODE_MEMORY, Bytes, Identifier, Schema, Timestamp
from solvers.problem import Coupling
from solvers.result import SolveStatus

Capacity = Annotated[Bytes, NODE_MEMORY]


class Overrides(Schema):
    """What to pretend."""

    capacity_bytes: Annotated[dict[Identifier, Capacity], Field(max_length=4096)] = {}
    remove_nodes: Annotated[list[Identifier], Field(max_length=4096)] = []
    origin: Annotated[bool | None, Field(description="false: as if there were no origin.")] = None
    min_replicas: Annotated[int | None, Field(ge=0, le=64)] = None


class OptimizationRequest(Schema):
    algorithm: Annotated[str | None, Field(max_length=64, description="null: the cluster's.")] = None
    params: Annotated[dict[Annotated[str, Field(max_length=64)], Any], Field(max_length=32)] = {}
    coupling: Coupling | None = None
    time_limit_seconds: Annotated[float | None, Field(ge=0.1, le=600)] = None
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    validate_only: Annotated[bool, Field(description="Compute the result without putting it into force.")] = (
        False
    )
    ignore_migration_cost: Annotated[bool, Field(description="Solve as if moving were free.")] = False
    overrides: Annotated[
        Overrides,
        Field(description="Only with validate_only: a hypothetical fleet cannot be put into force."),
    ] = Overrides()


class OptimizationState(StrEnum):
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class OptimizationResult(Schema):
    status: SolveStatus
    algorithm: str
    objective: float | None
    lower_bound: float | None
    gap_ratio: float | None
    mean_latency_seconds: float | None
    objective_before: Annotated[
        float | None, Field(description="Mean latency under the placement in force, on the same traffic.")
    ]
    runtime_seconds: float
    copies: Annotated[int | None, Field(description="Experts that some node would have to receive.")]
    migration_bytes: int | None
    migration_seconds: Annotated[
        float | None,
        Field(
            description="Expected duration of the copies including orders, reports and route "
            "switches, learned from past plans of the cluster."
        ),
    ] = None
    adopted: bool
    generation: Annotated[int | None, Field(description="Published, where adopted.")]
    detail: Annotated[str, Field(description="Why it was adopted or not, or what is missing, in words.")]
    remedy: Annotated[
        str | None, Field(description="What would make a placement possible if none was found, in words.")
    ] = None


class OptimizationRecord(Schema):
    optimization_id: str
    request: OptimizationRequest
    state: Annotated[
        OptimizationState,
        Field(
            description="FAILED has a `result` whose status says why; this includes solves that found "
            "no placement."
        ),
    ]
    created_at: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None
    result: OptimizationResult | None
    error: Annotated[str | None, Field(description="The reason, if state is FAILED.")]


class OptimizationList(Schema):
    optimizations: Annotated[list[OptimizationRecord], Field(description="Newest first.")]
    next_before: Annotated[str | None, Field(description="`before` of the next page; null: the last.")]


class AlgorithmDescription(Schema):
    name: str
    summary: str
    certifies: Annotated[bool, Field(description="It finds a lower bound of its own.")]


class AlgorithmList(Schema):
    algorithms: list[AlgorithmDescription]


MAX_RETAINED = 100
