"""On disk before it is answered: what `durable` promises, for every write of one API process."""

import asyncio
import contextlib
import weakref
from typing import cast
from weakref import WeakKeyDictionary

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from app.storage.client import StorageError, server_of, servers_of

WAITAOF_MILLISECONDS = 4000

MARK_SECONDS = 60
"""A mark is of no use once it is on disk, and its cluster may be deleted."""


class DurabilityUnsupported(StorageError):
    """`durable` is set and the server cannot say when a write is on disk."""


class NotOnDisk(Exception):
    """The server did not say in time that it has the writes on disk. They are made all the same."""


async def require_durability(redis: Redis) -> None:
    """Raises `DurabilityUnsupported` unless each server has WAITAOF and an append-only file."""
    for server in await servers_of(redis):
        await _require_durability(server)


async def _require_durability(redis: Redis) -> None:
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
    """Waits until what was written is on disk, at each of the servers that were written to."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._servers: WeakKeyDictionary[Redis, _ServerSync] = WeakKeyDictionary()

    async def wait(self, *marks: str) -> None:
        """marks: a key to write at each server (`disk_mark`). Raises `NotOnDisk`, or redis-py's errors."""
        servers = {await server_of(self._redis, mark): mark for mark in marks}
        await asyncio.gather(*(self._sync(server).wait(mark) for server, mark in servers.items()))

    def _sync(self, server: Redis) -> "_ServerSync":
        return self._servers.setdefault(server, _ServerSync(server))


class _ServerSync:
    """Waits until all that was written to one server is on disk; whoever asks meanwhile shares the next wait.

    The append-only file is one sequence, and WAITAOF waits for the writes of its own connection. So a mark is
    written, and once that is on disk, all that any connection wrote before it is too.
    """

    def __init__(self, server: Redis) -> None:
        self._server = weakref.ref(server)
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def wait(self, mark: str) -> None:
        if self._next is None:
            # The wait under way may have begun before the caller's write: only the one after it will do.
            self._next = asyncio.create_task(self._after(self._running, mark))
        await asyncio.shield(self._next)

    async def _after(self, before: asyncio.Task[None] | None, mark: str) -> None:
        if before is not None:
            with contextlib.suppress(Exception):
                await asyncio.shield(before)
        self._running, self._next = self._next, None
        server = self._server()
        assert server is not None
        async with server.pipeline(transaction=False) as pipe:
            pipe.set(mark, b"", ex=MARK_SECONDS)
            pipe.execute_command("WAITAOF", 1, 0, WAITAOF_MILLISECONDS)
            replies = await pipe.execute()
        if int(cast("list[int]", replies[1])[0]) < 1:
            raise NotOnDisk
