"""The analysis the worker wrote last, or a part of it."""

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson
from redis.asyncio import Redis

from app.analysis import store
from app.clusters.store import require_cluster
from app.errors import NotFound
from app.storage.documents import EncodedDocument, encode_document


@dataclass(frozen=True, slots=True)
class Filter:
    """None: all of them."""

    node_id: str | None = None
    model_id: str | None = None
    layer: int | None = None

    def layer_passes(self, layer: dict[str, Any]) -> bool:
        return self.model_id in (None, layer["model_id"]) and self.layer in (None, layer["layer"])


async def read_analysis(redis: Redis, cluster_id: str, wanted: Filter) -> EncodedDocument:
    document = await store.read_analysis(redis, cluster_id)
    if document is None:
        await require_cluster(redis, cluster_id)
        raise NotFound(f"cluster {cluster_id} has no analysis yet: the worker has not got to it")
    return document if wanted == Filter() else await asyncio.to_thread(_part, document, wanted)


def _part(document: EncodedDocument, wanted: Filter) -> EncodedDocument:
    whole = orjson.loads(document.json)
    whole["nodes"] = [
        {**node, "layers": [layer for layer in node["layers"] if wanted.layer_passes(layer)]}
        for node in whole["nodes"]
        if wanted.node_id in (None, node["node_id"])
    ]
    return encode_document(orjson.dumps(whole), uid=document.uid, generation=document.generation)
