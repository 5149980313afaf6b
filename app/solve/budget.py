"""What nodes may still be asked to receive for new placements in the present interval."""

from datetime import timedelta

from redis.asyncio import Redis

from app.observe.observation import Observation
from app.placements import store
from app.storage.clock import server_now
from solvers.response.partial import UNLIMITED, Budget

SLACK = 0.01
"""Of an interval: solves that begin an interval apart do not by a hair."""

LOOKED_BACK = 100
"""Placements, newest first, whose copies are counted; more in one interval are not expected."""


async def budget_left(redis: Redis, observation: Observation) -> Budget:
    """The limits of the cluster's settings, less what placements of the last interval asked for."""
    settings = observation.cluster.settings
    copies, size = settings.max_moves_per_interval, settings.max_migration_bytes_per_interval
    if copies is None and size is None:
        return UNLIMITED
    interval = timedelta(seconds=settings.optimization_interval_seconds)
    since = server_now() - (1.0 - SLACK) * interval
    entries, _ = await store.read_page(redis, observation.cluster.cluster_id, limit=LOOKED_BACK, before=None)
    recent = [
        entry.evidence
        for entry in entries
        # From solve to solve, since that is what an interval is between. The first is no change of another.
        if (entry.evidence.solved_at or entry.metadata.created_at) > since
        and entry.metadata.supersedes is not None
    ]
    return Budget(
        copies=None if copies is None else max(0, copies - sum(e.copies or 0 for e in recent)),
        bytes=None if size is None else max(0, size - sum(e.migration_bytes or 0 for e in recent)),
    )
