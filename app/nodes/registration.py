"""Registering a node: what it is, who may be it, and how often."""

import math
import secrets

import structlog
from redis.asyncio import Redis

from app.clusters.store import ensure_cluster
from app.config import Settings
from app.errors import Conflict, FieldError, NodeTaken, RateLimited, Unavailable
from app.nodes import store
from app.nodes.schemas import NodeRecord, NodeResource, NodeSpec
from app.nodes.service import ATTEMPTS, get_node
from app.nodes.store import StoredNode, Written
from app.nodes.takeover import Holder, holder_of, name_of, restarted
from app.observability.metrics import NODE_REGISTRATIONS
from app.storage.clock import server_now

log = structlog.stdlib.get_logger(__name__)


async def put_node(
    redis: Redis,
    settings: Settings,
    cluster_id: str,
    node_id: str,
    spec: NodeSpec,
    *,
    take_over: bool = False,
) -> tuple[NodeResource, bool]:
    """Register it; the node, and whether it is new. Its lease begins anew.

    A new `instance_uid` starts it anew: it holds nothing until it reports. With the one known only the
    specification is replaced. A node that is draining stays so until it is gone, and one that left, drained,
    comes back as drained, until an operator lets it in (`undrain_node`).

    `NodeTaken` where another instance has the node and lives, unless `take_over`; `RateLimited` where the
    node registers too often.
    """
    await ensure_cluster(redis, cluster_id, limit=settings.max_clusters)
    for _ in range(ATTEMPTS):
        before = await store.read_node(redis, cluster_id, node_id)
        outcome = _outcome(before, spec)
        if outcome == "restarted":
            assert before is not None
            holder = await _other_agent(redis, settings, cluster_id, before, spec)
            if holder is not None:
                await _say_conflict(redis, cluster_id, holder, spec, take_over=take_over)
                outcome = "taken_over"
        kept_out = before is None and await store.is_kept_out(redis, cluster_id, node_id)
        record = _record(before, node_id, spec, kept_out=kept_out)
        written, seconds = await store.write_registration(
            redis,
            cluster_id,
            before,
            record,
            news=before is None or _read_by_workers(before.record.spec) != _read_by_workers(spec),
            lease_seconds=settings.node_lease_seconds,
        )
        if written is Written.OK:
            NODE_REGISTRATIONS.labels(outcome).inc()
            return await get_node(redis, settings, cluster_id, node_id), before is None
        if written is Written.LIMITED:
            NODE_REGISTRATIONS.labels("limited").inc()
            raise RateLimited(
                f"node {node_id} has registered {store.REGISTRATIONS_AT_ONCE} times at once, expected one in "
                f"{store.REGISTRATION_SECONDS:g} s at most",
                retry_after_seconds=math.ceil(seconds),
            )
        if written is Written.FULL:
            raise Conflict(
                f"cluster {cluster_id} has {store.MAX_NODES} nodes already, the largest number allowed"
            )
        if written is Written.NO_CLUSTER:
            await ensure_cluster(redis, cluster_id, limit=settings.max_clusters)
    raise Unavailable("other requests keep registering the same node", retry_after_seconds=1)


def _outcome(before: StoredNode | None, spec: NodeSpec) -> str:
    if before is None:
        return "new"
    if before.record.spec.instance_uid != spec.instance_uid:
        return "restarted"
    return "unchanged" if before.record.spec == spec else "changed"


def _record(before: StoredNode | None, node_id: str, spec: NodeSpec, *, kept_out: bool) -> NodeRecord:
    known = None if before is None else before.record
    if known is not None and known.spec == spec:
        return known
    now = server_now()
    if known is not None:
        return known.model_copy(update={"updated_at": now, "spec": spec})
    uid = secrets.token_hex(8)
    return NodeRecord(
        node_id=node_id,
        uid=uid,
        created_at=now,
        updated_at=now,
        draining=kept_out,
        kept_out=kept_out,
        spec=spec,
    )


def _read_by_workers(spec: NodeSpec) -> NodeSpec:
    """What of it workers and others remember; the rest they learn from what the node says."""
    return spec.model_copy(update={"instance_uid": ""})


async def _other_agent(
    redis: Redis, settings: Settings, cluster_id: str, before: StoredNode, spec: NodeSpec
) -> Holder | None:
    """The instance that has the node, where it lives and `spec` is not its successor."""
    holder = holder_of(
        before,
        lease_seconds=settings.node_lease_seconds,
        heartbeat_seconds=settings.heartbeat_interval_seconds,
    )
    if not before.alive or not holder.lives:
        return None
    node_id = before.record.node_id
    if not restarted(before.record, spec):
        return holder
    return holder if await store.was_replaced(redis, cluster_id, node_id, spec.instance_uid) else None


async def _say_conflict(
    redis: Redis, cluster_id: str, holder: Holder, spec: NodeSpec, *, take_over: bool
) -> None:
    """Log it and keep it for the cluster's conditions; `NodeTaken` unless the other is to be replaced."""
    other = name_of(spec)
    log.warning(
        "two agents use the same node_id",
        cluster_id=cluster_id,
        node=holder.node_id,
        alive=holder.name,
        registered_seconds_ago=round(holder.registered_ago),
        heard_seconds_ago=round(holder.heard_ago),
        came=other,
        taken_over=take_over,
    )
    await store.note_conflict(redis, cluster_id, holder.node_id, holder=holder.name, other=other)
    if take_over:
        return
    NODE_REGISTRATIONS.labels("refused").inc()
    detail = (
        f"{holder.words}: give each agent a node_id of its own, or stop one of the two; "
        "take_over=true takes the node from the other agent"
    )
    raise NodeTaken(
        detail,
        retry_after_seconds=math.ceil(holder.quiet_seconds - holder.heard_ago),
        errors=[FieldError("/instance_uid", detail, "NODE_ID_TAKEN")],
    )
