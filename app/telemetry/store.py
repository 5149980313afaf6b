"""Windows into the cluster's stream: each at most once, and only if all it was judged by still holds."""

from dataclasses import dataclass
from enum import IntEnum

from redis.asyncio.client import Pipeline

from app.storage.keys import ClusterKeys

REMEMBERED = 1024
"""Newest sequence numbers remembered of a node's instance. Older ones that come for the first time cannot
be told from repeats, and are refused."""


class Outcome(IntEnum):
    ACCEPTED = 1
    DUPLICATE = 0
    STALE_REVISION = -1
    """Models, nodes or settings have changed since the window was judged: judge again."""
    UNKNOWN_INSTANCE = -2
    STALE_SEQUENCE_NUMBER = -3
    FULL = -4


# KEYS revision, telemetry_instances, telemetry_seen, telemetry, telemetry_bytes
# ARGV revision, node id, instance uid, sequence number, bytes allowed, numbers remembered, packed window
_APPEND = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return -1 end
if redis.call('HGET', KEYS[2], ARGV[2]) ~= ARGV[3] then return -2 end
if redis.call('ZSCORE', KEYS[3], ARGV[4]) then return 0 end
local remembered = tonumber(ARGV[6])
local full = redis.call('ZCARD', KEYS[3]) >= remembered
if full then
  local lowest = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
  if tonumber(ARGV[4]) < tonumber(lowest[2]) then return -3 end
end
local size = string.len(ARGV[7])
if tonumber(redis.call('GET', KEYS[5]) or '0') + size > tonumber(ARGV[5]) then return -4 end
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[4])
if full then redis.call('ZREMRANGEBYRANK', KEYS[3], 0, 0) end
redis.call('XADD', KEYS[4], '*', 'w', ARGV[7])
redis.call('INCRBY', KEYS[5], size)
return 1
"""


@dataclass(frozen=True, slots=True)
class Append:
    """One window on its way. `revision` is that of what it was judged by."""

    keys: ClusterKeys
    revision: bytes
    node_id: str
    instance_uid: str
    sequence_number: int
    packed: bytes
    max_unfolded_bytes: int


def queue_append(pipe: Pipeline, append: Append) -> None:
    """Queue the append; its reply is an `Outcome`."""
    keys = append.keys
    pipe.eval(
        _APPEND,
        5,
        keys.revision,
        keys.telemetry_instances,
        keys.telemetry_seen(append.node_id),
        keys.telemetry,
        keys.telemetry_bytes,
        append.revision,
        append.node_id,
        append.instance_uid,
        str(append.sequence_number),
        str(append.max_unfolded_bytes),
        str(REMEMBERED),
        append.packed,
    )
