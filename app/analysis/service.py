"""The analysis the worker wrote last, or a part of it."""

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson
from redis.asyncio import Redis

from app.analysis import store
from app.analysis.packed import PackedLayer
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
        raise await _absent(redis, cluster_id)
    return document if wanted == Filter() else await asyncio.to_thread(_part, document, wanted)


async def read_overview(redis: Redis, cluster_id: str) -> EncodedDocument:
    document = await store.read_overview(redis, cluster_id)
    if document is None:
        raise await _absent(redis, cluster_id)
    return document


async def read_layer(redis: Redis, cluster_id: str, model_id: str, layer: int) -> tuple[str, bytes]:
    """The cluster's uid, and the layer as stored."""
    cluster = await require_cluster(redis, cluster_id)
    stored = await store.read_layer(redis, cluster_id, model_id, layer)
    if stored is None:
        raise NotFound(
            f"cluster {cluster_id} has no analysis of layer {layer} of model {model_id}: there is no "
            "such MoE layer, or the worker has not analysed it yet"
        )
    return cluster.uid, stored


def layer_json(stored: bytes) -> bytes:
    """CPU-bound, O(N E): call it in a thread."""
    return PackedLayer.decoded(stored).activations().model_dump_json().encode()


async def _absent(redis: Redis, cluster_id: str) -> NotFound:
    await require_cluster(redis, cluster_id)
    return NotFound(f"cluster {cluster_id} has no analysis yet: the worker has not got to it")


def _part(document: EncodedDocument, wanted: Filter) -> EncodedDocument:
    whole = orjson.loads(document.json)
    whole["nodes"] = [
        {**node, "layers": [layer for layer in node["layers"] if wanted.layer_passes(layer)]}
        for node in whole["nodes"]
        if wanted.node_id in (None, node["node_id"])
    ]
    return encode_document(orjson.dumps(whole), uid=document.uid, generation=document.generation)
