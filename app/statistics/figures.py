"""Figures that would spoil the solves of a whole cluster, in records older than the ranges of requests.

A node with such a specification is left out of the cluster until it registers anew; what a node has measured
is not used, and the cluster's own settings are brought into the range. Each is named in words.
"""

from collections.abc import Iterator

from app.clusters.schemas import HALF_LIFE, HORIZON, ClusterSettings
from app.nodes.schemas import LatencySpec, NodeRecord, NodeStatusRecord
from app.schema import BANDWIDTH, DEVICE_MEMORY, LATENCY, InRequests


def fault_of_node(node: NodeRecord) -> str | None:
    """Why the node cannot be reckoned with, in words; None where it can."""
    spec = node.spec
    faults = [
        *(_out_of(DEVICE_MEMORY, f"memory of {it.device_id}", it.memory_bytes) for it in spec.devices),
        _out_of(BANDWIDTH, "ingress_bytes_per_second", spec.ingress_bytes_per_second),
        _out_of(BANDWIDTH, "egress_bytes_per_second", spec.egress_bytes_per_second),
        *_of_latency(spec.latency),
    ]
    fault = next((found for found in faults if found), None)
    return fault and f"node {node.node_id} is left out until it registers again: {fault}"


def sound_status(node_id: str, status: NodeStatusRecord) -> tuple[NodeStatusRecord, str | None]:
    """The status, without its measurements where one of them is out of range, which is named in words."""
    fault = next((found for found in _of_latency(status.latency) if found), None)
    if fault is None:
        return status, None
    return (
        status.model_copy(update={"latency": None}),
        f"what node {node_id} measured is not used: {fault}",
    )


def sound_settings(settings: ClusterSettings) -> tuple[ClusterSettings, list[str]]:
    """The settings within the ranges, and what was not, in words."""
    changes: dict[str, object] = {}
    faults: list[str] = []
    for name, wanted in (
        ("default_latency_seconds", LATENCY),
        ("horizon_seconds", HORIZON),
        ("statistics_half_life_seconds", HALF_LIFE),
        ("max_migration_bytes_per_second", BANDWIDTH),
        ("max_node_migration_bytes_per_second", BANDWIDTH),
    ):
        value: float | None = getattr(settings, name)
        if value is not None and (fault := _out_of(wanted, name, value)):
            changes[name] = wanted.clipped(value)
            faults.append(f"setting {fault}: {changes[name]:g} is used")
    origin = settings.origin
    if origin is not None:
        for name, wanted in (("egress_bytes_per_second", BANDWIDTH), ("latency_seconds", LATENCY)):
            value = getattr(origin, name)
            if fault := _out_of(wanted, f"origin.{name}", value):
                changes["origin"] = origin = origin.model_copy(update={name: wanted.clipped(value)})
                faults.append(f"setting {fault}: {wanted.clipped(value):g} is used")
    return (settings.model_copy(update=changes) if changes else settings), faults


def _of_latency(latency: LatencySpec | None) -> Iterator[str | None]:
    if latency is None:
        return
    yield _out_of(LATENCY, "latency.local_seconds", latency.local_seconds)
    if latency.origin_seconds is not None:
        yield _out_of(LATENCY, "latency.origin_seconds", latency.origin_seconds)
    for peer, seconds in latency.peers_seconds.items():
        yield _out_of(LATENCY, f"latency to {peer}", seconds)


def _out_of(wanted: InRequests, name: str, value: float) -> str | None:
    return None if value in wanted else f"{name} is {value:g}, expected {wanted.ge:g} to {wanted.le:g}"
