"""Nodes in Redis: their records, what they last said, and what they are known to hold.

Heartbeats of a thousand nodes share hashes, so writes compare the one field they depend on, in a script,
instead of watching a key that others change all the time.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

import orjson
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.nodes.schemas import NodeRecord, NodeStatusRecord
from app.storage import topics
from app.storage.clock import queue_now
from app.storage.keys import ClusterKeys
from app.storage.records import read_record, record_json

MAX_NODES = 1024

DECODED_AT_ONCE = 16
"""Nodes decoded on the event loop; each may tell the latency to all others."""

REGISTRATIONS_AT_ONCE = 10
REGISTRATION_SECONDS = 3.0
"""A node may register so often at once, and once more for every REGISTRATION_SECONDS that pass."""

CONFLICT_SECONDS = 120.0
"""How long it is said that two agents want to be one node, after the last time that they did."""

REMEMBERED_INSTANCES = 16
"""Replaced instances remembered of a node, the newest."""

_LEASE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Whether the node was lost. What it holds is uncertain then, until it says.
local function renew(leases, statuses, node, milliseconds)
  local lost = tonumber(redis.call('ZSCORE', leases, node) or '0') <= now
  redis.call('ZADD', leases, string.format('%.0f', now + milliseconds), node)
  local status = lost and redis.call('HGET', statuses, node)
  if status then
    status = string.gsub(status, '"full_state_due":false', '"full_state_due":true', 1)
    redis.call('HSET', statuses, node, status)
  end
  return lost
end
"""

# KEYS nodes, revision, cluster, node_status, node_leases, holdings, holdings_versions, telemetry_seen,
#      telemetry_instances, replaced_instances, registration_rates
# ARGV node id, record expected ('' for none), record, most nodes, instance uid if it is new else '', the one
#      it replaces ('' for none), milliseconds of the lease, '1' where workers have to read the node again,
#      wake channel, topic, milliseconds that one registration uses up, how many may come at once
# Gives the outcome, and where that is LIMITED the milliseconds until the next registration may come.
_REGISTER = (
    _LEASE
    + """
if redis.call('EXISTS', KEYS[3]) == 0 then return {'NO_CLUSTER', 0} end
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if (stored or '') ~= ARGV[2] then return {'CHANGED', 0} end
if not stored and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then return {'FULL', 0} end
local each = tonumber(ARGV[11])
local used = math.max(now, tonumber(redis.call('HGET', KEYS[11], ARGV[1]) or '0'))
local early = used - now - (tonumber(ARGV[12]) - 1) * each
if early > 0 then return {'LIMITED', early} end
redis.call('HSET', KEYS[11], ARGV[1], string.format('%.0f', used + each))
if stored ~= ARGV[3] then redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) end
if ARGV[5] ~= '' then redis.call('HDEL', KEYS[4], ARGV[1]) end
local news = renew(KEYS[5], KEYS[4], ARGV[1], ARGV[7])
if ARGV[5] ~= '' then
  news = true
  redis.call('DEL', KEYS[6], KEYS[8])
  -- Higher than any version before, also those of a node of this name that was removed: a time.
  local version = tonumber(redis.call('HGET', KEYS[7], ARGV[1]) or '0') + 1
  redis.call('HSET', KEYS[7], ARGV[1], string.format('%.0f', math.max(version, now + ARGV[7])))
  redis.call('HSET', KEYS[9], ARGV[1], ARGV[5])
  redis.call('ZREM', KEYS[10], ARGV[5])
  if ARGV[6] ~= '' then
    redis.call('ZADD', KEYS[10], string.format('%.0f', now), ARGV[6])
    redis.call('ZREMRANGEBYRANK', KEYS[10], 0, -REMEMBERED - 1)
  end
end
if ARGV[8] == '1' then
  news = true
  redis.call('INCR', KEYS[2])
end
if news then redis.call('PUBLISH', ARGV[9], ARGV[10]) end
return {'OK', 0}
""".replace("REMEMBERED", str(REMEMBERED_INSTANCES))
)

