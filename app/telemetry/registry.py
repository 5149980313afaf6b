"""What telemetry is judged against: the nodes and the shapes of the models of a cluster, as of a revision."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import cast

import msgspec
from redis.asyncio import Redis

from app.errors import NotFound
from app.storage.keys import ClusterKeys
from app.telemetry.packed import COUNT

CACHED_CLUSTERS = 256
_LARGE_BYTES = 256 << 10


class LayerShape(msgspec.Struct, frozen=True):
    """A MoE layer, as far as telemetry is concerned."""

    layer: int
    experts: int
    top_k: int


class _Model(msgspec.Struct, frozen=True):
    digest: str
    blocks: list[LayerShape]


@dataclass(frozen=True, slots=True)
class ModelShape:
    """order: its layers' numbers; count_bytes: of each one's packed counts; offset: of each one's first
    expert among all of the model's."""

    digest: str
    layers: Mapping[int, LayerShape]
    order: tuple[int, ...]
    count_bytes: tuple[int, ...]
    offset: Mapping[int, int]

    @classmethod
    def of(cls, digest: str, blocks: Sequence[LayerShape]) -> "ModelShape":
        before = accumulate((block.experts for block in blocks), initial=0)
        return cls(
            digest,
            {block.layer: block for block in blocks},
            tuple(block.layer for block in blocks),
            tuple(block.experts * COUNT.itemsize for block in blocks),
            {block.layer: at for block, at in zip(blocks, before, strict=False)},
        )


@dataclass(frozen=True, slots=True)
class Registered:
    """revision: as text, empty where the cluster has none."""

    keys: ClusterKeys
    revision: bytes
    nodes: frozenset[str]
    models: Mapping[str, ModelShape]

    def shape_digest(self, model_id: str) -> str | None:
        """Windows of the model are judged alike for as long as it is the same."""
        model = self.models.get(model_id)
        return None if model is None else model.digest


_decoder = msgspec.json.Decoder(_Model)


class Registry:
    """Clusters as last read. Whoever finds that the revision has changed since asks again with `stale`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._clusters: OrderedDict[str, Registered] = OrderedDict()
        self._reading: dict[str, asyncio.Task[Registered]] = {}

    async def get(self, cluster_id: str, *, stale: Registered | None = None) -> Registered:
        """Raises `NotFound` where there is no such cluster."""
        found = self._clusters.get(cluster_id)
        if found is not None and found is not stale:
            self._clusters.move_to_end(cluster_id)
            return found
        return await self._read_once(cluster_id)

    def known(self, cluster_id: str, node_id: str) -> Registered | None:
        """The cluster as last read, if the node was registered in it."""
        found = self._clusters.get(cluster_id)
        if found is None or node_id not in found.nodes:
            return None
        self._clusters.move_to_end(cluster_id)
        return found

    async def with_node(self, cluster_id: str, node_id: str) -> Registered:
        """The cluster, in which the node is registered; `NotFound` otherwise."""
        found = await self.get(cluster_id)
        if node_id not in found.nodes:
            found = await self.get(cluster_id, stale=found)
        if node_id not in found.nodes:
            raise NotFound(f"node {node_id!r} is not registered in cluster {cluster_id}: register it first")
        return found

    async def _read_once(self, cluster_id: str) -> Registered:
        """All who need it at once share one reading."""
        task = self._reading.get(cluster_id)
        if task is None:
            task = asyncio.create_task(self._read(cluster_id))
            self._reading[cluster_id] = task
            task.add_done_callback(lambda _: self._reading.pop(cluster_id, None))
        return await asyncio.shield(task)

    async def _read(self, cluster_id: str) -> Registered:
        keys = ClusterKeys(cluster_id)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.exists(keys.cluster)
            pipe.get(keys.revision)
            pipe.hkeys(keys.nodes)
            pipe.hgetall(keys.models)
            exists, revision, nodes, models = cast(
                "tuple[int, bytes | None, list[bytes], dict[bytes, bytes]]", await pipe.execute()
            )
        self._clusters.pop(cluster_id, None)
        if not exists:
            raise NotFound(f"there is no cluster {cluster_id}: register a model or a node to create it")
        shapes = (
            await asyncio.to_thread(_shapes, models)
            if sum(map(len, models.values())) > _LARGE_BYTES
            else _shapes(models)
        )
        found = Registered(keys, revision or b"", frozenset(node.decode() for node in nodes), shapes)
        self._clusters[cluster_id] = found
        while len(self._clusters) > CACHED_CLUSTERS:
            self._clusters.popitem(last=False)
        return found


def _shapes(models: Mapping[bytes, bytes]) -> dict[str, ModelShape]:
    shapes = {}
    for model_id, record in models.items():
        model = _decoder.decode(record)
        shapes[model_id.decode()] = ModelShape.of(model.digest, model.blocks)
    return shapes
