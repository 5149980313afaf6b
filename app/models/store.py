"""Models in Redis."""

import asyncio
from collections.abc import Callable
from typing import cast

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.errors import Conflict, NotFound
from app.models.schemas import ModelRecord
from app.storage import topics
from app.storage.clock import server_seconds
from app.storage.keys import ClusterKeys
from app.storage.optimistic import Queue, optimistic
from app.storage.records import read_record, record_json

MAX_MODELS = 64
MAX_EXPERTS = 2**18
"""Of all models of a cluster: columns of its placement."""

MAX_DELETED = 256
"""Deleted models remembered, the newest; nodes evict what they hold of one within a heartbeat or two."""


async def read_model(redis: Redis, cluster_id: str, model_id: str) -> ModelRecord | None:
    key = ClusterKeys(cluster_id).models
    record = cast("bytes | None", await redis.hget(key, model_id))
    return None if record is None else read_record(ModelRecord, record, key)


async def read_models(redis: Redis, cluster_id: str, model_ids: list[str]) -> list[ModelRecord]:
    """Those of them that there are, in the order given."""
    if not model_ids:
        return []
    key = ClusterKeys(cluster_id).models
    records = cast("list[bytes | None]", await redis.hmget(key, model_ids))
    return await asyncio.to_thread(_decode, [record for record in records if record is not None], key)


async def sizes(redis: Redis, cluster_id: str, model_ids: list[str]) -> list[int]:
    """Bytes of the records of these models, 0 where there is none."""
    async with redis.pipeline(transaction=False) as pipe:
        for model_id in model_ids:
            pipe.hstrlen(ClusterKeys(cluster_id).models, model_id)
        return await pipe.execute()


async def model_ids(redis: Redis, cluster_id: str) -> list[str]:
    names = cast("list[bytes]", await redis.hkeys(ClusterKeys(cluster_id).models))
    return sorted(name.decode() for name in names)


async def write_model(
    redis: Redis, cluster_id: str, model_id: str, revise: Callable[[ModelRecord | None], ModelRecord]
) -> tuple[ModelRecord, bool]:
    """Store what `revise` makes of the stored record (None: there is none): the record, whether it is new.

    Nothing is written where it is as before. `Conflict` beyond `MAX_MODELS` or `MAX_EXPERTS`.
    """
    keys = ClusterKeys(cluster_id)

    async def decide(pipe: Pipeline) -> tuple[tuple[ModelRecord, bool], Queue]:
        stored = cast("dict[bytes, bytes]", await pipe.hgetall(keys.models))
        if not await pipe.exists(keys.cluster):
            raise NotFound(f"cluster {cluster_id} was deleted")
        known = stored.pop(model_id.encode(), None)
        before = None if known is None else read_record(ModelRecord, known, keys.models)
        record = revise(before)
        if record == before:
            return (record, False), lambda: None
        if before is None and len(stored) >= MAX_MODELS:
            raise Conflict(
                f"cluster {cluster_id} has {MAX_MODELS} models already, the largest number allowed"
            )
        # With digests of experts a model is a megabyte: not on the event loop.
        others = sum(map(experts_of, await asyncio.to_thread(_decode, list(stored.values()), keys.models)))
        if others + experts_of(record) > MAX_EXPERTS:
            raise Conflict(
                f"the models of cluster {cluster_id} would have {others + experts_of(record)} experts, "
                f"there may be {MAX_EXPERTS}"
            )

        def queue() -> None:
            pipe.hset(keys.models, model_id, record_json(record))
            pipe.zrem(keys.deleted_models, model_id)
            pipe.incr(keys.revision)
            topics.announce(pipe, keys, topics.WORK)

        return (record, before is None), queue

    return await optimistic(redis, (keys.models, keys.cluster), decide)


async def delete_model(redis: Redis, cluster_id: str, model_id: str) -> bool:
    keys = ClusterKeys(cluster_id)

    async def decide(pipe: Pipeline) -> tuple[bool, Queue]:
        if not await pipe.hexists(keys.models, model_id):
            return False, lambda: None

        def queue() -> None:
            pipe.hdel(keys.models, model_id)
            pipe.zadd(keys.deleted_models, {model_id: server_seconds()})
            pipe.zremrangebyrank(keys.deleted_models, 0, -MAX_DELETED - 1)
            pipe.incr(keys.revision)
            topics.announce(pipe, keys, topics.WORK)

        return True, queue

    return await optimistic(redis, (keys.models,), decide)


def _decode(records: list[bytes], key: str) -> list[ModelRecord]:
    return [read_record(ModelRecord, record, key) for record in records]


def experts_of(record: ModelRecord) -> int:
    return sum(block.experts for block in record.blocks)
