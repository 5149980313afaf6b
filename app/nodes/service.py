"""What may be done to nodes."""

from bisect import bisect_right
from datetime import UTC, datetime

from redis.asyncio import Redis

from app.clusters.schemas import ClusterRecord
from app.clusters.store import require_cluster
from app.config import Settings
from app.errors import Conflict, NotFound, Unavailable
from app.http.answers import PAGE_BYTES
from app.nodes import store
from app.nodes.schemas import (
    Intervals,
    NodeCondition,
    NodeLease,
    NodeList,
    NodeResource,
    NodeStatus,
)
from app.nodes.store import StoredNode, Written
from app.nodes.takeover import name_of
from app.storage.clock import server_now

ATTEMPTS = 16

_READ_AT_ONCE = 32


async def get_node(redis: Redis, settings: Settings, cluster_id: str, node_id: str) -> NodeResource:
    cluster = await require_cluster(redis, cluster_id)
    return _resource(settings, cluster, await require_node(redis, cluster_id, node_id))


async def list_nodes(
    redis: Redis, settings: Settings, cluster_id: str, *, limit: int, after: str | None
) -> NodeList:
    cluster = await require_cluster(redis, cluster_id)
    ids = await store.node_ids(redis, cluster_id)
    start = bisect_right(ids, after) if after is not None else 0
    end = min(start + limit, len(ids))
    nodes: list[NodeResource] = []
    room = PAGE_BYTES
    while start < end and room > 0:
        some = ids[start : min(start + _READ_AT_ONCE, end)]
        for node in await store.read_nodes(redis, cluster_id, some):
            nodes.append(_resource(settings, cluster, node))
            room -= len(node.record_bytes) + len(node.status_bytes)
        start += len(some)
    return NodeList(nodes=nodes, next_after=ids[start - 1] if 0 < start < len(ids) else None)


async def drain_node(redis: Redis, settings: Settings, cluster_id: str, node_id: str) -> NodeResource:
    """The next placement leaves it empty; it goes once it holds nothing. Doing it again changes nothing."""
    for _ in range(ATTEMPTS):
        before = await require_node(redis, cluster_id, node_id)
        if before.record.draining:
            break
        record = before.record.model_copy(update={"draining": True, "updated_at": server_now()})
        if await store.revise_node(redis, cluster_id, before, record) is Written.OK:
            break
    else:
        raise Unavailable("other requests keep registering the same node", retry_after_seconds=1)
    return await get_node(redis, settings, cluster_id, node_id)


async def undrain_node(
    redis: Redis, settings: Settings, cluster_id: str, node_id: str
) -> tuple[NodeCondition, NodeResource | None]:
    """The node may be given experts again, now or when it registers: its condition before, and the node, None
    where it is not registered now. Doing it again changes nothing. `NotFound` where it is neither registered
    nor kept out."""
    cluster = await require_cluster(redis, cluster_id)
    condition: NodeCondition | None = None
    for _ in range(ATTEMPTS):
        kept_out = await store.let_in(redis, cluster_id, node_id)
        before = await store.read_node(redis, cluster_id, node_id)
        if before is None:
            if kept_out:
                return NodeCondition.DRAINED, None
            raise NotFound(f"there is no node {node_id} in cluster {cluster_id}, and none was drained")
        condition = condition or _resource(settings, cluster, before).condition
        if not before.record.draining:
            return condition, _resource(settings, cluster, before)
        update = {"draining": False, "kept_out": False, "updated_at": server_now()}
        record = before.record.model_copy(update=update)
        await store.revise_node(redis, cluster_id, before, record)
    raise Unavailable("other requests keep registering the same node", retry_after_seconds=1)


async def require_node(redis: Redis, cluster_id: str, node_id: str) -> StoredNode:
    node = await store.read_node(redis, cluster_id, node_id)
    if node is None:
        raise NotFound(f"there is no node {node_id} in cluster {cluster_id}: register it")
    return node


def require_instance(node: StoredNode, instance_uid: str) -> None:
    """`Conflict` unless the node's newest registration is of this instance."""
    spec = node.record.spec
    if spec.instance_uid != instance_uid:
        raise Conflict(
            f"node {node.record.node_id} is registered with another instance_uid than {instance_uid}, by the "
            f"agent at {name_of(spec)}: register again"
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


def _resource(settings: Settings, cluster: ClusterRecord, node: StoredNode) -> NodeResource:
    record = node.record
    if not node.alive:
        condition = NodeCondition.LOST
    else:
        condition = NodeCondition.DRAINED if record.kept_out else NodeCondition.DRAINING
        condition = condition if record.draining else NodeCondition.LIVE
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
