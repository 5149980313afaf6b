"""Optimizations in Redis: the API writes them QUEUED or CANCELLED, the worker the rest."""

from collections.abc import Callable
from itertools import accumulate
from typing import cast

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.errors import NotFound
from app.http.answers import PAGE_BYTES
from app.optimizations.schemas import MAX_RETAINED, OptimizationRecord
from app.storage import topics
from app.storage.history import newest_first
from app.storage.jobs import Job, JobKind, queue_job, require_room
from app.storage.keys import ClusterKeys
from app.storage.optimistic import Queue, optimistic
from app.storage.records import read_record, record_json


async def enqueue(redis: Redis, cluster_id: str, record: OptimizationRecord) -> None:
    """Store it and ask the worker; forget the oldest beyond `MAX_RETAINED`. `TooManyRequests` where
    `MAX_QUEUED` jobs wait."""
    keys = ClusterKeys(cluster_id)

    async def decide(pipe: Pipeline) -> tuple[None, Queue]:
        if not await pipe.exists(keys.cluster):
            raise NotFound(f"cluster {cluster_id} was deleted")
        await require_room(pipe, keys)
        oldest = await pipe.zrevrange(keys.optimizations, MAX_RETAINED - 1, -1)

        def queue() -> None:
            for forgotten in cast("list[bytes]", oldest):
                pipe.delete(keys.optimization(forgotten.decode()))
                pipe.zrem(keys.optimizations, forgotten)
            pipe.set(keys.optimization(record.optimization_id), record_json(record))
            pipe.zadd(keys.optimizations, {record.optimization_id: record.created_at.timestamp()})
            queue_job(pipe, keys, Job(kind=JobKind.OPTIMIZATION, id=record.optimization_id))

        return None, queue

    await optimistic(redis, (keys.jobs, keys.optimizations, keys.cluster), decide)


async def read_stored(redis: Redis, cluster_id: str, optimization_id: str) -> bytes | None:
    return cast("bytes | None", await redis.get(ClusterKeys(cluster_id).optimization(optimization_id)))


async def read_page(
    redis: Redis, cluster_id: str, *, limit: int, before: str | None
) -> tuple[list[OptimizationRecord], str | None]:
    keys = ClusterKeys(cluster_id)
    page, next_before = await newest_first(redis, keys.optimizations, limit=limit, before=before)
    if not page:
        return [], None
    async with redis.pipeline(transaction=False) as pipe:
        for found in page:
            pipe.strlen(keys.optimization(found))
        sizes = accumulate(cast("list[int]", await pipe.execute()))
    fitting = page[: 1 + sum(size < PAGE_BYTES for size in sizes)]
    if len(fitting) < len(page):
        page, next_before = fitting, fitting[-1]
    stored = cast("list[bytes | None]", await redis.mget([keys.optimization(found) for found in page]))
    records = [
        read_record(OptimizationRecord, record, keys.optimization(found))
        for found, record in zip(page, stored, strict=True)
        if record is not None
    ]
    return records, next_before


async def revise(
    redis: Redis,
    cluster_id: str,
    optimization_id: str,
    change: Callable[[OptimizationRecord], OptimizationRecord],
) -> OptimizationRecord | None:
    """Store what `change` makes of the record, and announce it; None where there is none."""
    keys = ClusterKeys(cluster_id)
    key = keys.optimization(optimization_id)

    async def decide(pipe: Pipeline) -> tuple[OptimizationRecord | None, Queue]:
        stored = cast("bytes | None", await pipe.get(key))
        if stored is None:
            return None, lambda: None
        before = read_record(OptimizationRecord, stored, key)
        after = change(before)
        if after == before:
            return after, lambda: None

        def queue() -> None:
            pipe.set(key, record_json(after))
            topics.announce(pipe, keys, topics.WORK, topics.optimization(optimization_id))

        return after, queue

    return await optimistic(redis, (key,), decide)
