"""What a call from one node to another takes: measured, or else specified, or else the cluster's default."""

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from app.clusters.schemas import ClusterSettings
from app.nodes.schemas import NodeStatusRecord
from app.statistics.fleet import Fleet

Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]


class Known(IntEnum):
    """How a latency is known; what is known better is higher."""

    DEFAULT = 0
    SPECIFIED = 1
    MEASURED = 2


class PeerLatency(NamedTuple):
    """`seconds` float64[N, N], row calls column; `known` uint8[N, N] of `Known`."""

    seconds: Float64
    known: UInt8


def peer_latency(
    fleet: Fleet, settings: ClusterSettings, statuses: Mapping[str, NodeStatusRecord]
) -> PeerLatency:
    """O(N^2). A node's local latency is the measured one, or the specified one where the node reports 0."""
    count = len(fleet.nodes)
    latency = np.full((count, count), settings.default_latency_seconds)
    known = np.full((count, count), Known.DEFAULT, np.uint8)
    for row, node in enumerate(fleet.nodes):
        status = statuses.get(node.node_id)
        measured = status.latency if status is not None else None
        for source, how in ((node.spec.latency, Known.SPECIFIED), (measured, Known.MEASURED)):
            if source is None:
                continue
            for peer, seconds in source.peers_seconds.items():
                column = fleet.rows.get(peer)
                if column is not None:
                    latency[row, column] = seconds
                    known[row, column] = how
        local = measured.local_seconds if measured is not None else 0.0
        latency[row, row] = local or node.spec.latency.local_seconds
        known[row, row] = Known.MEASURED if local else Known.SPECIFIED
    return PeerLatency(latency, known)


def origin_latency(
    fleet: Fleet, settings: ClusterSettings, statuses: Mapping[str, NodeStatusRecord]
) -> Float64:
    """float64[N]; inf everywhere without an origin."""
    latency = np.full(len(fleet.nodes), np.inf)
    if settings.origin is not None:
        for row, node in enumerate(fleet.nodes):
            status = statuses.get(node.node_id)
            latency[row] = settings.origin.latency_seconds
            for source in (node.spec.latency, status.latency if status is not None else None):
                if source is not None and source.origin_seconds is not None:
                    latency[row] = source.origin_seconds
    return latency
