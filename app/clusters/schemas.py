"""A cluster: the nodes, models and rules that one placement covers."""

from typing import Annotated

from pydantic import Field

from app.schema import (
    MAX_EXACT,
    BytesPerSecond,
    HttpUrl,
    Identifier,
    InRequests,
    Latency,
    Schema,
    Timestamp,
)
from solvers.params import DEFAULT_ALGORITHM
from solvers.problem import Coupling

HORIZON = InRequests(ge=1, le=1e7)
HALF_LIFE = InRequests(ge=0.1, le=1e7)
"""Seconds, both."""


class OriginSpec(Schema):
    """The store that holds every expert; slow, and never full."""

    base_url: HttpUrl | None = None
    egress_bytes_per_second: BytesPerSecond = 1.25e8
    latency_seconds: Annotated[Latency, Field(description="For nodes that do not give their own.")] = 0.1


class ClusterSettings(Schema):
    """How placements of this cluster are computed. Every field has a default."""

    coupling: Annotated[
        Coupling, Field(description="How the latencies of a token's experts combine in one layer.")
    ] = Coupling.SLOWEST
    origin: OriginSpec | None = None
    min_replicas: Annotated[
        int,
        Field(
            ge=0,
            le=64,
            description="Least number of nodes that hold each expert. Default: 0 with an origin, "
            "which then serves what no node has room for, and 1 without.",
            json_schema_extra=lambda schema: schema.pop("default", None),
        ),
    ] = 1
    default_latency_seconds: Annotated[
        Latency, Field(description="Latency between two nodes if it is neither configured nor measured.")
    ] = 0.01
    automatic: Annotated[
        bool, Field(description="Whether the service recomputes placements on the interval and on events.")
    ] = True
    algorithm: Annotated[str, Field(min_length=1, max_length=64)] = DEFAULT_ALGORITHM
    optimization_interval_seconds: Annotated[float, Field(ge=0.5, le=86_400)] = 300.0
    time_limit_seconds: Annotated[float, Field(ge=0.1, le=600)] = 30.0
    goal_gap_ratio: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="A solve ends when its placement is proven to be this close to the optimum.",
        ),
    ] = 0.01
    horizon_seconds: Annotated[
        float, Field(gt=0, le=1e7, description="How long statistics are expected to hold."), HORIZON
    ] = 600.0
    min_improvement: Annotated[
        float, Field(ge=0, lt=1, description="Relative improvement below which nothing moves.")
    ] = 0.02
    max_node_share: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="The largest share of the fleet's expert calls that is believed of one node, "
            "if it counts more than 4 typical nodes. 1: anything that it has counted in "
            "three time buckets is believed.",
        ),
    ] = 0.5
    statistics_window_seconds: Annotated[
        float, Field(ge=1, le=604_800, description="Telemetry older than this is forgotten.")
    ] = 1800.0
    statistics_half_life_seconds: Annotated[
        float | None,
        Field(
            gt=0,
            le=1e7,
            description="Age at which telemetry counts half; null: no decay.",
        ),
        HALF_LIFE,
    ] = 600.0
    max_moves_per_interval: Annotated[
        int | None,
        Field(
            ge=1,
            le=MAX_EXACT,
            description="Largest number of copies that new placements may require in one "
            "optimization_interval_seconds. The copies that save most per byte come "
            "first, the rest in later intervals. Copies that replace a lost or drained "
            "node are never delayed. null: no limit.",
        ),
    ] = None
    max_migration_bytes_per_interval: Annotated[
        int | None,
        Field(
            ge=1,
            le=MAX_EXACT,
            description="Largest number of bytes of such copies in one interval. null: no limit.",
        ),
    ] = None
    max_migration_bytes_per_second: Annotated[
        BytesPerSecond | None,
        Field(description="Bandwidth of all copies of the cluster together; null: no limit."),
    ] = None
    max_node_migration_bytes_per_second: Annotated[
        BytesPerSecond | None,
        Field(description="Bandwidth of copies into one node, and out of one; null: no limit."),
    ] = None
    max_copies_per_node: Annotated[
        int, Field(ge=1, le=64, description="Largest number of released copies of one node.")
    ] = 4
    max_copies_per_cluster: Annotated[int, Field(ge=1, le=4096)] = 64
    retained_generations: Annotated[int, Field(ge=2, le=1000)] = 50


class ClusterRecord(Schema):
    """As stored."""

    cluster_id: Identifier
    uid: str
    created_at: Timestamp
    updated_at: Timestamp
    settings: ClusterSettings
    reset: list[str] = []


class ClusterResource(Schema):
    cluster_id: Identifier
    uid: Annotated[
        str,
        Field(
            description="Changes if the cluster was deleted and created again. "
            "Clients then start from the beginning."
        ),
    ]
    created_at: Timestamp
    updated_at: Timestamp
    settings: ClusterSettings
    reset: Annotated[
        list[str],
        Field(
            description="JSON pointers of the settings that the last change returned to their defaults "
            "although it did not name them."
        ),
    ]
    drained_nodes: Annotated[
        list[Identifier],
        Field(
            description="Nodes that left after a drain. If they register again, they get no experts "
            "until `:undrain`."
        ),
    ]
    models: list[Identifier]
    nodes: list[Identifier]
    generation: Annotated[int | None, Field(description="Of the placement in force.")]


class ClusterList(Schema):
    clusters: list[Identifier]
