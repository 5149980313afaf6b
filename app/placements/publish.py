"""A placement comes into force: the one place where a generation is made."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import cast

import orjson
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError

from app.clusters.schemas import ClusterRecord
from app.nodes.schemas import HeldExperts
from app.observability.metrics import PLACEMENTS
from app.placements.schemas import (
    Evidence,
    NodeHoldings,
    PlacementDocument,
    PlacementMetadata,
    PlacementSpec,
    PlacementSummary,
)
from app.storage import topics
from app.storage.clock import server_now
from app.storage.documents import EncodedDocument, encode_document, queue_document, read_document
from app.storage.fenced import fenced
from app.storage.keys import ClusterKeys
from app.storage.lease import Lease
from app.storage.optimistic import Contended, Queue, transaction
from app.storage.records import read_record


class NotPublished(Exception):
    """Something came in between; nothing was published."""


class GenerationChanged(NotPublished):
    """Another placement came into force meanwhile, or the cluster was created anew."""


class RecomputationStopped(NotPublished):
    """An operator paused recomputation meanwhile, or switched it off."""


async def publish(
    redis: Redis,
    cluster: ClusterRecord,
    holds: Sequence[NodeHoldings],
    evidence: Evidence,
    *,
    nodes: Iterable[str],
    models: Iterable[str],
    supersedes: int | None,
    lease: Lease | None = None,
    recomputed: bool = False,
) -> PlacementDocument:
    """Bring `holds` into force as generation `supersedes` + 1 (1 for the first), and announce it.

    One transaction writes document, pointer and history, and prunes the history to the cluster's
    `retained_generations`. It happens only if `supersedes` is the generation in force (None: there is none
    yet) in the same cluster; else `GenerationChanged`. With `lease` it happens only while the lease is held;
    else `LeaseLost`. With `recomputed`, by the service of its own accord, it happens only while that goes on;
    else `RecomputationStopped`. Raises redis-py's `ConnectionError` where the connection broke and the
    placement is not stored.
    """
    keys = ClusterKeys(cluster.cluster_id)
    generation = (supersedes or 0) + 1
    document, encoded = await asyncio.to_thread(
        _compose, cluster.uid, holds, evidence, sorted(nodes), sorted(models), generation, supersedes
    )
    summary = PlacementSummary(metadata=document.metadata, evidence=evidence).model_dump_json().encode()

    pruned: list[bytes] = []

    async def check(pipe: Pipeline) -> None:
        pointer = cast("bytes | None", await pipe.hget(keys.placement, "generation"))
        in_force = None if pointer is None else int(pointer)
        if in_force != supersedes:
            raise GenerationChanged(
                f"cluster {cluster.cluster_id}: generation {in_force or 'none'} is in force, "
                f"expected {supersedes or 'none'}"
            )
        record = cast("bytes | None", await pipe.get(keys.cluster))
        now = None if record is None else read_record(ClusterRecord, record, keys.cluster)
        if now is None or now.uid != cluster.uid:
            raise GenerationChanged(f"cluster {cluster.cluster_id}: deleted or created again")
        if recomputed and (not now.settings.automatic or await pipe.hget(keys.control, "paused") == b"1"):
            raise RecomputationStopped(f"cluster {cluster.cluster_id}: recomputation is paused")
        retained = cluster.settings.retained_generations
        pruned[:] = cast(
            "list[bytes]", await pipe.zrangebyscore(keys.placements, "-inf", generation - retained)
        )

    def queue(pipe: Pipeline) -> None:
        key = keys.placement_generation(generation)
        pipe.delete(key)
        queue_document(pipe, key, encoded)
        pipe.hset(key, "summary", summary)
        pipe.hset(
            keys.placement,
            mapping={"uid": cluster.uid, "generation": generation, "digest": document.metadata.digest},
        )
        pipe.zadd(keys.placements, {str(generation): generation})
        for old in pruned:
            pipe.delete(keys.placement_generation(int(old)))
            pipe.zrem(keys.placements, old)
        topics.announce(pipe, keys, topics.PLACEMENT, topics.STATUS, topics.WORK)

    watch = (keys.placement, keys.placements, keys.cluster, keys.control)
    try:
        if lease is None:
            await transaction(redis, watch, lambda pipe: _checked(pipe, check, queue))
        else:
            await fenced(redis, lease, queue, watch=watch, check=check)
    except Contended as error:
        raise GenerationChanged(f"cluster {cluster.cluster_id}: placements kept changing") from error
    except RedisConnectionError:
        # The transaction may have been committed although its reply was lost. Then the caller must not learn
        # that somebody else's generation is in force: it is this one.
        stored = await read_document(redis, keys.placement_generation(generation))
        if stored is None or stored.json != encoded.json:
            raise
    _count(evidence)
    return document


async def _checked(
    pipe: Pipeline, check: Callable[[Pipeline], Awaitable[None]], queue: Callable[[Pipeline], None]
) -> tuple[None, Queue]:
    await check(pipe)
    return None, lambda: queue(pipe)


def _count(evidence: Evidence) -> None:
    PLACEMENTS.labels("solver" if evidence.solved else evidence.algorithm).inc()


def canonical(holds: Iterable[NodeHoldings]) -> list[NodeHoldings]:
    """Ordered by node, model, layer and expert, without empty layers: equal placements have equal forms."""
    ordered = []
    for node in sorted(holds, key=lambda node: node.node_id):
        layers = sorted(node.holds, key=lambda held: (held.model_id, held.layer))
        ordered.append(
            NodeHoldings(
                node_id=node.node_id,
                holds=[
                    HeldExperts.model_construct(
                        model_id=held.model_id, layer=held.layer, experts=sorted(held.experts)
                    )
                    for held in layers
                    if held.experts
                ],
            )
        )
    return ordered


def placement_digest(holds: Iterable[NodeHoldings]) -> str:
    """SHA-256 over the canonical form's JSON, 16 hex digits."""
    body = orjson.dumps([node.model_dump() for node in canonical(holds)], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(body).hexdigest()[:16]


def _compose(
    uid: str,
    holds: Sequence[NodeHoldings],
    evidence: Evidence,
    nodes: list[str],
    models: list[str],
    generation: int,
    supersedes: int | None,
) -> tuple[PlacementDocument, EncodedDocument]:
    ordered = canonical(holds)
    document = PlacementDocument(
        metadata=PlacementMetadata(
            uid=uid,
            generation=generation,
            digest=placement_digest(ordered),
            created_at=server_now(),
            supersedes=supersedes,
        ),
        spec=PlacementSpec(nodes=nodes, models=models, holds=ordered),
        evidence=evidence,
    )
    body = document.model_dump_json().encode()
    return document, encode_document(body, uid=uid, generation=generation, digest=document.metadata.digest)
