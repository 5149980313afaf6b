"""Migration plans, the moves released to nodes, and what nodes report of them."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from app.models.schemas import Sha256
from app.schema import (
    MAX_EXACT,
    Bytes,
    ExpertId,
    Identifier,
    InstanceUid,
    Layer,
    RecordId,
    Schema,
    Timestamp,
)
from migrations.model import MoveKind
from migrations.states import MoveState, PlanState

PlanId = RecordId


class PlannedMove(Schema):
    """One move of a plan, with the names the API uses. `source` null: a drop; "origin" is `from_origin`."""

    move_id: str
    kind: MoveKind
    model_id: Identifier
    layer: Layer
    expert: ExpertId
    source: Identifier | None
    from_origin: bool
    destination: Identifier
    bytes: int
    depends_on: list[str]
    start_seconds: float
    end_seconds: float


class PlanEstimate(Schema):
    """transfer_seconds and lower_bound_seconds count what the links need, and nothing else."""

    bytes: int
    seconds: Annotated[
        float,
        Field(
            description="Expected duration including orders, reports and route switches, learned from "
            "past plans of the cluster."
        ),
    ]
    transfer_seconds: Annotated[
        float | None, Field(description="Time that the copies need on the links; null for older plans.")
    ] = None
    lower_bound_seconds: Annotated[
        float, Field(description="Lower bound for every plan between these placements on these links.")
    ]


class PlanProgress(Schema):
    moves_total: int
    moves_succeeded: int
    moves_failed: int
    moves_released: int
    bytes_total: int
    bytes_done: int


class PlanRecord(Schema):
    """A plan and its state, as stored; moves are immutable, the rest is the worker's to change."""

    plan_id: PlanId
    from_generation: int | None
    to_generation: int
    created_at: Timestamp
    updated_at: Timestamp
    state: PlanState
    reason: Annotated[
        str | None, Field(description="Why the plan failed, was cancelled or superseded, in words.")
    ]
    validate_only: bool
    rate_limit_bytes_per_second: Annotated[
        float | None,
        Field(description="Limit on what each node receives, and sends, for this plan; null: no limit."),
    ] = None
    estimate: Annotated[PlanEstimate | None, Field(description="null until it is planned.")]
    progress: PlanProgress
    moves: list[PlannedMove]


class PlanSummary(Schema):
    plan_id: PlanId
    from_generation: int | None
    to_generation: int
    created_at: Timestamp
    updated_at: Timestamp
    state: PlanState
    reason: str | None
    validate_only: bool
    rate_limit_bytes_per_second: Annotated[
        float | None,
        Field(description="Limit on what each node receives, and sends, for this plan; null: no limit."),
    ] = None
    estimate: Annotated[PlanEstimate | None, Field(description="null until it is planned.")]
    progress: PlanProgress


class PlanList(Schema):
    migration_plans: Annotated[list[PlanSummary], Field(description="Newest first.")]
    next_before: Annotated[str | None, Field(description="`before` of the next page; null: the last.")]


class MoveProgress(Schema):
    """The executor's view of one move."""

    move_id: str
    state: MoveState
    attempts: int
    source: Identifier | None
    from_origin: bool
    bytes_done: int
    reason: str | None
    released_at: Timestamp | None
    finished_at: Timestamp | None


class PlanResource(PlanRecord):
    progress_of_moves: list[MoveProgress]


class PlanRequest(Schema):
    """What would it take to go from one generation to another; with `validate_only` false, go there."""

    from_generation: Annotated[
        int | None, Field(ge=1, le=MAX_EXACT, description="null: what the nodes hold now.")
    ] = None
    to_generation: Annotated[int, Field(ge=1, le=MAX_EXACT)]
    validate_only: bool = True


class CancelMode(StrEnum):
    DRAIN = "DRAIN"
    """Released moves finish, the rest is cancelled."""
    ROLLBACK = "ROLLBACK"
    """Back to the generation the plan came from."""


class PlanVerb(StrEnum):
    PAUSE = "PAUSE"
    RESUME = "RESUME"
    CANCEL = "CANCEL"


class CancelRequest(Schema):
    mode: CancelMode = CancelMode.DRAIN


class PlanCommand(Schema):
    """Waits for the worker."""

    plan_id: PlanId
    verb: PlanVerb
    mode: CancelMode | None = None


class ReleasedMove(Schema):
    """An order to a node."""

    move_id: str
    plan_id: PlanId
    kind: MoveKind
    model_id: Identifier
    layer: Layer
    expert: ExpertId
    bytes: int
    device_id: Identifier | None
    source_node_id: Annotated[Identifier | None, Field(description="null: the origin, or a drop.")]
    source_url: str | None
    expert_digest: Sha256 | None
    attempt: int
    rate_limit_bytes_per_second: Annotated[
        float | None,
        Field(
            description="Fetch the copy no faster than this, one move after another, so that tokens "
            "keep the rest of the bandwidth; null: no limit, or a drop."
        ),
    ]


class ReleasedMovesMetadata(Schema):
    uid: str
    generation: int
    digest: str


class ReleasedMoves(Schema):
    metadata: ReleasedMovesMetadata
    node_id: Identifier
    moves: Annotated[
        list[ReleasedMove], Field(description="The moves in order. A move disappears when it is done.")
    ]


class ReportedState(StrEnum):
    IN_PROGRESS = "IN_PROGRESS"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


class MoveReport(Schema):
    """The full state of one move at its node; the same report twice changes nothing."""

    instance_uid: InstanceUid
    generation: Annotated[int, Field(ge=0, le=MAX_EXACT, description="Of the orders the move came with.")]
    attempt: Annotated[int, Field(ge=1, le=1000)] = 1
    state: ReportedState
    bytes_done: Bytes = 0
    digest: Annotated[Sha256 | None, Field(description="Of the expert's bytes as received.")] = None
    reason: Annotated[str | None, Field(max_length=1000)] = None

    @model_validator(mode="after")
    def _reason_given(self) -> Self:
        if self.state is ReportedState.FAILED and not self.reason:
            raise ValueError("a FAILED report needs a reason")
        return self


class MoveReportItem(MoveReport):
    plan_id: PlanId
    move_id: Annotated[str, Field(min_length=1, max_length=64)]


class MoveReportBatch(Schema):
    reports: Annotated[list[MoveReportItem], Field(min_length=1, max_length=2000)]


class MoveReportRecord(MoveReport):
    """As stored, with who sent it."""

    node_id: Identifier
    received_at: Timestamp


class MoveReportOutcome(StrEnum):
    ACCEPTED = "ACCEPTED"
    UNCHANGED = "UNCHANGED"
    """The same state was reported before, or a final one is already known."""


class MoveReportAnswer(Schema):
    outcome: MoveReportOutcome


class RejectedReport(Schema):
    pointer: str
    detail: str
    code: str


class MoveReportBatchAnswer(Schema):
    accepted_count: int
    rejected: list[RejectedReport]
