"""What may be done to clusters."""

import asyncio
import time

from redis.asyncio import Redis

from app.clusters import store
from app.clusters.schemas import ClusterList, ClusterRecord, ClusterResource, ClusterSettings
from app.errors import FieldError, InvalidRequest, NotFound


async def list_clusters(redis: Redis, *, only: str | None = None) -> ClusterList:
    """All, or `only` the one."""
    if only is not None:
        found = await store.read_cluster(redis, only)
        return ClusterList(clusters=[] if found is None else [only])
    return ClusterList(clusters=await store.list_clusters(redis))


async def get_cluster(redis: Redis, cluster_id: str) -> ClusterResource:
    return await _resource(redis, await store.require_cluster(redis, cluster_id))


async def put_cluster(
    redis: Redis, cluster_id: str, settings: ClusterSettings, *, limit: int
) -> tuple[ClusterResource, bool]:
    """Create it or replace its settings; the cluster, and whether it is new."""
    await _check(settings)
    record, created = await store.write_settings(redis, cluster_id, settings, limit=limit)
    return await _resource(redis, record), created


async def delete_cluster(redis: Redis, cluster_id: str) -> None:
    """Forget models, nodes, statistics, placements and plans; refused while a node lives."""
    if not await store.delete_cluster(redis, cluster_id, now_milliseconds=time.time() * 1000):
        raise NotFound(f"there is no cluster {cluster_id}")


async def _check(settings: ClusterSettings) -> None:
    if settings.min_replicas == 0 and settings.origin is None:
        detail = "0 needs an origin, or experts that no node holds could not be served"
        raise InvalidRequest(
            f"/min_replicas: {detail}", errors=[FieldError("/min_replicas", detail, "NEEDS_ORIGIN")]
        )
    await check_algorithm(settings.algorithm, "/algorithm")


async def check_algorithm(name: str, pointer: str) -> None:
    """`InvalidRequest` unless there is a solver of that name."""
    known = await asyncio.to_thread(_algorithms)
    if name not in known:
        detail = f"expected one of {', '.join(sorted(known))}"
        raise InvalidRequest(
            f"{pointer}: {detail}", errors=[FieldError(pointer, detail, "UNKNOWN_ALGORITHM")]
        )


def _algorithms() -> frozenset[str]:
    # Compiled code comes with it: not before somebody asks.
    from solvers.solve import ALGORITHMS

    return frozenset(ALGORITHMS)


async def _resource(redis: Redis, record: ClusterRecord) -> ClusterResource:
    models, nodes, generation = await store.read_members(redis, record.cluster_id)
    return ClusterResource(
        cluster_id=record.cluster_id,
        uid=record.uid,
        created_at=record.created_at,
        updated_at=record.updated_at,
        settings=record.settings,
        models=models,
        nodes=nodes,
        generation=generation,
    )
