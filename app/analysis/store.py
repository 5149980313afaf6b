"""Analyses in Redis, as the worker writes them."""

from redis.asyncio import Redis

from app.storage.documents import EncodedDocument, read_document
from app.storage.keys import ClusterKeys


async def read_analysis(redis: Redis, cluster_id: str) -> EncodedDocument | None:
    return await read_document(redis, ClusterKeys(cluster_id).analysis)
