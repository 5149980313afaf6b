"""Telemetry keeps its node alive: a window says as well as a heartbeat that its sender runs.

A node's lease is begun anew once in a tenth of it by each process, so that most windows cost a look into a
dictionary, and none waits for it.
"""

import math
import time
from collections import OrderedDict
from typing import NamedTuple

from redis.asyncio.client import Pipeline

from app.nodes.store import queue_renewal
from app.storage.keys import ClusterKeys

RENEWALS_PER_LEASE = 10.0
REMEMBERED = 20_000
"""Nodes whose last renewal is remembered; of others it comes again."""

AHEAD_SECONDS = 1.0
"""A window that ends so much later than the server's clock shows tells that its node's clock is ahead. One
that ended long ago tells nothing: it may have waited."""


class Renewal(NamedTuple):
    keys: ClusterKeys
    node_id: str
    instance_uid: str
    lease_seconds: float
    ahead_seconds: float | None

    def queue(self, pipe: Pipeline) -> None:
        queue_renewal(
            pipe,
            self.keys,
            self.node_id,
            self.instance_uid,
            lease_seconds=self.lease_seconds,
            ahead_seconds=self.ahead_seconds,
        )


class Renewals:
    """Of one process."""

    def __init__(self, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._every = lease_seconds / RENEWALS_PER_LEASE
        self._renewed: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    def due(self, keys: ClusterKeys, node_id: str, instance_uid: str, ends_in: float) -> Renewal | None:
        """What to do about a window that came; None: nothing, as a rule. ends_in: seconds from now to the
        window's end."""
        name, now = (keys.cluster_id, node_id, instance_uid), time.monotonic()
        if now - self._renewed.get(name, -math.inf) < self._every:
            return None
        self._renewed[name] = now
        self._renewed.move_to_end(name)
        if len(self._renewed) > REMEMBERED:
            self._renewed.popitem(last=False)
        ahead = ends_in if ends_in > AHEAD_SECONDS else None
        return Renewal(keys, node_id, instance_uid, self._lease_seconds, ahead)
