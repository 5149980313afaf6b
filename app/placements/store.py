"""Placements in Redis, but for how one comes into force (`publish`)."""

from typing import cast

from redis.asyncio import Redis

from app.placements.schemas import (
    PlacementDocument,
    PlacementEntry,
    PlacementOutcome,
    PlacementSummary,
)
from app.storage import topics
from app.storage.documents import EncodedDocument, generation_of, read_document, read_version
from app.storage.keys import ClusterKeys
from app.storage.records import read_record

OUTCOME_FIELD = "outcome"
"""Of a generation's hash, beside the immutable document: it comes later, and goes with it."""


async def version_in_force(redis: Redis, cluster_id: str) -> str | None:
    return await read_version(redis, ClusterKeys(cluster_id).placement)


async def generation_in_force(redis: Redis, cluster_id: str) -> int | None:
    found = cast("bytes | None", await redis.hget(ClusterKeys(cluster_id).placement, "generation"))
    return None if found is None else generation_of(found, ClusterKeys(cluster_id).placement)


async def read_generation(redis: Redis, cluster_id: str, generation: int) -> EncodedDocument | None:
    return await read_document(redis, ClusterKeys(cluster_id).placement_generation(generation))


async def read_page(
    redis: Redis, cluster_id: str, *, limit: int, before: int | None
) -> tuple[list[PlacementEntry], int | None]:
    """Newest first, and `before` of the next page."""
    keys = ClusterKeys(cluster_id)
    highest = "+inf" if before is None else f"({before}"
    members = cast(
        "list[bytes]",
        await redis.zrevrangebyscore(keys.placements, highest, "-inf", start=0, num=limit + 1),
    )
    page = members[:limit]
    async with redis.pipeline(transaction=False) as pipe:
        for member in page:
            pipe.hmget(keys.placement_generation(int(member)), ["summary", OUTCOME_FIELD])
        entries = await pipe.execute()
    # A generation may be pruned between the two reads.
    found = [
        _entry(summary, outcome, keys.placement_generation(int(member)))
        for member, (summary, outcome) in zip(page, entries, strict=True)
        if summary is not None
    ]
    return found, int(page[-1]) if len(members) > limit else None


def placement_of(document: EncodedDocument, cluster_id: str) -> PlacementDocument:
    """Decode a generation's document; off the event loop, since it may have megabytes."""
    key = ClusterKeys(cluster_id).placement_generation(document.generation)
    return read_record(PlacementDocument, document.json, key)


async def read_outcome(redis: Redis, cluster_id: str, generation: int) -> PlacementOutcome | None:
    key = ClusterKeys(cluster_id).placement_generation(generation)
    stored = cast("bytes | None", await redis.hget(key, OUTCOME_FIELD))
    return None if stored is None else read_record(PlacementOutcome, stored, key)


async def set_paused(redis: Redis, cluster_id: str, paused: bool) -> bool:
    """Whether it was paused before."""
    keys = ClusterKeys(cluster_id)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.hget(keys.control, "paused")
        pipe.hset(keys.control, "paused", "1" if paused else "0")
        topics.announce(pipe, keys, topics.WORK, topics.STATUS)
        before, *_ = await pipe.execute()
    return bool(before == b"1")


def _entry(summary: bytes, outcome: bytes | None, key: str) -> PlacementEntry:
    known = read_record(PlacementSummary, summary, key)
    return PlacementEntry(
        metadata=known.metadata,
        evidence=known.evidence,
        outcome=None if outcome is None else read_record(PlacementOutcome, outcome, key),
    )
