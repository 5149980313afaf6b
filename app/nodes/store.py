"""Nodes in Redis: their records, what they last said, and what they are known to hold.

Heartbeats of a thousand nodes share hashes, so writes compare the one field they depend on, in a script,
instead of watching a key that others change all the time.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

from redis.asyncio import Redis

from app.nodes.schemas import NodeRecord, NodeStatusRecord
from app.storage import topics
from app.storage.keys import ClusterKeys
from app.storage.records import read_record, record_json

MAX_NODES = 1024

DECODED_AT_ONCE = 16
"""Nodes decoded on the event loop; each may tell the latency to all others."""

# KEYS nodes, revision, cluster, node_status, node_leases, holdings, holdings_versions, telemetry_seen,
#      telemetry_instances
# ARGV node id, record expected ('' for none), record, most nodes, instance uid if it is new else '', end of
#      the lease, wake channel, topic
_REGISTER = """
if redis.call('EXISTS', KEYS[3]) == 0 then return 'NO_CLUSTER' end
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if (stored or '') ~= ARGV[2] then return 'CHANGED' end
if not stored and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then return 'FULL' end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
if ARGV[5] ~= '' then
  redis.call('HDEL', KEYS[4], ARGV[1])
  redis.call('ZADD', KEYS[5], ARGV[6], ARGV[1])
  redis.call('DEL', KEYS[6], KEYS[8])
  -- Higher than any version before, also those of a node of this name that was removed: a time.
  local version = tonumber(redis.call('HGET', KEYS[7], ARGV[1]) or '0') + 1
  redis.call('HSET', KEYS[7], ARGV[1], string.format('%.0f', math.max(version, tonumber(ARGV[6]))))
  redis.call('HSET', KEYS[9], ARGV[1], ARGV[5])
end
redis.call('INCR', KEYS[2])
redis.call('PUBLISH', ARGV[7], ARGV[8])
return 'OK'
"""

# KEYS nodes, node_status, node_leases, holdings, holdings_versions
# ARGV node id, node record expected, status expected ('' for none), status, end of the lease, how to change
#      the holdings (KEEP, REPLACE, EDIT), how many to add, wake channel, topic, '1' to announce in any case,
#      then the members to add and those to remove
# Gives the outcome, and version and number of the holdings.
_HEARTBEAT = """
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return {'CHANGED', 0, 0} end
if (redis.call('HGET', KEYS[2], ARGV[1]) or '') ~= ARGV[3] then return {'CHANGED', 0, 0} end
local first, changed = 11, 0
local added = tonumber(ARGV[7])
local function each(command, from, to)
  local replies = 0
  for i = from, to, 4000 do
    replies = replies + redis.call(command, KEYS[4], unpack(ARGV, i, math.min(i + 3999, to)))
  end
  return replies
end
if ARGV[6] == 'REPLACE' then
  local same = redis.call('SCARD', KEYS[4]) == added
  if same then
    for i = first, first + added - 1, 4000 do
      local known = redis.call('SMISMEMBER', KEYS[4], unpack(ARGV, i, math.min(i + 3999, first + added - 1)))
      for _, here in ipairs(known) do
        if here == 0 then same = false break end
      end
      if not same then break end
    end
  end
  if not same then
    redis.call('DEL', KEYS[4])
    each('SADD', first, first + added - 1)
    changed = 1
  end