# KEYS nodes, revision; ARGV node id, record expected, record, wake channel, topic
_REVISE = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 'CHANGED' end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('INCR', KEYS[2])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 'OK'
"""

# KEYS node_conflicts; ARGV node id, JSON of who the two are, wake channel, topic, milliseconds it is kept
_CONFLICT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local first = redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0
redis.call('HSET', KEYS[1], ARGV[1], string.format('{"at_milliseconds":%.0f,', now) .. string.sub(ARGV[2], 2))
redis.call('PEXPIRE', KEYS[1], ARGV[5])
if first then redis.call('PUBLISH', ARGV[3], ARGV[4]) end
return 1
"""

# KEYS nodes, node_status, node_leases, holdings, holdings_versions, node_clocks
# ARGV node id, node record expected, status expected ('' for none), status, milliseconds of the lease, how to
#      change the holdings (KEEP, REPLACE, EDIT), wake channel, topic, '1' to announce in any case, members to
#      add and to remove, in MessagePack, most members, seconds
#      that the node's clock is ahead ('' for unknown)
# Gives the outcome, version and number of the holdings, and the end of the lease.
_HEARTBEAT = """
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return {'CHANGED', 0, 0, 0} end
if (redis.call('HGET', KEYS[2], ARGV[1]) or '') ~= ARGV[3] then return {'CHANGED', 0, 0, 0} end
local time = redis.call('TIME')
local ends = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[5]
local changed = 0
local added, removed = cmsgpack.unpack(ARGV[10]), cmsgpack.unpack(ARGV[11])
local function each(command, members)
  local replies = 0
  for i = 1, #members, 4000 do
    replies = replies + redis.call(command, KEYS[4], unpack(members, i, math.min(i + 3999, #members)))
  end
  return replies
end
local function present(members)
  local found = 0
  for i = 1, #members, 4000 do
    local known = redis.call('SMISMEMBER', KEYS[4], unpack(members, i, math.min(i + 3999, #members)))
    for _, here in ipairs(known) do found = found + here end
  end
  return found
end
local count = redis.call('SCARD', KEYS[4])
if ARGV[6] == 'REPLACE' then
  if count ~= #added or present(added) ~= #added then
    redis.call('DEL', KEYS[4])
    each('SADD', added)
    changed = 1
  end
elseif ARGV[6] == 'EDIT' then
  local most = tonumber(ARGV[12])
  if count + #added > most and count + #added - present(added) - present(removed) > most then
    return {'FULL', 0, count, 0}
  end
  changed = each('SREM', removed) + each('SADD', added)
end
local version
if changed > 0 then
  version = redis.call('HINCRBY', KEYS[5], ARGV[1], 1)
else
  version = tonumber(redis.call('HGET', KEYS[5], ARGV[1]) or '0')
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[4])
redis.call('ZADD', KEYS[3], string.format('%.0f', ends), ARGV[1])
if ARGV[13] ~= '' then redis.call('HSET', KEYS[6], ARGV[1], ARGV[13]) end
if changed > 0 or ARGV[9] == '1' then redis.call('PUBLISH', ARGV[7], ARGV[8]) end
return {'OK', version, redis.call('SCARD', KEYS[4]), ends}
"""


# KEYS telemetry_instances, node_leases, node_status, node_clocks
# ARGV node id, instance uid, milliseconds of the lease, seconds that the node's clock is ahead at least (''
#      for unknown), wake channel, topic
_RENEW = (
    _LEASE
    + """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
if ARGV[4] ~= '' then redis.call('HSET', KEYS[4], ARGV[1], ARGV[4]) end
if renew(KEYS[2], KEYS[3], ARGV[1], ARGV[3]) then redis.call('PUBLISH', ARGV[5], ARGV[6]) end
return 1
"""
)


class Written(Enum):
    OK = b"OK"
    CHANGED = b"CHANGED"
    """Somebody else wrote meanwhile: read again."""
    FULL = b"FULL"
    NO_CLUSTER = b"NO_CLUSTER"
    LIMITED = b"LIMITED"
    """The node has registered too often."""


