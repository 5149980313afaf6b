"""On disk before it is answered: what `durable` promises, for every write of one API process."""

import asyncio
import contextlib
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from app.storage.client import StorageError
from app.storage.keys import DISK_MARK

WAITAOF_MILLISECONDS = 4000


class DurabilityUnsupported(StorageError):
    """`durable` is set and the server cannot say when a write is on disk."""


class NotOnDisk(Exception):
    """The server did not say in time that it has the writes on disk. They are made all the same."""


async def require_durability(redis: Redis) -> None:
    """Raises `DurabilityUnsupported` unless the server has WAITAOF and an append-only file."""
    try:
        known = await redis.execute_command("COMMAND INFO", "WAITAOF")  # type: ignore[no-untyped-call]
    except ResponseError as error:
        raise DurabilityUnsupported(f"durable: the server answers {error}") from None
    if not known or not any(known.values() if isinstance(known, dict) else known):
        raise DurabilityUnsupported(
            "durable: the server has no WAITAOF; Redis 7.2 or Valkey 7.2 is needed, or MOEPLACE_DURABLE=0"
        )
    info = await redis.info("persistence")
    if not info.get("aof_enabled"):
        raise DurabilityUnsupported("durable: the server keeps no append-only file; set appendonly yes")


class DiskSync:
    """Waits until everything written so far is on disk; whoever asks meanwhile shares the next wait.

    The append-only file is one sequence, and WAITAOF waits for the writes of its own connection. So a mark is
    written, and once that is on disk, all that any connection wrote before it is too.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def wait(self) -> None:
        """Raises `NotOnDisk`, or redis-py's errors."""
        if self._next is None:
            # The wait under way may have begun before the caller's write: only the one after it will do.
            self._next = asyncio.create_task(self._after(self._running))
        await asyncio.shield(self._next)

    async def _after(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            with contextlib.suppress(Exception):
                await asyncio.shield(before)
        self._running, self._next = self._next, None
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.set(DISK_MARK, b"")
            pipe.execute_command("WAITAOF", 1, 0, WAITAOF_MILLISECONDS)
            replies = await pipe.execute()
        if int(cast("list[int]", replies[1])[0]) < 1:
            raise NotOnDisk
