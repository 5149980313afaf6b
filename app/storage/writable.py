"""Whether Redis takes writes: a read-only replica, a full or a failing server answers reads as if all were
well."""

from itertools import count

from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from app.storage import keys
from app.storage.client import server_of, servers_of

_KEPT_MILLISECONDS = 10_000


class WritesRefused(Exception):
    """A server answered, and refused a write; the reason in words, and what mends it."""


async def check_writable(redis: Redis) -> None:
    """Write to every server that has keys. Raises `WritesRefused`, or redis-py's errors where one is
    silent."""
    for key in await _keys(redis):
        try:
            await redis.set(key, b"1", px=_KEPT_MILLISECONDS)
        except ResponseError as error:
            raise WritesRefused(why_refused(error) or str(error)) from None


def why_refused(error: Exception) -> str | None:
    """In words, with what mends it, where a server refused a write; None for other errors."""
    answer = str(error)  # redis-py leaves the code out of some answers and in others
    if isinstance(error, ReadOnlyError) or "READONLY" in answer:
        return "it is a read-only replica: give the address of the primary"
    if isinstance(error, OutOfMemoryError) or "maxmemory" in answer:
        return "it uses all of its maxmemory: raise that, or free memory"
    if "MISCONF" in answer or "RDB snapshots" in answer or "persist" in answer:
        return "it could not save to its disk: see its log, and free space on the disk"
    if "NOREPLICAS" in answer or "Not enough good replicas" in answer:
        return "it has fewer replicas than min-replicas-to-write"
    return None


async def _keys(redis: Redis) -> list[str]:
    """One for each server."""
    servers = await servers_of(redis)
    found: dict[int, str] = {}
    for number in count():
        key = keys.writable(number)
        found.setdefault(id(await server_of(redis, key)), key)
        if len(found) >= len(servers) or number >= 64 * len(servers):
            return list(found.values())
    raise AssertionError("count() does not end")
