"""The network of a cluster, as placements are computed with it."""

from typing import Annotated

from pydantic import Field

from app.schema import Identifier, Schema


class NodeNetwork(Schema):
    """What calls raised at this node take, and how fast copies come and go."""

    node_id: Identifier
    live: bool
    latency_seconds: Annotated[
        list[float], Field(description="To each node, itself included, in the order of `nodes`.")
    ]
    measured: Annotated[list[int], Field(description="Positions in `nodes` whose latency it has measured.")]
    defaulted: Annotated[
        list[int],
        Field(
            description="Positions in `nodes` whose latency is the cluster's default, because it is "
            "neither measured nor specified."
        ),
    ]
    origin_seconds: Annotated[float | None, Field(description="To the origin; null: there is none.")]
    ingress_bytes_per_second: float
    egress_bytes_per_second: float


class Network(Schema):
    cluster_uid: str
    default_latency_seconds: float
    nodes: Annotated[list[NodeNetwork], Field(description="In order of node_id.")]
