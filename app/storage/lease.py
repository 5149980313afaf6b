"""The right to work on a cluster, held by one worker at a time.

A lease is a key with a time to live that names its holder and a fencing token. Each acquisition draws a
higher token, so whoever paused past its lease and wakes up finds another value there: its writes, which
compare before they commit (`fenced`), do nothing.
"""

from dataclasses import dataclass

from redis.asyncio import Redis

from app.storage.keys import ClusterKeys

# KEYS lease, fence; ARGV worker id, milliseconds. The new token, or 0 while another worker holds the lease.
_ACQUIRE = """
local held = redis.call('GET', KEYS[1])
if held and string.sub(held, string.find(held, ':', 1, true) + 1) ~= ARGV[1] then
  return 0
end
local token = redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], string.format('%.0f', token) .. ':' .. ARGV[1], 'PX', ARGV[2])
return token
"""

# KEYS lease; ARGV own value, milliseconds.
_RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
"""

# KEYS lease; ARGV own value.
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
"""


class LeaseLost(Exception):
    """Another worker may hold the cluster: whatever was being written for it must be dropped."""


@dataclass(frozen=True, slots=True)
class Lease:
    cluster_id: str
    worker_id: str
    token: int
    key: str
    ttl_milliseconds: int

    @property
    def value(self) -> bytes:
        """What the lease's key holds while the lease is ours."""
        return f"{self.token}:{self.worker_id}".encode()


async def acquire(redis: Redis, keys: ClusterKeys, worker_id: str, ttl_seconds: float) -> Lease | None:
    """Take the cluster's lease if nobody, or `worker_id`, holds it; None while another worker does.

    Taking it again draws a new token: earlier leases of the same worker are stale from then on.
    """
    ttl = int(ttl_seconds * 1000)
    token = int(await redis.eval(_ACQUIRE, 2, keys.lease, keys.fence, worker_id, str(ttl)))
    if token == 0:
        return None
    return Lease(keys.cluster_id, worker_id, token, keys.lease, ttl)


async def renew(redis: Redis, lease: Lease) -> bool:
    """Start the lease's time anew; False when it is no longer ours."""
    return bool(await redis.eval(_RENEW, 1, lease.key, lease.value, str(lease.ttl_milliseconds)))


async def release(redis: Redis, lease: Lease) -> bool:
    """Give the lease up, so that another worker need not wait for its end; False when it was not ours."""
    return bool(await redis.eval(_RELEASE, 1, lease.key, lease.value))
