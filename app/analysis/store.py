"""Analyses in Redis, as the worker writes them."""

from typing import cast

from redis.asyncio import Redis

from app.analysis.packed import layer_field
from app.storage.documents import EncodedDocument, read_document
from app.storage.keys import ClusterKeys


async def read_analysis(redis: Redis, cluster_id: str) -> EncodedDocument | None:
    return await read_document(redis, ClusterKeys(cluster_id).analysis)


async def read_overview(redis: Redis, cluster_id: str) -> EncodedDocument | None:
    return await read_document(redis, ClusterKeys(cluster_id).analysis_overview)


async def read_layer(redis: Redis, cluster_id: str, model_id: str, layer: int) -> bytes | None:
    """An encoded `PackedLayer`."""
    field = layer_field(model_id, layer)
    return cast("bytes | None", await redis.hget(ClusterKeys(cluster_id).analysis_layers, field))
