"""Placements, what is known of how well they do, and what each node gets of them."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from app.nodes.schemas import ApplyState, HeldExperts
from app.nodes.schemas import NodeHoldings as NodeHoldings
from app.schema import MAX_EXACT, ExpertId, Identifier, Layer, Schema, Timestamp


class PlacementMetadata(Schema):
    uid: Annotated[str, Field(description="The cluster's uid.")]
    generation: int
    digest: Annotated[str, Field(description="SHA-256 of the placement (`spec.holds`), 16 hex digits.")]
    created_at: Timestamp
    supersedes: Annotated[int | None, Field(description="The generation in force before.")]


class PlacementSpec(Schema):
    nodes: list[Identifier]
    models: list[Identifier]
    holds: list[NodeHoldings]


OPERATOR = "operator"
ROLLBACK = "rollback"
"""What stands for the algorithm of a placement that no solver made."""


class RouteSamples(Schema):
    """Tokens that the routes were sampled from, over the layers of nodes that call experts there; those that
    age count in part. What was solved on few is likely to cost more on the next tokens."""

    total: float
    median: Annotated[float, Field(description="Of a layer of a node.")]
    least: Annotated[float, Field(description="Of the layer and node that has the fewest, named here.")]
    node_id: Identifier
    model_id: Identifier
    layer: Layer


class Evidence(Schema):
    """Why this placement. The three figures of the certificate belong together: objective and lower bound are
    in seconds of expert latency per second of traffic."""

    algorithm: Annotated[str, Field(description="A solver's name, `operator` or `rollback`.")]
    objective: float | None
    lower_bound: float | None
    gap_ratio: float | None
    mean_latency_seconds: Annotated[float | None, Field(description="Expected expert latency per token.")]
    objective_before: Annotated[
        float | None,
        Field(description="Mean latency under the placement that it supersedes, on the same traffic."),
    ]
    migration_bytes: int | None
    runtime_seconds: float | None
    telemetry_until: Timestamp | None
    reason: Annotated[str, Field(description="What started the solve: INTERVAL, NODES_CHANGED, ...")]
    solved_at: Annotated[Timestamp | None, Field(description="When the solve began.")] = None
    copies: Annotated[
        int | None,
        Field(description="Number of copies that nodes had to receive for it, given what they held then."),
    ] = None
    copies_avoided: Annotated[
        int | None,
        Field(
            description="How many more copies EPLB would have required, on the same traffic and from "
            "the same holdings; negative if fewer."
        ),
    ] = None
    copies_withheld: Annotated[
        int | None,
        Field(description="Copies of the best placement found that the limits leave for later intervals."),
    ] = None
    predicted_improvement_ratio: Annotated[
        float | None,
        Field(
            description="Relative latency saved against the superseded placement, on the traffic that "
            "was solved on. Optimistic, because the placement is fitted to that traffic."
        ),
    ] = None
    held_out_improvement_ratio: Annotated[
        float | None,
        Field(
            description="The same for a placement made from one half of the time, on the traffic of "
            "the other half; null if this was not tried."
        ),
    ] = None
    cost_in_sample: Annotated[
        float | None,
        Field(
            description="Cost of a placement made from one half of the time, on that half, in seconds "
            "of expert latency per second of traffic; null if this was not tried."
        ),
    ] = None
    cost_held_out: Annotated[
        float | None,
        Field(
            description="Cost of the same placement on the other half. The objective is likely to be "
            "too low by the difference to cost_in_sample. The published placement was "
            "made from both halves."
        ),
    ] = None
    samples: Annotated[RouteSamples | None, Field(description="null: there is no telemetry.")] = None

    @classmethod
    def without_solve(cls, algorithm: str, reason: str) -> "Evidence":
        """Of a placement that was given, `OPERATOR` or `ROLLBACK`: nothing is known of how well it does."""
        return cls(
            algorithm=algorithm,
            objective=None,
            lower_bound=None,
            gap_ratio=None,
            mean_latency_seconds=None,
            objective_before=None,
            migration_bytes=None,
            runtime_seconds=None,
            telemetry_until=None,
            reason=reason,
        )

    @property
    def solved(self) -> bool:
        return self.algorithm not in (OPERATOR, ROLLBACK)


class PlacementDocument(Schema):
    metadata: PlacementMetadata
    spec: PlacementSpec
    evidence: Evidence


class TrueGap(Schema):
    """How much more the placement costs than the best one would, on the traffic behind the samples. Costs are
    in seconds of expert latency per second of traffic, what would still be moved included."""

    confidence: Annotated[float, Field(description="Probability that the true gap is at most gap_upper.")]
    batches: Annotated[int, Field(description="Parts of the traffic, one after another, that it is from.")]
    measured_until: Timestamp
    cost: Annotated[float, Field(description="Of the placement, on average of the batches.")]
    lower_bound: Annotated[
        float, Field(description="Lower bounds on the batches' optima, on average: at most the true optimum.")
    ]
    gap_upper: Annotated[float, Field(description="Upper confidence bound on the true gap.")]
    gap_upper_ratio: Annotated[float, Field(description="gap_upper / cost")]


class PlacementOutcome(Schema):
    """What became of a placement: measured while it was in force, on traffic from after its convergence."""

    generation: int
    converged_at: Annotated[Timestamp | None, Field(description="When every live node held what it should.")]
    measured_from: Timestamp | None
    measured_until: Annotated[Timestamp | None, Field(description="null: not measured (yet).")]
    mean_latency_seconds: Annotated[
        float | None, Field(description="Expected expert latency of a token on that traffic.")
    ]
    mean_latency_seconds_before: Annotated[
        float | None, Field(description="The same under the placement that it superseded.")
    ]
    achieved_improvement_ratio: Annotated[
        float | None, Field(description="Of the former against the latter.")
    ]
    predicted_improvement_ratio: Annotated[float | None, Field(description="As in its evidence.")]
    held_out_improvement_ratio: float | None
    copies: int | None
    copies_avoided: int | None
    true_gap: Annotated[
        TrueGap | None,
        Field(description="null: not known (yet); it takes routes sampled in two time buckets at least."),
    ] = None


def unmeasured(generation: int, evidence: Evidence) -> PlacementOutcome:
    """Of a placement that has not converged yet."""
    return PlacementOutcome(
        generation=generation,
        converged_at=None,
        measured_from=None,
        measured_until=None,
        mean_latency_seconds=None,
        mean_latency_seconds_before=None,
        achieved_improvement_ratio=None,
        predicted_improvement_ratio=evidence.predicted_improvement_ratio,
        held_out_improvement_ratio=evidence.held_out_improvement_ratio,
        copies=evidence.copies,
        copies_avoided=evidence.copies_avoided,
    )


class PlacementSummary(Schema):
    metadata: PlacementMetadata
    evidence: Evidence


class PlacementEntry(PlacementSummary):
    outcome: Annotated[PlacementOutcome | None, Field(description="null until it has converged.")]


class PlacementList(Schema):
    placements: Annotated[list[PlacementEntry], Field(description="Newest first.")]
    next_before: Annotated[int | None, Field(description="`before` of the next page; null: the last.")]


class OperatorPlacement(Schema):
    """A placement chosen by an operator. Nodes and layers not named hold nothing."""

    holds: Annotated[list[NodeHoldings], Field(max_length=4096)]


class RollbackRequest(Schema):
    to_generation: Annotated[int, Field(ge=1, le=MAX_EXACT)]


class AutomationState(Schema):
    paused: bool


class ConditionType(StrEnum):
    AVAILABLE = "Available"
    """Every expert of every model is served by a live node or by the origin."""
    CONVERGED = "Converged"
    """Every live node holds what the generation in force gives it, and routes accordingly."""
    MIGRATING = "Migrating"
    TELEMETRY_FRESH = "TelemetryFresh"
    INTACT = "Intact"
    """Every stored record can be read, and all figures in them are ones that can be reckoned with."""
    TELEMETRY_PLAUSIBLE = "TelemetryPlausible"
    """What nodes count agrees with their tokens and with what they and the other nodes have shown."""
    CLOCKS_AGREE = "ClocksAgree"
    """The clocks of the service's processes and of live nodes show the time that Redis has."""
    NODES_DISTINCT = "NodesDistinct"
    """No two agents want to be one node."""


