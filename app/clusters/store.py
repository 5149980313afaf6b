"""Clusters in Redis."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.clusters.schemas import ClusterRecord, ClusterSettings
from app.errors import Conflict, NotFound
from app.storage import topics
from app.storage.client import server_of
from app.storage.clock import NOW, server_now
from app.storage.documents import generation_of
from app.storage.keys import CLUSTERS, ClusterKeys
from app.storage.optimistic import Queue, optimistic
from app.storage.records import read_record, record_json
from moeplace_agent.wording import agreeing, counted

KEPT = ("fence", "revision")
"""Of a deleted cluster, so that tokens and revisions of one created anew under its id are higher: nobody
who missed the deletion takes an old one for a new one."""


async def read_cluster(redis: Redis, cluster_id: str) -> ClusterRecord | None:
    key = ClusterKeys(cluster_id).cluster
    record = cast("bytes | None", await redis.get(key))
    return None if record is None else read_record(ClusterRecord, record, key)


async def require_cluster(redis: Redis, cluster_id: str) -> ClusterRecord:
    """The cluster, or `NotFound`."""
    record = await read_cluster(redis, cluster_id)
    if record is None:
        raise NotFound(f"there is no cluster {cluster_id}: register a model or a node to create it")
    return record


async def list_clusters(redis: Redis) -> list[str]:
    """Ids in order. A cluster is there while its record is; the set may name one about to come or go."""
    ids = sorted(member.decode() for member in cast("set[bytes]", await redis.smembers(CLUSTERS)))
    async with redis.pipeline(transaction=False) as pipe:
        for cluster_id in ids:
            pipe.exists(ClusterKeys(cluster_id).cluster)
        found = await pipe.execute()
    return [cluster_id for cluster_id, exists in zip(ids, found, strict=True) if exists]


async def ensure_cluster(redis: Redis, cluster_id: str, *, limit: int) -> ClusterRecord:
    """The cluster, created with default settings where there is none."""
    record = await read_cluster(redis, cluster_id)
    if record is not None:
        return record
    written = await write_settings(redis, cluster_id, None, limit=limit)
    return written.record


@dataclass(frozen=True)
class WrittenSettings:
    """before: None where the cluster is new."""

    record: ClusterRecord
    before: ClusterRecord | None


Change = Callable[[ClusterRecord | None], tuple[ClusterSettings, list[str]]]
"""From the cluster as it is to its settings, and the pointers of those set back to their defaults."""


async def write_settings(
    redis: Redis, cluster_id: str, change: Change | None, *, limit: int
) -> WrittenSettings:
    """Create the cluster, or change its settings (None: leave them); `change` may raise, and may be called
    several times.

    `limit` bounds the number of clusters, but for what several processes create at the same instant: the
    count is not in the cluster's slot.
    """
    keys = ClusterKeys(cluster_id)
    if not await redis.sismember(CLUSTERS, cluster_id):
        if await redis.scard(CLUSTERS) >= limit:
            raise Conflict(f"there are {limit} clusters already, as many as max_clusters allows")
        # First: a worker that finds no record waits for it, but a cluster nobody lists is never worked on.
        await redis.sadd(CLUSTERS, cluster_id)

    async def decide(pipe: Pipeline) -> tuple[WrittenSettings, Queue]:
        stored = cast("bytes | None", await pipe.get(keys.cluster))
        before = None if stored is None else read_record(ClusterRecord, stored, keys.cluster)
        settings, reset = (change or _as_it_is)(before)
        now = server_now()
        if before is None:
            record = ClusterRecord(
                cluster_id=cluster_id,
                uid=secrets.token_hex(8),
                created_at=now,
                updated_at=now,
                settings=settings,
                reset=reset,
            )
        elif settings.model_dump() == before.settings.model_dump():
            return WrittenSettings(before, before), lambda: None
        else:
            update = {"settings": settings, "reset": reset, "updated_at": now}
            record = before.model_copy(update=update)

        def queue() -> None:
            pipe.set(keys.cluster, record_json(record))
            pipe.incr(keys.revision)
            topics.announce(pipe, keys, topics.WORK)

        return WrittenSettings(record, before), queue

    return await optimistic(redis, (keys.cluster,), decide)


def _as_it_is(before: ClusterRecord | None) -> tuple[ClusterSettings, list[str]]:
    return (ClusterSettings(), []) if before is None else (before.settings, before.reset)


@dataclass(frozen=True)
class Members:
    """Ids, in order; generation: in force. drained_nodes: those that left and are kept out."""

    models: list[str]
    nodes: list[str]
    drained_nodes: list[str]
    generation: int | None


async def read_members(redis: Redis, cluster_id: str) -> Members:
    keys = ClusterKeys(cluster_id)
    async with redis.pipeline(transaction=False) as pipe:
        pipe.hkeys(keys.models)
        pipe.hkeys(keys.nodes)
        pipe.zrange(keys.drained_nodes, 0, -1)
        pipe.hget(keys.placement, "generation")
        models, nodes, drained, generation = await pipe.execute()
    return Members(
        models=sorted(name.decode() for name in models),
        nodes=sorted(name.decode() for name in nodes),
        drained_nodes=sorted(name.decode() for name in drained),
        generation=None if generation is None else generation_of(generation, keys.placement),
    )


async def delete_cluster(redis: Redis, cluster_id: str) -> bool:
    """Forget all of the cluster; False where there is none, `Conflict` while one of its nodes lives."""
    keys = ClusterKeys(cluster_id)
    found = await _stored_keys(redis, keys)

    async def decide(pipe: Pipeline) -> tuple[bool, Queue]:
        if not await pipe.exists(keys.cluster):
            return False, lambda: None
        now = cast("int", await pipe.eval(NOW, 1, keys.node_leases))
        alive = await pipe.zcount(keys.node_leases, now, "+inf")
        if alive:
            raise Conflict(
                f"{counted(alive, 'node')} of cluster {cluster_id} {agreeing(alive, 'is', 'are')} alive: "
                f"stop {agreeing(alive, 'it', 'them')} first"
            )

        def queue() -> None:
            pipe.unlink(keys.cluster, *found)
            pipe.incr(keys.revision)
            topics.announce(pipe, keys, topics.CLUSTER, topics.WORK, topics.PLACEMENT, topics.TOKENS)

        return True, queue

    deleted = await optimistic(redis, (keys.cluster, keys.node_leases, keys.revision), decide)
    if deleted:
        await redis.srem(CLUSTERS, cluster_id)
    return deleted


async def _stored_keys(redis: Redis, keys: ClusterKeys) -> set[str]:
    """What is to be forgotten with the cluster."""
    kept = {getattr(keys, name) for name in KEPT}
    # Neither ids nor braces have a meaning in patterns.
    pattern = f"moeplace:{{{keys.cluster_id}}}:*"
    while True:
        server = await server_of(redis, keys.cluster)
        found = {key.decode() async for key in server.scan_iter(match=pattern, count=1000)}
        if await server_of(redis, keys.cluster) is server:
            # Otherwise they moved to another server meanwhile, and some may have been seen on neither.
            return found - kept
