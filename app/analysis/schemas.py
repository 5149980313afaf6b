"""How the fleet does under what its nodes hold now: what the console draws and dashboards don't carry."""

from typing import Annotated

from pydantic import Field

from app.schema import ExpertId, Identifier, Layer, Schema, Timestamp
from app.statistics.faults import Fault


class TopExpert(Schema):
    expert: ExpertId
    share: Annotated[float, Field(description="Of the layer's activations at this node.")]
    held: bool


class LayerAnalysis(Schema):
    """One layer at one node. Ratios are over the activations of the node's tokens in this layer."""

    model_id: Identifier
    layer: Layer
    activations_per_second: float
    local_hit_ratio: float | None
    peer_ratio: float | None
    origin_ratio: float | None
    unserved_ratio: Annotated[
        float | None, Field(description="Share of activations of experts that nothing serves.")
    ]
    latency_seconds: Annotated[float | None, Field(description="Mean per token, under the coupling.")]
    held_count: int
    top_experts: list[TopExpert]


class LayerFigures(Schema):
    """One layer in the whole fleet, over the activations of all nodes' tokens in it."""

    model_id: Identifier
    layer: Layer
    experts: int
    activations_per_second: float
    local_hit_ratio: float | None
    peer_ratio: float | None
    origin_ratio: float | None
    unserved_ratio: float | None
    latency_seconds: Annotated[float | None, Field(description="Mean per token, under the coupling.")]
    copies: Annotated[int, Field(description="Experts that live nodes hold, replicas counted each.")]


class CountsDoubt(Schema):
    """Why the counts of a node are doubted (docs/telemetry.md)."""

    model_id: Identifier
    fault: Fault
    ratio: Annotated[
        float | None,
        Field(
            description="Counted expert calls divided by tokens x top_k; for OUTWEIGHS_FLEET, calls "
            "divided by those that count. Null without tokens."
        ),
    ]
    reason: str


class NodeFigures(Schema):
    node_id: Identifier
    live: bool
    capacity_bytes: int
    used_bytes: int
    tokens_per_second: float
    local_hit_ratio: float | None
    peer_ratio: float | None
    origin_ratio: float | None
    unserved_ratio: Annotated[
        float | None, Field(description="Share of activations of experts that nothing serves.")
    ]
    mean_latency_seconds: Annotated[float | None, Field(description="Per token, over all MoE layers.")]
    served_per_second: Annotated[float, Field(description="Activations this node serves, for all nodes.")]
    counts_ratio: Annotated[
        float | None,
        Field(
            description="Counted expert calls divided by tokens x top_k, over all models; 1 if every "
            "call of the node's tokens is counted once. Null without tokens."
        ),
    ] = None
    doubts: Annotated[
        list[CountsDoubt], Field(description="Doubts about its counts; empty if there are none.")
    ] = []


class NodeAnalysis(NodeFigures):
    layers: list[LayerAnalysis]


class FleetFigures(Schema):
    cluster_uid: str
    generation: int | None
    created_at: Timestamp
    telemetry_until: Timestamp | None
    objective: float | None
    desired_objective: Annotated[
        float | None, Field(description="Whether every node holds what the generation in force gives it.")
    ]
    mean_latency_seconds: float | None
    local_hit_ratio: float | None
    balancedness: Annotated[
        float | None, Field(description="Mean over maximum of served_per_second of the live nodes.")
    ]


class Analysis(FleetFigures):
    nodes: list[NodeAnalysis]


class AnalysisOverview(FleetFigures):
    """The same without what is of one layer at one node: small enough to be read every few seconds."""

    nodes: list[NodeFigures]
    layers: list[LayerFigures]


class NodeActivations(Schema):
    """One node in one layer."""

    node_id: Identifier
    live: bool
    activations_per_second: float
    shares: Annotated[
        list[float],
        Field(description="Of each expert, in the node's activations of the layer; empty where it has none."),
    ]
    held: Annotated[list[ExpertId], Field(description="What the node is known to hold now.")]
    desired: Annotated[list[ExpertId], Field(description="What the generation in force gives the node.")]


class LayerActivations(Schema):
    """One layer by expert and node: what the console's heat map shows."""

    cluster_uid: str
    generation: int | None
    created_at: Timestamp
    telemetry_until: Timestamp | None
    model_id: Identifier
    layer: Layer
    experts: int
    nodes: list[NodeActivations]