class HoldingsChange(Enum):
    KEEP = "KEEP"
    REPLACE = "REPLACE"
    EDIT = "EDIT"
    """Remove, then add."""


@dataclass(frozen=True, slots=True)
class StoredNode:
    """A node as read; the bytes are what a write is compared with. All times are of the server's clock."""

    record: NodeRecord
    record_bytes: bytes
    status: NodeStatusRecord | None
    status_bytes: bytes
    lease_ends_milliseconds: float | None
    holdings_version: int
    holds_count: int
    read_at_milliseconds: int

    @property
    def alive(self) -> bool:
        """Whether its lease ran when it was read."""
        ends = self.lease_ends_milliseconds
        return ends is not None and ends > self.read_at_milliseconds


async def read_node(redis: Redis, cluster_id: str, node_id: str) -> StoredNode | None:
    found = await read_nodes(redis, cluster_id, [node_id])
    return found[0] if found else None


async def read_nodes(redis: Redis, cluster_id: str, node_ids: Sequence[str]) -> list[StoredNode]:
    """Those of them that there are, in the order given."""
    if not node_ids:
        return []
    keys = ClusterKeys(cluster_id)
    async with redis.pipeline(transaction=True) as pipe:
        queue_now(pipe, keys.node_leases)
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
    now, records, statuses, leases, versions, *counts = answers
    return [
        StoredNode(
            record=read_record(NodeRecord, record, keys.nodes),
            record_bytes=record,
            status=None if status is None else read_record(NodeStatusRecord, status, keys.node_status),
            status_bytes=status or b"",
            lease_ends_milliseconds=lease,
            holdings_version=int(version or 0),
            holds_count=count,
            read_at_milliseconds=now,
        )
        for record, status, lease, version, count in zip(
            records, statuses, leases, versions, counts, strict=True
        )
        if record is not None
    ]


async def node_ids(redis: Redis, cluster_id: str) -> list[str]:
    names = cast("list[bytes]", await redis.hkeys(ClusterKeys(cluster_id).nodes))
    return sorted(name.decode() for name in names)


async def write_registration(
    redis: Redis,
    cluster_id: str,
    before: StoredNode | None,
    record: NodeRecord,
    *,
    news: bool,
    lease_seconds: float,
) -> tuple[Written, float]:
    """Store the record if the node is as in `before`, and start its lease anew: the outcome, and where that
    is LIMITED the seconds until the next registration may come.

    A new instance holds nothing, and only its telemetry is accepted. news: workers have to read the node
    again.
    """
    keys = ClusterKeys(cluster_id)
    node_id, instance_uid = record.node_id, record.spec.instance_uid
    replaced = "" if before is None else before.record.spec.instance_uid
    outcome, milliseconds = await redis.eval(
        _REGISTER,
        11,
        keys.nodes,
        keys.revision,
        keys.cluster,
        keys.node_status,
        keys.node_leases,
        keys.holdings(node_id),
        keys.holdings_versions,
        keys.telemetry_seen(node_id),
        keys.telemetry_instances,
        keys.replaced_instances(node_id),
        keys.registration_rates,
        node_id,
        b"" if before is None else before.record_bytes,
        before.record_bytes if before is not None and before.record == record else record_json(record),
        str(MAX_NODES),
        "" if instance_uid == replaced else instance_uid,
        "" if instance_uid == replaced else replaced,
        str(round(lease_seconds * 1000)),
        "1" if news else "0",
        keys.wake,
        topics.WORK,
        str(round(REGISTRATION_SECONDS * 1000)),
        str(REGISTRATIONS_AT_ONCE),
    )
    return Written(outcome), milliseconds / 1000


