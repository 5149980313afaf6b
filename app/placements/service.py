"""What may be done to placements."""

import asyncio
from collections.abc import Callable, Sequence

from redis.asyncio import Redis

from app.clusters.schemas import ClusterRecord
from app.clusters.store import require_cluster
from app.errors import Conflict, Gone, InvalidRequest, NotFound, PreconditionFailed
from app.models.store import model_ids, read_models
from app.nodes.store import node_ids, read_nodes
from app.placements import store
from app.placements.publish import GenerationChanged, placement_digest, publish
from app.placements.schemas import (
    OPERATOR,
    ROLLBACK,
    Evidence,
    NodeHoldings,
    OperatorPlacement,
    PlacementList,
    PlacementOutcome,
    unmeasured,
)
from app.placements.validation import faults_of
from app.statistics.fleet import Fleet
from app.storage.documents import EncodedDocument


async def put_placement(
    redis: Redis,
    cluster_id: str,
    wanted: OperatorPlacement,
    check: Callable[[str | None], None],
) -> EncodedDocument:
    """Bring an operator's placement into force, if `check` lets the version in force pass.

    The same holdings as those in force are no new generation. `InvalidRequest` with a pointer for each fault.
    """
    cluster = await require_cluster(redis, cluster_id)
    version = await store.version_in_force(redis, cluster_id)
    check(version)
    fleet = await read_fleet(redis, cluster_id)
    faults = await asyncio.to_thread(faults_of, fleet, cluster.settings, wanted.holds)
    if faults:
        raise InvalidRequest(f"{faults[0].pointer}: {faults[0].detail}", errors=faults)
    in_force = None if version is None else int(version.split(".")[1])
    holds = await asyncio.to_thread(_everywhere, fleet, wanted.holds)
    if version is not None and version.split(".")[2] == await asyncio.to_thread(placement_digest, holds):
        document = await store.read_generation(redis, cluster_id, in_force or 0)
        if document is not None:
            return document
    try:
        await _publish(redis, cluster, fleet, holds, OPERATOR, "OPERATOR", in_force)
    except GenerationChanged as error:
        raise PreconditionFailed(str(error)) from None
    return await _in_force(redis, cluster_id)


async def rollback(
    redis: Redis,
    cluster_id: str,
    to_generation: int,
    check: Callable[[str | None], None] | None = None,
) -> EncodedDocument:
    """Bring an earlier generation's holdings into force again, as a new generation, if `check` lets the
    version in force pass.

    `Gone` where it was pruned, `Conflict` where the fleet of today cannot hold it.
    """
    cluster = await require_cluster(redis, cluster_id)
    document = await require_generation(redis, cluster_id, to_generation)
    version = await store.version_in_force(redis, cluster_id)
    if check is not None:
        check(version)
    in_force = None if version is None else int(version.split(".")[1])
    earlier = await asyncio.to_thread(store.placement_of, document, cluster_id)
    fleet = await read_fleet(redis, cluster_id)
    faults = await asyncio.to_thread(faults_of, fleet, cluster.settings, earlier.spec.holds)
    if faults:
        raise Conflict(
            f"generation {to_generation} cannot come into force again: {faults[0].detail}", errors=faults
        )
    holds = await asyncio.to_thread(_everywhere, fleet, earlier.spec.holds)
    try:
        await _publish(
            redis, cluster, fleet, holds, ROLLBACK, f"ROLLBACK_TO_GENERATION_{to_generation}", in_force
        )
    except GenerationChanged as error:
        raise Conflict(str(error)) from None
    return await _in_force(redis, cluster_id)


async def require_generation(redis: Redis, cluster_id: str, generation: int) -> EncodedDocument:
    """The placement of a generation; `Gone` where it was pruned, `NotFound` where it never was."""
    await require_cluster(redis, cluster_id)
    document = await store.read_generation(redis, cluster_id, generation)
    if document is not None:
        return document
    in_force = await store.generation_in_force(redis, cluster_id)
    if in_force is None or generation > in_force:
        raise NotFound(f"generation {generation} does not exist: the newest is {in_force or 'none'}")
    raise Gone(f"generation {generation} was pruned: see retained_generations of the cluster's settings")


async def list_placements(redis: Redis, cluster_id: str, *, limit: int, before: int | None) -> PlacementList:
    await require_cluster(redis, cluster_id)
    placements, next_before = await store.read_page(redis, cluster_id, limit=limit, before=before)
    return PlacementList(placements=placements, next_before=next_before)


async def read_outcome(redis: Redis, cluster_id: str, generation: int) -> PlacementOutcome:
    """What is known of it so far; `NotFound` or `Gone` as for the placement itself."""
    document = await require_generation(redis, cluster_id, generation)
    outcome = await store.read_outcome(redis, cluster_id, generation)
    if outcome is not None:
        return outcome
    placement = await asyncio.to_thread(store.placement_of, document, cluster_id)
    return unmeasured(generation, placement.evidence)


async def set_paused(redis: Redis, cluster_id: str, paused: bool) -> bool:
    """Whether the worker leaves the placement alone, but for what it is asked to do; how it was before."""
    await require_cluster(redis, cluster_id)
    return await store.set_paused(redis, cluster_id, paused)


async def read_fleet(redis: Redis, cluster_id: str) -> Fleet:
    models = await read_models(redis, cluster_id, await model_ids(redis, cluster_id))
    nodes = await read_nodes(redis, cluster_id, await node_ids(redis, cluster_id))
    return Fleet.of(models, [node.record for node in nodes])


def _everywhere(fleet: Fleet, holds: Sequence[NodeHoldings]) -> list[NodeHoldings]:
    """Every node by name, so that a placement that says "nothing" is not taken for one that says nothing;
    but draining ones, as the service itself does."""
    listed = fleet.holdings_of_matrix(fleet.matrix_of_holdings(holds))
    return [entry for entry, node in zip(listed, fleet.nodes, strict=True) if not node.draining]


async def _publish(
    redis: Redis,
    cluster: ClusterRecord,
    fleet: Fleet,
    holds: list[NodeHoldings],
    algorithm: str,
    reason: str,
    in_force: int | None,
) -> None:
    evidence = Evidence.without_solve(algorithm, reason)
    await publish(
        redis,
        cluster,
        holds,
        evidence,
        nodes=[entry.node_id for entry in holds],
        models=fleet.model_ids,
        supersedes=in_force,
    )


async def _in_force(redis: Redis, cluster_id: str) -> EncodedDocument:
    generation = await store.generation_in_force(redis, cluster_id)
    document = None if generation is None else await store.read_generation(redis, cluster_id, generation)
    if document is None:
        raise Conflict(f"cluster {cluster_id} was deleted, or another placement came into force, meanwhile")
    return document
