"""Nodes: what they are, what they say of themselves, and what they are told."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import FailFast, Field, field_validator, model_validator

from app.schema import (
    DEVICE_MEMORY,
    MAX_EXACT,
    Bytes,
    BytesPerSecond,
    ExpertId,
    HttpUrl,
    Identifier,
    InstanceUid,
    Latency,
    Layer,
    Schema,
    Timestamp,
)


class Device(Schema):
    device_id: Identifier
    memory_bytes: Annotated[
        Bytes, DEVICE_MEMORY, Field(description="What experts may use of the device's memory.")
    ]


class LatencySpec(Schema):
    """Seconds of one expert call made by this node: hidden state there, expert, result back."""

    local_seconds: Latency = 0.0
    peers_seconds: Annotated[dict[Identifier, Latency], Field(max_length=4096)] = {}
    origin_seconds: Latency | None = None


class NodeSpec(Schema):
    instance_uid: Annotated[InstanceUid, Field(description="New for every start of the node's agent.")]
    devices: Annotated[list[Device], Field(min_length=1, max_length=64)]
    ingress_bytes_per_second: BytesPerSecond = 1.25e8
    egress_bytes_per_second: BytesPerSecond = 1.25e8
    base_url: Annotated[
        HttpUrl | None,
        Field(
            description="URL at which peers call experts, and from which they fetch "
            "them if experts_url is not given."
        ),
    ] = None
    experts_url: Annotated[HttpUrl | None, Field(description="URL from which peers fetch experts.")] = None
    latency: LatencySpec = LatencySpec()

    @model_validator(mode="before")
    @classmethod
    def _without_labels(cls, given: Any) -> Any:
        """Earlier versions stored `labels`, which nothing used: requests and records may still have them."""
        if isinstance(given, dict) and "labels" in given:
            return {name: value for name, value in given.items() if name != "labels"}
        return given

    @field_validator("devices")
    @classmethod
    def _devices_differ(cls, devices: list[Device]) -> list[Device]:
        seen: dict[str, int] = {}
        for index, device in enumerate(devices):
            first = seen.setdefault(device.device_id, index)
            if first != index:
                raise ValueError(
                    f"devices {first} and {index} are both {device.device_id}: device_id must differ"
                )
        return devices


class NodeRecord(Schema):
    """As stored."""

    node_id: Identifier
    uid: str
    created_at: Timestamp
    updated_at: Timestamp
    draining: bool = False
    kept_out: Annotated[
        bool, Field(description="It had left, drained, and came back: it stays, and gets nothing.")
    ] = False
    spec: NodeSpec


class HeldExperts(Schema):
    """Experts of one layer of one model."""

    model_id: Identifier
    layer: Layer
    experts: Annotated[list[ExpertId], Field(max_length=4096), FailFast()]


class NodeHoldings(Schema):
    node_id: Identifier
    holds: Annotated[list[HeldExperts], Field(max_length=2**14)]


class HoldsChange(Schema):
    added: Annotated[list[HeldExperts], Field(max_length=4096)] = []
    removed: Annotated[list[HeldExperts], Field(max_length=4096)] = []


class ApplyState(StrEnum):
    APPLYING = "APPLYING"
    APPLIED = "APPLIED"
    FAILED = "FAILED"


class NodeStatusReport(Schema):
    """A heartbeat. The latest replaces all before it; a gap in `sequence_number` asks for `holds` in full."""

    instance_uid: InstanceUid
    sequence_number: Annotated[int, Field(ge=1, le=MAX_EXACT)]
    state: ApplyState = ApplyState.APPLIED
    reason: Annotated[str | None, Field(max_length=1000, description="The reason, if state is FAILED.")] = (
        None
    )
    generation: Annotated[
        int | None, Field(ge=0, le=MAX_EXACT, description="Placement generation last seen.")
    ] = None
    assignment_version: Annotated[
        str | None, Field(max_length=200, description="Version of the assignment whose routes are in use.")
    ] = None
    moves_version: Annotated[
        str | None,
        Field(
            max_length=200,
            description="Version of the released moves that the node follows: it neither starts nor "
            "continues a move that they do not list, and its holdings show what it did of "
            "such moves.",
        ),
    ] = None
    holds: Annotated[
        list[HeldExperts] | None,
        Field(max_length=4096, description="Everything it holds; null: see holds_changed."),
    ] = None
    holds_changed: HoldsChange | None = None
    holds_digest: Annotated[
        str | None,
        Field(
            max_length=64,
            pattern=r"^[0-9a-f]{64}$",
            description="SHA-256 over the sorted lines `model_id/layer/expert`, joined by newlines.",
        ),
    ] = None
    latency: Annotated[LatencySpec | None, Field(description="As measured; overrides the spec's.")] = None


class NodeStatusRecord(Schema):
    """The last heartbeat, as stored: the experts themselves are in the holdings."""

    instance_uid: InstanceUid
    sequence_number: int
    received_at: Timestamp
    state: ApplyState
    reason: str | None
    generation: int | None
    assignment_version: str | None
    moves_version: str | None = None
    holds_digest: Annotated[str | None, Field(description="As last reported.")]
    full_state_due: Annotated[
        bool, Field(description="Whether its holdings are uncertain until it reports `holds`.")
    ]
    latency: LatencySpec | None


class NodeConflict(Schema):
    """Two agents want to be one node, as stored: the one that has it, the one that came, and when it last did
    (milliseconds since the epoch, server's clock)."""

    at_milliseconds: int
    holder: str
    other: str


class NodeStatus(NodeStatusRecord):
    """The last heartbeat, and how many experts the node is known to hold now."""

    holds_count: int


class Directive(StrEnum):
    REPORT_FULL_STATE = "REPORT_FULL_STATE"
    """Send `holds` in the next heartbeat: a heartbeat was missed, or the digests differ."""
    FETCH_ASSIGNMENT = "FETCH_ASSIGNMENT"
    """The assignment has changed since the version reported."""
    DRAIN = "DRAIN"
    """An operator drained the node: it is given no experts until one lets it in again (`:undrain`)."""


class Intervals(Schema):
    heartbeat_seconds: float
    telemetry_seconds: float


class NodeLease(Schema):
    """Until when the node counts as live without another heartbeat."""

    expires_at: Timestamp
    seconds: float


class NodeStatusAnswer(Schema):
    cluster_uid: str
    generation: int | None
    lease: NodeLease
    intervals: Intervals
    directives: list[Directive]


class NodeCondition(StrEnum):
    LIVE = "LIVE"
    LOST = "LOST"
    DRAINING = "DRAINING"
    """It is being emptied, and goes once its experts live elsewhere."""
    DRAINED = "DRAINED"
    """It was emptied and came back: it is given no experts until an operator lets it in again."""


class NodeResource(Schema):
    node_id: Identifier
    uid: str
    cluster_uid: str
    created_at: Timestamp
    updated_at: Timestamp
    condition: NodeCondition
    spec: NodeSpec
    status: NodeStatus | None
    lease: NodeLease | None
    intervals: Intervals


class NodeList(Schema):
    nodes: Annotated[list[NodeResource], Field(description="In order of node_id.")]
    next_after: Annotated[Identifier | None, Field(description="`after` of the next page; null: the last.")]
