"""Which worker processes live: what readiness asks, since without one nothing is folded or placed."""

from typing import cast

from redis.asyncio import Redis

from app.storage.keys import STARTING_WORKERS, WORKERS

# KEYS workers; ARGV worker id, milliseconds it counts as alive. Forgets the dead on the way; all that live.
_BEAT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
return redis.call('ZRANGE', KEYS[1], 0, -1)
"""

# KEYS workers. How many count as alive.
_COUNT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZCOUNT', KEYS[1], '(' .. string.format('%.0f', now), '+inf')
"""


async def beat(redis: Redis, worker_id: str, ttl_seconds: float) -> list[str]:
    """Count as alive for another `ttl_seconds`; a worker calls it each tick, once it is ready to work. All
    workers that live."""
    found = cast("list[bytes]", await redis.eval(_BEAT, 1, WORKERS, worker_id, str(int(ttl_seconds * 1000))))
    return [member.decode() for member in found]


async def beat_starting(redis: Redis, worker_id: str, ttl_seconds: float) -> None:
    """Count as starting for another `ttl_seconds`. A starting worker gets no clusters yet."""
    await redis.eval(_BEAT, 1, STARTING_WORKERS, worker_id, str(int(ttl_seconds * 1000)))


async def leave(redis: Redis, worker_id: str) -> None:
    """Stop counting as alive, or as starting, at once."""
    await redis.zrem(WORKERS, worker_id)
    await redis.zrem(STARTING_WORKERS, worker_id)


async def alive(redis: Redis) -> int:
    """How many workers live."""
    return int(await redis.eval(_COUNT, 1, WORKERS))


async def starting(redis: Redis) -> int:
    """How many workers start, and will live soon."""
    return int(await redis.eval(_COUNT, 1, STARTING_WORKERS))


async def forget_all(redis: Redis) -> None:
    """For whoever knows that no worker can live: its server was down, and starts none but its own."""
    await redis.delete(WORKERS)
    await redis.delete(STARTING_WORKERS)
