"""Draining nodes leave: registered until nothing of the cluster is theirs any more."""

from typing import Final, cast

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.nodes.schemas import NodeRecord
from app.observe.observation import Observation
from app.storage import topics
from app.storage.clock import server_seconds
from app.storage.fenced import fenced
from app.storage.keys import ClusterKeys
from app.storage.lease import Lease
from app.storage.records import read_record

MAX_KEPT_OUT: Final = 4096
"""Nodes that left, drained, and are remembered as such, the newest."""

log = structlog.stdlib.get_logger(__name__)


def departing(observation: Observation) -> list[str]:
    """Draining nodes that hold nothing (or were lost a lease ago or more) and to which the generation in
    force gives nothing; not those that left before and came back, while they live."""
    fleet, in_force = observation.fleet, observation.in_force
    leaving = []
    for row, node in enumerate(fleet.nodes):
        if not node.draining or observation.held[row].any() or node.node_id in observation.lately_lost:
            continue
        if node.kept_out and node.node_id in observation.live:
            continue  # it would only register again
        if in_force is not None and in_force.holds[row].any():
            continue
        leaving.append(node.node_id)
    return leaving


async def remove_node(redis: Redis, keys: ClusterKeys, lease: Lease, node_id: str) -> bool:
    """Forget the node unless it has registered again meanwhile, but for that it is to be kept out."""
    drains = False

    async def check(pipe: Pipeline) -> None:
        nonlocal drains
        stored = cast("bytes | None", await pipe.hget(keys.nodes, node_id))
        drains = stored is not None and read_record(NodeRecord, stored, keys.nodes).draining

    def queue(pipe: Pipeline) -> None:
        if not drains:
            return
        for name in (
            keys.nodes,
            keys.node_status,
            keys.holdings_versions,
            keys.telemetry_instances,
            keys.registration_rates,
            keys.node_conflicts,
            keys.node_clocks,
        ):
            pipe.hdel(name, node_id)
        pipe.zrem(keys.node_leases, node_id)
        pipe.zadd(keys.drained_nodes, {node_id: server_seconds()})
        pipe.zremrangebyrank(keys.drained_nodes, 0, -MAX_KEPT_OUT - 1)
        pipe.delete(
            keys.holdings(node_id),
            keys.telemetry_seen(node_id),
            keys.replaced_instances(node_id),
            keys.assignment(node_id),
            keys.moves(node_id),
        )
        pipe.incr(keys.revision)
        topics.announce(
            pipe, keys, topics.STATUS, topics.WORK, topics.assignment(node_id), topics.moves(node_id)
        )

    await fenced(redis, lease, queue, watch=(keys.nodes,), check=check)
    if drains:
        log.info("drained node removed", node=node_id)
    return drains
