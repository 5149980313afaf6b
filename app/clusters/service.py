"""What may be done to clusters."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from redis.asyncio import Redis

from app.clusters import store
from app.clusters.changes import reset, settled
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


Check = Callable[[str | None], None]
"""Raises where the version of the cluster's settings, None for no cluster, is not the one expected."""


@dataclass(frozen=True)
class Written:
    """before: the settings until now, None where the cluster is new."""

    cluster: ClusterResource
    before: ClusterSettings | None


async def put_cluster(
    redis: Redis, cluster_id: str, given: ClusterSettings, check: Check, *, limit: int
) -> Written:
    """Create it or replace its settings."""
    settings = settled(given)
    _check_origin(settings)
    await check_algorithm(settings.algorithm, "/algorithm")

    def change(before: ClusterRecord | None) -> tuple[ClusterSettings, list[str]]:
        check(None if before is None else version_of(before))
        return settings, [] if before is None else reset(before.settings, settings, given)

    return await _written(redis, await store.write_settings(redis, cluster_id, change, limit=limit))


async def patch_cluster(
    redis: Redis,
    cluster_id: str,
    patched: Callable[[ClusterSettings], tuple[ClusterSettings, list[str]]],
    check: Check,
    *,
    limit: int,
) -> Written:
    """Change some of its settings; `patched` gives them from those until now, with pointers of what it set
    back to defaults unasked. `NotFound` without the cluster."""
    known = await store.require_cluster(redis, cluster_id)
    await check_algorithm(patched(known.settings)[0].algorithm, "/algorithm")

    def change(before: ClusterRecord | None) -> tuple[ClusterSettings, list[str]]:
        if before is None:
            raise NotFound(f"there is no cluster {cluster_id}")
        check(version_of(before))
        given, reset_to_defaults = patched(before.settings)
        settings = settled(given)
        _check_origin(settings)
        return settings, reset_to_defaults

    return await _written(redis, await store.write_settings(redis, cluster_id, change, limit=limit))


def version_of(cluster: ClusterRecord | ClusterResource) -> str:
    """Of its settings: another cluster of its name and other settings have another."""
    digest = hashlib.sha256(cluster.settings.model_dump_json().encode()).hexdigest()[:16]
    return f"{cluster.uid}.{digest}"


async def _written(redis: Redis, written: store.WrittenSettings) -> Written:
    before = None if written.before is None else written.before.settings
    return Written(await _resource(redis, written.record), before)


async def delete_cluster(redis: Redis, cluster_id: str) -> None:
    """Forget models, nodes, statistics, placements and plans; refused while a node lives."""
    if not await store.delete_cluster(redis, cluster_id):
        raise NotFound(f"there is no cluster {cluster_id}")


def _check_origin(settings: ClusterSettings) -> None:
    if settings.min_replicas == 0 and settings.origin is None:
        detail = "0 needs an origin, or experts that no node holds could not be served"
        raise InvalidRequest(
            f"/min_replicas: {detail}", errors=[FieldError("/min_replicas", detail, "NEEDS_ORIGIN")]
        )


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
    from solvers.algorithms import ALGORITHMS

    return frozenset(ALGORITHMS)


async def _resource(redis: Redis, record: ClusterRecord) -> ClusterResource:
    members = await store.read_members(redis, record.cluster_id)
    return ClusterResource(
        cluster_id=record.cluster_id,
        uid=record.uid,
        created_at=record.created_at,
        updated_at=record.updated_at,
        settings=record.settings,
        reset=record.reset,
        drained_nodes=members.drained_nodes,
        models=members.models,
        nodes=members.nodes,
        generation=members.generation,
    )
