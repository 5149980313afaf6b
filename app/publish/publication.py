"""The worker's placements come into force."""

import asyncio

from redis.asyncio import Redis

from app.observability.metrics import (
    PLACEMENT_ACHIEVED_IMPROVEMENT,
    PLACEMENT_CREATED,
    PLACEMENT_GAP,
    PLACEMENT_GENERATION,
    PLACEMENT_MEAN_LATENCY,
    PLACEMENT_OBJECTIVE,
    PLACEMENT_PREDICTED_IMPROVEMENT,
    PLACEMENT_TRUE_GAP,
)
from app.observe.observation import InForce, Observation
from app.placements.publish import publish
from app.placements.schemas import Evidence, NodeHoldings, PlacementDocument
from app.statistics.fleet import Fleet
from app.storage.lease import Lease
from solvers.problem import UInt8


async def publish_matrix(
    redis: Redis,
    lease: Lease,
    observation: Observation,
    holds: UInt8,
    evidence: Evidence,
    *,
    recomputed: bool = False,
) -> PlacementDocument:
    """Bring uint8[N, E] into force over the nodes that may hold experts, after what was observed in force.

    `recomputed`: by the service of its own accord.

    Raises `LeaseLost`, and `NotPublished` when another placement came into force meanwhile, or an operator
    paused recomputation.
    """
    in_force = observation.in_force
    usable = observation.usable
    listed = await asyncio.to_thread(_holdings, observation.fleet, usable, holds)
    return await publish(
        redis,
        observation.cluster,
        listed,
        evidence,
        nodes=usable,
        models=observation.fleet.model_ids,
        supersedes=None if in_force is None else in_force.generation,
        lease=lease,
        recomputed=recomputed,
    )


def show_in_metrics(cluster_id: str, in_force: InForce) -> None:
    """What is not known of this placement has no value, not that of the one before."""
    document = in_force.document
    evidence = document.evidence
    PLACEMENT_GENERATION.set(cluster_id, in_force.generation)
    PLACEMENT_CREATED.set(cluster_id, document.metadata.created_at.timestamp())
    for gauge, value in (
        (PLACEMENT_OBJECTIVE, evidence.objective),
        (PLACEMENT_GAP, evidence.gap_ratio),
        (PLACEMENT_MEAN_LATENCY, evidence.mean_latency_seconds),
        (PLACEMENT_PREDICTED_IMPROVEMENT, evidence.predicted_improvement_ratio),
        (PLACEMENT_ACHIEVED_IMPROVEMENT, None),
        (PLACEMENT_TRUE_GAP, None),
    ):
        gauge.set(cluster_id, value)


def _holdings(fleet: Fleet, usable: frozenset[str], holds: UInt8) -> list[NodeHoldings]:
    return [entry for entry in fleet.holdings_of_matrix(holds) if entry.node_id in usable]