class Outlook(StrEnum):
    """What becomes of a condition that does not hold."""

    UNDER_WAY = "UNDER_WAY"
    """The service and the nodes are at work on it."""
    WAITING = "WAITING"
    """It comes about as soon as what `reason` names has happened."""
    CANNOT = "CANNOT"
    """It does not come about until somebody does what `remedy` says."""


class Condition(Schema):
    type: ConditionType
    status: bool
    reason: Annotated[str, Field(description="The reason in words, with the counts that decide it.")]
    outlook: Annotated[
        Outlook | None,
        Field(description="What will become of a condition that should be true and is not; null otherwise."),
    ] = None
    remedy: Annotated[
        str | None, Field(description="What to do, in words; null if nothing needs to be done.")
    ] = None
    since: Timestamp


class NodeProgress(Schema):
    node_id: Identifier
    live: bool
    state: ApplyState | None
    generation: Annotated[int | None, Field(description="Last generation it has seen.")]
    routes_current: Annotated[bool, Field(description="Whether it uses the newest routing table.")]
    desired_count: int
    held_count: int
    missing_count: int
    excess_count: int
    obsolete_count: Annotated[int, Field(description="Held experts of models that were deleted or replaced.")]


class PlacementStatus(Schema):
    cluster_uid: str
    generation: int | None
    paused: bool
    conditions: list[Condition]
    nodes: list[NodeProgress]
    active_plan: str | None


class TargetKind(StrEnum):
    NODE = "NODE"
    ORIGIN = "ORIGIN"


class RouteTarget(Schema):
    """A place where experts are served, as seen from the node."""

    kind: TargetKind
    node_id: Identifier | None
    base_url: Annotated[str | None, Field(description="Where experts are called.")]
    experts_url: Annotated[str | None, Field(description="URL from which they are fetched, if not base_url.")]
    latency_seconds: float


class LayerRoutes(Schema):
    """Where to call for the experts of a layer that the node does not hold."""

    model_id: Identifier
    layer: Layer
    experts: list[ExpertId]
    targets: Annotated[
        list[list[int]],
        Field(description="For each of `experts`: indices into the assignment's `targets`, best first."),
    ]


class DeviceAssignment(Schema):
    device_id: Identifier
    holds: list[HeldExperts]


class AssignmentMetadata(Schema):
    uid: str
    generation: int
    digest: Annotated[str, Field(description="Of devices, targets, routes and evict.")]


class Assignment(Schema):
    metadata: AssignmentMetadata
    node_id: Identifier
    devices: Annotated[list[DeviceAssignment], Field(description="What the node should hold in the end.")]
    targets: list[RouteTarget]
    routes: list[LayerRoutes]
    evict: Annotated[
        list[HeldExperts],
        Field(
            description="Experts that the node holds of models that were deleted, or registered again "
            "without them. Evict them at once; no move orders it."
        ),
    ]
