"""Tokens in Redis. `scope` is a cluster's id, or `EVERYWHERE`."""

from typing import cast

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.access.record import TokenRecord
from app.errors import Conflict
from app.storage import topics
from app.storage.clock import server_now
from app.storage.keys import EVERYWHERE, TOKENS_ISSUED, ClusterKeys
from app.storage.optimistic import Queue, optimistic
from app.storage.records import read_record, record_json

MAX_TOKENS = 20_000
"""Of one cluster, and of all: one a node, several times over."""


async def tokens_issued(redis: Redis) -> bool:
    """Whether there ever was a token."""
    return bool(await redis.exists(TOKENS_ISSUED))


async def add(redis: Redis, scope: str, record: TokenRecord) -> None:
    """`Conflict` where there are too many; those that have expired make room."""
    keys = ClusterKeys(scope)
    # First: should we end in between, requests need tokens already and not yet the new one.
    await redis.set(TOKENS_ISSUED, "1")

    async def decide(pipe: Pipeline) -> tuple[None, Queue]:
        if scope != EVERYWHERE and not await pipe.exists(keys.cluster):
            raise Conflict(f"cluster {scope} was deleted meanwhile")
        gone: list[str] = []
        if int(await pipe.hlen(keys.tokens)) >= MAX_TOKENS:
            stored = cast("dict[bytes, bytes]", await pipe.hgetall(keys.tokens))
            gone = [
                name.decode()
                for name, value in stored.items()
                if expired(read_record(TokenRecord, value, keys.tokens))
            ]
            if not gone:
                raise Conflict(f"there are {MAX_TOKENS} tokens already: revoke unused ones")

        def queue() -> None:
            if gone:
                pipe.hdel(keys.tokens, *gone)
                pipe.hdel(keys.tokens_used, *gone)
            pipe.hset(keys.tokens, record.token_id, record_json(record))
            topics.announce(pipe, keys, topics.TOKENS)

        return None, queue

    await optimistic(redis, (keys.tokens, keys.cluster), decide)


async def remove(redis: Redis, scope: str, token_id: str) -> bool:
    """Whether there was one."""
    keys = ClusterKeys(scope)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.hdel(keys.tokens, token_id)
        pipe.hdel(keys.tokens_used, token_id)
        topics.announce(pipe, keys, topics.TOKENS)
        removed = (await pipe.execute())[0]
    return bool(removed)


async def read(redis: Redis, scope: str, token_id: str) -> tuple[TokenRecord | None, int]:
    """The token, and when it was last seen (seconds since the epoch, 0: never)."""
    keys = ClusterKeys(scope)
    async with redis.pipeline(transaction=False) as pipe:
        pipe.hget(keys.tokens, token_id)
        pipe.hget(keys.tokens_used, token_id)
        stored, used = await pipe.execute()
    return None if stored is None else read_record(TokenRecord, stored, keys.tokens), int(used or 0)


async def note_use(redis: Redis, scope: str, token_id: str, seconds: int) -> None:
    await redis.hset(ClusterKeys(scope).tokens_used, token_id, str(seconds))


async def token_ids(redis: Redis, scope: str) -> list[str]:
    found = cast("list[bytes]", await redis.hkeys(ClusterKeys(scope).tokens))
    return sorted(name.decode() for name in found)


async def read_page(redis: Redis, scope: str, ids: list[str]) -> list[tuple[TokenRecord, int]]:
    """Those of `ids` that are there still, and when they were last seen."""
    if not ids:
        return []
    keys = ClusterKeys(scope)
    async with redis.pipeline(transaction=False) as pipe:
        pipe.hmget(keys.tokens, ids)
        pipe.hmget(keys.tokens_used, ids)
        records, used = await pipe.execute()
    return [
        (read_record(TokenRecord, record, keys.tokens), int(seen or 0))
        for record, seen in zip(records, used, strict=True)
        if record is not None
    ]


def expired(record: TokenRecord) -> bool:
    return record.expires_at is not None and record.expires_at <= server_now()
