"""Whether a new instance may have a node that another one has: an agent that was started anew may, a second
agent that was given the same name may not.

The instance before is taken to have ended where its lease has run out, where it has been silent for longer
than heartbeats are apart, or where the new one serves at the same URL, which two cannot (or both at none). An
instance that was itself replaced still runs, since it asks: it gets the node back only once the other one is
silent. So two agents never take a node from each other in turns, whatever they say of themselves.
"""

from dataclasses import dataclass

from app.nodes.schemas import NodeRecord, NodeSpec
from app.nodes.store import StoredNode

QUIET_HEARTBEATS = 1.5
"""Heartbeats for which an instance has to be silent before another one may take its node over."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The instance that has the node: how long ago it registered and was last heard of, and for how long it
    has to be silent until another one may have the node, all in seconds."""

    node_id: str
    name: str
    registered_ago: float
    heard_ago: float
    quiet_seconds: float

    @property
    def lives(self) -> bool:
        return self.heard_ago < self.quiet_seconds

    @property
    def words(self) -> str:
        return (
            f"another agent runs as {self.node_id} at {self.name}, "
            f"registered {self.registered_ago:.0f} s ago, heard of {self.heard_ago:.0f} s ago, alive"
        )


def holder_of(node: StoredNode, *, lease_seconds: float, heartbeat_seconds: float) -> Holder:
    """By the server's clock, as of when the node was read."""
    record, now = node.record, node.read_at_milliseconds / 1000
    ends = (node.lease_ends_milliseconds or 0.0) / 1000
    return Holder(
        node_id=record.node_id,
        name=name_of(record.spec),
        registered_ago=max(0.0, now - record.updated_at.timestamp()),
        heard_ago=max(0.0, now - (ends - lease_seconds)),
        quiet_seconds=min(QUIET_HEARTBEATS * heartbeat_seconds, lease_seconds),
    )


def name_of(spec: NodeSpec) -> str:
    """What a person finds an agent by."""
    url = spec.experts_url or spec.base_url
    return f"{url} (instance_uid {spec.instance_uid})" if url else f"instance_uid {spec.instance_uid}"


def restarted(before: NodeRecord, spec: NodeSpec) -> bool:
    """Whether the new instance serves where the one before did."""
    return (spec.experts_url or spec.base_url) == (before.spec.experts_url or before.spec.base_url)
