"""What is announced on a cluster's wake channel: the message is a topic, and says only that it changed.

Messages may be lost (the channel keeps none), so whoever waits looks at the state again after subscribing,
after a reconnect and after its time is up.
"""

from redis.asyncio.client import Pipeline

from app.storage.keys import ClusterKeys

PLACEMENT = "placement"
"""A new generation is in force."""

STATUS = "status"
"""The placement's conditions or a node's progress changed."""

WORK = "work"
"""For the worker: specification, holdings, jobs, commands or reports changed."""

CLUSTER = "cluster"
"""The cluster is gone, and nothing that was known of it holds."""

TOKENS = "tokens"
"""Tokens were issued or revoked: what is remembered of them holds no more."""


def assignment(node_id: str) -> str:
    return f"assignment:{node_id}"


def moves(node_id: str) -> str:
    return f"moves:{node_id}"


def optimization(optimization_id: str) -> str:
    return f"optimization:{optimization_id}"


def plan(plan_id: str) -> str:
    return f"plan:{plan_id}"


def announce(pipeline: Pipeline, keys: ClusterKeys, *topics: str) -> None:
    """Queue the announcements; in the transaction of the change, so that nobody wakes before it."""
    for topic in topics:
        pipeline.publish(keys.wake, topic)