async def revise_node(redis: Redis, cluster_id: str, before: StoredNode, record: NodeRecord) -> Written:
    """Store the record if the node's is as in `before`; its lease stays as it is."""
    keys = ClusterKeys(cluster_id)
    outcome = await redis.eval(
        _REVISE,
        2,
        keys.nodes,
        keys.revision,
        record.node_id,
        before.record_bytes,
        record_json(record),
        keys.wake,
        topics.WORK,
    )
    return Written(outcome)


async def is_kept_out(redis: Redis, cluster_id: str, node_id: str) -> bool:
    """It left, drained, and no operator has let it in again."""
    return await redis.zscore(ClusterKeys(cluster_id).drained_nodes, node_id) is not None


async def let_in(redis: Redis, cluster_id: str, node_id: str) -> bool:
    """Whether it was kept out until now."""
    return bool(await redis.zrem(ClusterKeys(cluster_id).drained_nodes, node_id))


async def was_replaced(redis: Redis, cluster_id: str, node_id: str, instance_uid: str) -> bool:
    """Whether another instance has taken the node over from this one."""
    keys = ClusterKeys(cluster_id)
    return await redis.zscore(keys.replaced_instances(node_id), instance_uid) is not None


async def note_conflict(redis: Redis, cluster_id: str, node_id: str, *, holder: str, other: str) -> None:
    """Two agents want to be the node: keep who, for the cluster's worker to say so."""
    keys = ClusterKeys(cluster_id)
    who = orjson.dumps({"holder": holder, "other": other})
    lasts = str(round(CONFLICT_SECONDS * 1000))
    await redis.eval(_CONFLICT, 1, keys.node_conflicts, node_id, who, keys.wake, topics.WORK, lasts)


async def write_status(
    redis: Redis,
    cluster_id: str,
    before: StoredNode,
    status: NodeStatusRecord,
    *,
    change: HoldingsChange,
    added: bytes,
    removed: bytes,
    most: int,
    lease_seconds: float,
    announce: bool,
    ahead_seconds: float | None,
) -> tuple[Written, int, int, int]:
    """Store a heartbeat if the node and its last heartbeat are as in `before`: the outcome, version and
    number of its holdings, and when its lease ends now (milliseconds, server's clock). A message wakes the
    worker when the holdings change, or anyway with `announce`.

    added, removed: MessagePack of lists of members. FULL, and nothing is stored, where an edit would leave
    more than `most`.
    """
    keys = ClusterKeys(cluster_id)
    node_id = before.record.node_id
    outcome, version, count, ends = await redis.eval(
        _HEARTBEAT,
        6,
        keys.nodes,
        keys.node_status,
        keys.node_leases,
        keys.holdings(node_id),
        keys.holdings_versions,
        keys.node_clocks,
        node_id,
        before.record_bytes,
        before.status_bytes,
        record_json(status),
        str(round(lease_seconds * 1000)),
        change.value,
        keys.wake,
        topics.WORK,
        "1" if announce else "0",
        added,
        removed,
        str(most),
        "" if ahead_seconds is None else f"{ahead_seconds:.3f}",
    )
    return Written(outcome), version, count, ends


def queue_renewal(
    pipe: Pipeline,
    keys: ClusterKeys,
    node_id: str,
    instance_uid: str,
    *,
    lease_seconds: float,
    ahead_seconds: float | None,
) -> None:
    """Begin the node's lease anew, if this instance has it: it was heard of otherwise than by a heartbeat."""
    pipe.eval(
        _RENEW,
        4,
        keys.telemetry_instances,
        keys.node_leases,
        keys.node_status,
        keys.node_clocks,
        node_id,
        instance_uid,
        str(round(lease_seconds * 1000)),
        "" if ahead_seconds is None else f"{ahead_seconds:.3f}",
        keys.wake,
        topics.WORK,
    )


async def read_holdings(redis: Redis, cluster_id: str, node_id: str) -> tuple[set[bytes], int]:
    """What the node is known to hold, and the version of that."""
    keys = ClusterKeys(cluster_id)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.smembers(keys.holdings(node_id))
        pipe.hget(keys.holdings_versions, node_id)
        members, version = await pipe.execute()
    return members, int(version or 0)