elseif ARGV[6] == 'EDIT' then
  changed = each('SREM', first + added, #ARGV) + each('SADD', first, first + added - 1)
end
local version
if changed > 0 then
  version = redis.call('HINCRBY', KEYS[5], ARGV[1], 1)
else
  version = tonumber(redis.call('HGET', KEYS[5], ARGV[1]) or '0')
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[4])
redis.call('ZADD', KEYS[3], ARGV[5], ARGV[1])
if changed > 0 or ARGV[10] == '1' then redis.call('PUBLISH', ARGV[8], ARGV[9]) end
return {'OK', version, redis.call('SCARD', KEYS[4])}
"""


class Written(Enum):
    OK = b"OK"
    CHANGED = b"CHANGED"
    """Somebody else wrote meanwhile: read again."""
    FULL = b"FULL"
    NO_CLUSTER = b"NO_CLUSTER"


class HoldingsChange(Enum):
    KEEP = "KEEP"
    REPLACE = "REPLACE"
    EDIT = "EDIT"
    """Remove, then add."""


@dataclass(frozen=True, slots=True)
class StoredNode:
    """A node as read; the bytes are what a write is compared with."""

    record: NodeRecord
    record_bytes: bytes
    status: NodeStatusRecord | None
    status_bytes: bytes
    lease_ends_milliseconds: float | None
    holdings_version: int
    holds_count: int


async def read_node(redis: Redis, cluster_id: str, node_id: str) -> StoredNode | None:
    found = await read_nodes(redis, cluster_id, [node_id])
    return found[0] if found else None


async def read_nodes(redis: Redis, cluster_id: str, node_ids: Sequence[str]) -> list[StoredNode]:
    """Those of them that there are, in the order given."""
    if not node_ids:
        return []
    keys = ClusterKeys(cluster_id)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.hmget(keys.nodes, list(node_ids))
        pipe.hmget(keys.node_status, list(node_ids))
        pipe.zmscore(keys.node_leases, list(node_ids))
        pipe.hmget(keys.holdings_versions, list(node_ids))
        for node_id in node_ids:
            pipe.scard(keys.holdings(node_id))
        answers = await pipe.execute()
    if len(node_ids) > DECODED_AT_ONCE:
        return await asyncio.to_thread(_decode, answers, keys)
    return _decode(answers, keys)


def _decode(answers: list[Any], keys: ClusterKeys) -> list[StoredNode]:
    records, statuses, leases, versions, *counts = answers
    return [
        StoredNode(
            record=read_record(NodeRecord, record, keys.nodes),
            record_bytes=record,
            status=None if status is None else read_record(NodeStatusRecord, status, keys.node_status),
            status_bytes=status or b"",
            lease_ends_milliseconds=lease,
            holdings_version=int(version or 0),
            holds_count=count,
        )
        for record, status, lease, version, count in zip(
            records, statuses, leases, versions, counts, strict=True
        )
        if record is not None
    ]


async def node_ids(redis: Redis, cluster_id: str) -> list[str]:
    names = cast("list[bytes]", await redis.hkeys(ClusterKeys(cluster_id).nodes))
    return sorted(name.decode() for name in names)


async def write_node(
    redis: Redis,
    cluster_id: str,
    before: StoredNode | None,
    record: NodeRecord,
    *,
    new_instance: bool,
    lease_ends_milliseconds: float,
) -> Written:
    """Store the record if the node is as in `before`. A new instance holds nothing, counts as alive until its
    lease ends, and only its telemetry is accepted."""
    keys = ClusterKeys(cluster_id)
    node_id = record.node_id
    outcome = await redis.eval(
        _REGISTER,
        9,
        keys.nodes,
        keys.revision,
        keys.cluster,
        keys.node_status,
        keys.node_leases,
        keys.holdings(node_id),
        keys.holdings_versions,
        keys.telemetry_seen(node_id),
        keys.telemetry_instances,
        node_id,
        b"" if before is None else before.record_bytes,
        record_json(record),
        str(MAX_NODES),
        record.spec.instance_uid if new_instance else "",
        repr(lease_ends_milliseconds),
        keys.wake,
        topics.WORK,
    )
    return Written(outcome)


async def write_status(
    redis: Redis,
    cluster_id: str,
    before: StoredNode,
    status: NodeStatusRecord,
    *,
    change: HoldingsChange,
    added: Sequence[str],
    removed: Sequence[str],
    lease_ends_milliseconds: float,
    announce: bool,
) -> tuple[Written, int, int]:
    """Store a heartbeat if the node and its last heartbeat are as in `before`: the outcome, and version and
    number of its holdings. The worker is told when the holdings change, or anyway with `announce`."""
    keys = ClusterKeys(cluster_id)
    node_id = before.record.node_id
    outcome, version, count = await redis.eval(
        _HEARTBEAT,
        5,
        keys.nodes,
        keys.node_status,
        keys.node_leases,
        keys.holdings(node_id),
        keys.holdings_versions,
        node_id,
        before.record_bytes,
        before.status_bytes,
        record_json(status),
        repr(lease_ends_milliseconds),
        change.value,
        str(len(added)),
        keys.wake,
        topics.WORK,
        "1" if announce else "0",
        *added,
        *removed,
    )
    return Written(outcome), version, count


async def read_holdings(redis: Redis, cluster_id: str, node_id: str) -> tuple[set[bytes], int]:
    """What the node is known to hold, and the version of that."""
    keys = ClusterKeys(cluster_id)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.smembers(keys.holdings(node_id))
        pipe.hget(keys.holdings_versions, node_id)
        members, version = await pipe.execute()
    return members, int(version or 0)
