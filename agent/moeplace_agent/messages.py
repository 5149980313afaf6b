"""What the service says to a node, as far as a node reads it. Unknown fields are ignored, so that a newer
service can say more."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec


class Intervals(msgspec.Struct, frozen=True):
    heartbeat_seconds: float
    telemetry_seconds: float


class NodeLease(msgspec.Struct, frozen=True):
    expires_at: datetime
    seconds: float


class Registration(msgspec.Struct, frozen=True):
    """The answer to a registration."""

    node_id: str
    uid: str
    cluster_uid: str
    intervals: Intervals


class Directive(StrEnum):
    REPORT_FULL_STATE = "REPORT_FULL_STATE"
    FETCH_ASSIGNMENT = "FETCH_ASSIGNMENT"
    DRAIN = "DRAIN"


class StatusAnswer(msgspec.Struct, frozen=True):
    """The answer to a heartbeat. Directives this agent does not know are kept as words and not followed."""

    cluster_uid: str
    generation: int | None
    lease: NodeLease
    intervals: Intervals
    directives: list[str]


class HeldExperts(msgspec.Struct, frozen=True):
    model_id: str
    layer: int
    experts: list[int]


class DeviceAssignment(msgspec.Struct, frozen=True):
    device_id: str
    holds: list[HeldExperts]


class TargetKind(StrEnum):
    NODE = "NODE"
    ORIGIN = "ORIGIN"


class RouteTarget(msgspec.Struct, frozen=True):
    """A place where experts are served; `latency_seconds` is seen from the node that asks. Experts are called
    at `base_url`, and fetched at `experts_url` where that is another."""

    kind: TargetKind
    node_id: str | None
    base_url: str | None
    latency_seconds: float
    experts_url: str | None = None


class LayerRoutes(msgspec.Struct, frozen=True):
    """`targets[i]` holds indices into the assignment's targets for `experts[i]`, best first."""

    model_id: str
    layer: int
    experts: list[int]
    targets: list[list[int]]


class Metadata(msgspec.Struct, frozen=True):
    uid: str
    generation: int
    digest: str

    @property
    def version(self) -> str:
        """What an entity tag carries, and what a heartbeat reports as the assignment in use."""
        return f"{self.uid}.{self.generation}.{self.digest}"


class Assignment(msgspec.Struct, frozen=True):
    metadata: Metadata
    node_id: str
    devices: list[DeviceAssignment]
    targets: list[RouteTarget]
    routes: list[LayerRoutes]
    evict: list[HeldExperts] = []


class MoveKind(StrEnum):
    COPY = "COPY"
    DROP = "DROP"


class MoveOrder(msgspec.Struct, frozen=True):
    """One released move. `source_node_id` null: the origin, or a drop."""

    move_id: str
    plan_id: str
    kind: MoveKind
    model_id: str
    layer: int
    expert: int
    bytes: int
    device_id: str | None
    source_node_id: str | None
    source_url: str | None
    expert_digest: str | None
    attempt: int
    rate_limit_bytes_per_second: float | None = None


class Orders(msgspec.Struct, frozen=True):
    metadata: Metadata
    node_id: str
    moves: list[MoveOrder]


class RejectedReport(msgspec.Struct, frozen=True):
    pointer: str
    detail: str
    code: str


class ReportAnswer(msgspec.Struct, frozen=True):
    accepted_count: int
    rejected: list[RejectedReport]


class FieldFault(msgspec.Struct, frozen=True):
    """A fault the service found, and its place."""

    pointer: str = ""
    detail: str = ""
    code: str = ""


class PartialSuccess(msgspec.Struct, frozen=True):
    rejected_count: int
    errors: list[FieldFault]


class TelemetryAnswer(msgspec.Struct, frozen=True):
    accepted_count: int
    duplicate: bool
    partial_success: PartialSuccess | None


class Problem(msgspec.Struct, frozen=True):
    """An error in the service's words (RFC 9457)."""

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""
    trace_id: str | None = None
    errors: list[FieldFault] = []
