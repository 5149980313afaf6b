"""What may be done to nodes."""

import asyncio
import secrets
import time
from bisect import bisect_right
from datetime import UTC, datetime

from redis.asyncio import Redis

from app.clusters.schemas import ClusterRecord
from app.clusters.store import ensure_cluster, require_cluster
from app.config import Settings
from app.errors import Conflict, NotFound, Unavailable
from app.nodes import store
from app.nodes.schemas import (
    Intervals,
    NodeCondition,
    NodeLease,
    NodeList,
    NodeRecord,
    NodeResource,
    NodeSpec,
    NodeStatus,
)
from app.nodes.store import StoredNode, Written

ATTEMPTS = 16


async def put_node(
    redis: Redis, settings: Settings, cluster_id: str, node_id: str, spec: NodeSpec
) -> tuple[NodeResource, bool]:
    """Register it; the node, and whether it is new.

    A new `instance_uid` starts it anew: it holds nothing until it reports, and its lease begins. With the one
    known only the specification is replaced. A node that is draining stays so until it is gone.
    """
    cluster = await ensure_cluster(redis, cluster_id, limit=settings.max_clusters)
    for _ in range(ATTEMPTS):
        before = await store.read_node(redis, cluster_id, node_id)
        known = before.record if before else None
        if before is not None and known is not None and known.spec == spec:
            return _resource(settings, cluster, before), False
        now = datetime.now(UTC)
        record = NodeRecord(
            node_id=node_id,
            uid=known.uid if known else secrets.token_hex(8),
            created_at=known.created_at if known else now,
            updated_at=now,
            draining=known.draining if known else False,
            spec=spec,
        )
        written = await store.write_node(
            redis,
            cluster_id,
            before,
            record,
            new_instance=known is None or known.spec.instance_uid != spec.instance_uid,
            lease_ends_milliseconds=(time.time() + settings.node_lease_seconds) * 1000,
        )
        if written is Written.OK:
            return await get_node(redis, settings, cluster_id, node_id), known is None
        if written is Written.FULL:
            raise Conflict(f"cluster {cluster_id} has {store.MAX_NODES} nodes already, the most there may be")
        if written is Written.NO_CLUSTER:
            cluster = await ensure_cluster(redis, cluster_id, limit=settings.max_clusters)
    raise Unavailable("others keep registering the same node", retry_after_seconds=1)


async def get_node(redis: Redis, settings: Settings, cluster_id: str, node_id: str) -> NodeResource:
    cluster = await require_cluster(redis, cluster_id)
    return _resource(settings, cluster, await require_node(redis, cluster_id, node_id))


async def list_nodes(
    redis: Redis, settings: Settings, cluster_id: str, *, limit: int, after: str | None
) -> NodeList:
    cluster = await require_cluster(redis, cluster_id)
    ids = await store.node_ids(redis, cluster_id)
    start = bisect_right(ids, after) if after is not None else 0
    page = ids[start : start + limit]
    nodes = await store.read_nodes(redis, cluster_id, page)
    return NodeList(
        nodes=await asyncio.to_thread(lambda: [_resource(settings, cluster, node) for node in nodes]),
        next_after=page[-1] if start + limit < len(ids) else None,
    )


async def drain_node(redis: Redis, settings: Settings, cluster_id: str, node_id: str) -> NodeResource:
    """The next placement leaves it empty; it goes once it holds nothing. Doing it again changes nothing."""
    for _ in range(ATTEMPTS):
        before = await require_node(redis, cluster_id, node_id)
        if before.record.draining:
            break
        record = before.record.model_copy(update={"draining": True, "updated_at": datetime.now(UTC)})
        written = await store.write_node(
            redis, cluster_id, before, record, new_instance=False, lease_ends_milliseconds=0
        )
        if written is Written.OK:
            break
    else:
        raise Unavailable("others keep registering the same node", retry_after_seconds=1)
    return await get_node(redis, settings, cluster_id, node_id)


async def require_node(redis: Redis, cluster_id: str, node_id: str) -> StoredNode:
    node = await store.read_node(redis, cluster_id, node_id)
    if node is None:
        raise NotFound(f"there is no node {node_id} in cluster {cluster_id}: register it")
    return node


def require_instance(node: StoredNode, instance_uid: str) -> None:
    """`Conflict` unless the node's newest registration is of this instance."""
    if node.record.spec.instance_uid != instance_uid:
        raise Conflict(
            f"node {node.record.node_id} is registered with another instance_uid than {instance_uid}: "
            "register again"
        )


def intervals(settings: Settings) -> Intervals:
    return Intervals(
        heartbeat_seconds=settings.heartbeat_interval_seconds,
        telemetry_seconds=settings.telemetry_interval_seconds,
    )


def lease(settings: Settings, ends_milliseconds: float) -> NodeLease:
    return NodeLease(
        expires_at=datetime.fromtimestamp(ends_milliseconds / 1000, UTC),
        seconds=settings.node_lease_seconds,
    )


def alive(node: StoredNode) -> bool:
    return node.lease_ends_milliseconds is not None and node.lease_ends_milliseconds > time.time() * 1000


def _resource(settings: Settings, cluster: ClusterRecord, node: StoredNode) -> NodeResource:
    record = node.record
    if not alive(node):
        condition = NodeCondition.LOST
    else:
        condition = NodeCondition.DRAINING if record.draining else NodeCondition.LIVE
    status = None
    if node.status is not None:
        status = NodeStatus.model_construct(**dict(node.status), holds_count=node.holds_count)
    return NodeResource(
        node_id=record.node_id,
        uid=record.uid,
        cluster_uid=cluster.uid,
        created_at=record.created_at,
        updated_at=record.updated_at,
        condition=condition,
        spec=record.spec,
        status=status,
        lease=None if node.lease_ends_milliseconds is None else lease(settings, node.lease_ends_milliseconds),
        intervals=intervals(settings),
    )
