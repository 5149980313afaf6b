"""The network, made of what nodes specify and measure."""

import asyncio

import numpy as np
from redis.asyncio import Redis

from app.clusters.schemas import ClusterRecord
from app.clusters.store import require_cluster
from app.network.schemas import Network, NodeNetwork
from app.nodes.store import StoredNode, node_ids, read_nodes
from app.statistics.fleet import Fleet
from app.statistics.latency import Known, origin_latency, peer_latency


async def read_network(redis: Redis, cluster_id: str) -> tuple[str, bytes]:
    """The cluster's uid, and the network as JSON."""
    cluster = await require_cluster(redis, cluster_id)
    nodes = await read_nodes(redis, cluster_id, await node_ids(redis, cluster_id))
    return cluster.uid, await asyncio.to_thread(_json, cluster, nodes)


def _json(cluster: ClusterRecord, stored: list[StoredNode]) -> bytes:
    """O(N^2)"""
    fleet = Fleet.of((), (node.record for node in stored))
    statuses = {node.record.node_id: node.status for node in stored if node.status is not None}
    live = {node.record.node_id for node in stored if node.alive}
    seconds, known = peer_latency(fleet, cluster.settings, statuses)
    origin = origin_latency(fleet, cluster.settings, statuses)
    network = Network(
        cluster_uid=cluster.uid,
        default_latency_seconds=cluster.settings.default_latency_seconds,
        nodes=[
            NodeNetwork(
                node_id=node.node_id,
                live=node.node_id in live,
                latency_seconds=seconds[row].tolist(),
                measured=np.flatnonzero(known[row] == Known.MEASURED).tolist(),
                defaulted=np.flatnonzero(known[row] == Known.DEFAULT).tolist(),
                origin_seconds=float(origin[row]) if np.isfinite(origin[row]) else None,
                ingress_bytes_per_second=node.spec.ingress_bytes_per_second,
                egress_bytes_per_second=node.spec.egress_bytes_per_second,
            )
            for row, node in enumerate(fleet.nodes)
        ],
    )
    return network.model_dump_json().encode()
