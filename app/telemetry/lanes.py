"""A group commit for each server: one that does not answer holds up the windows of its own clusters alone."""

import asyncio
from collections.abc import Awaitable
from weakref import WeakKeyDictionary

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.errors import Unavailable
from app.storage.client import is_sharded, server_of
from app.telemetry.commit import GroupCommit
from app.telemetry.store import Append, Outcome


class CommitLanes:
    """Appends of one process."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._lanes: WeakKeyDictionary[Redis, GroupCommit] = WeakKeyDictionary()
        self._only = None if is_sharded(redis) else GroupCommit(redis)

    def append(self, window: Append) -> Awaitable[Outcome]:
        """As `GroupCommit.append`."""
        return self._find_and_append(window) if self._only is None else self._only.append(window)

    async def _find_and_append(self, window: Append) -> Outcome:
        try:
            server = await server_of(self._redis, window.keys.telemetry)
        except (RedisError, OSError) as error:
            raise Unavailable(f"no server: {type(error).__name__}", retry_after_seconds=1) from None
        lane = self._lanes.get(server)
        if lane is None:
            lane = self._lanes[server] = GroupCommit(self._redis)
        return await lane.append(window)

    async def drain(self) -> None:
        """Wait until nothing waits."""
        lanes = [*self._lanes.values(), *([self._only] if self._only else [])]
        await asyncio.gather(*(lane.drain() for lane in lanes))
