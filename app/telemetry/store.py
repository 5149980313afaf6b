"""Windows into the cluster's stream: each at most once, and only if all it was judged by still holds."""

from collections.abc import Sequence
from enum import IntEnum

import msgspec
from redis.asyncio.client import Pipeline

from app.storage.keys import ClusterKeys
from app.telemetry.renewals import Renewal

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


# KEYS revision, telemetry_instances, telemetry, telemetry_bytes, then telemetry_seen of each window's node
# ARGV revision, bytes allowed, numbers remembered, then of each window: node id, instance uid, sequence
# number, packed window
# One outcome a window. What all share is read once, and written once: the windows of a cluster that come
# together cost little more than their bytes.
_APPEND = """
local outcomes = {}
local stale = (redis.call('GET', KEYS[1]) or '') ~= ARGV[1]
local waiting = tonumber(redis.call('GET', KEYS[4]) or '0')
local allowed, remembered = tonumber(ARGV[2]), tonumber(ARGV[3])
local added = 0
for index = 1, #KEYS - 4 do
  local seen, at = KEYS[index + 4], 4 * index
  local node, instance, number, window = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local function append()
    if stale then return -1 end
    if redis.call('HGET', KEYS[2], node) ~= instance then return -2 end
    if redis.call('ZSCORE', seen, number) then return 0 end
    local full = redis.call('ZCARD', seen) >= remembered
    if full then
      local lowest = redis.call('ZRANGE', seen, 0, 0, 'WITHSCORES')
      if tonumber(number) < tonumber(lowest[2]) then return -3 end
    end
    local size = string.len(window)
    if waiting + added + size > allowed then return -4 end
    redis.call('XADD', KEYS[3], '*', 'w', window)
    redis.call('ZADD', seen, number, number)
    if full then redis.call('ZREMRANGEBYRANK', seen, 0, 0) end
    added = added + size
    return 1
  end
  outcomes[index] = append()
end
if added > 0 then redis.call('INCRBY', KEYS[4], added) end
return outcomes
"""


class Append(msgspec.Struct, frozen=True):
    """One window on its way. `revision` is that of what it was judged by. `renewal`: of its node's lease,
    where that is due."""

    keys: ClusterKeys
    revision: bytes
    node_id: str
    instance_uid: str
    sequence_number: int
    packed: bytes
    max_unfolded_bytes: int
    renewal: Renewal | None = None

    @property
    def shared(self) -> tuple[str, bytes, int]:
        """Windows that agree in this may go in one call."""
        return self.keys.cluster_id, self.revision, self.max_unfolded_bytes


def queue_appends(pipe: Pipeline, appends: Sequence[Append]) -> None:
    """Queue the appends, which have one `shared`, as one call; it replies with an `Outcome` for each."""
    first = appends[0]
    keys = first.keys
    # Bytes throughout: the client asks of anything else what it is.
    arguments: list[bytes] = []
    for it in appends:
        arguments += (it.node_id.encode(), it.instance_uid.encode(), b"%d" % it.sequence_number, it.packed)
    pipe.eval(
        _APPEND,
        4 + len(appends),
        keys.revision,
        keys.telemetry_instances,
        keys.telemetry,
        keys.telemetry_bytes,
        *(keys.telemetry_seen(it.node_id).encode() for it in appends),
        first.revision,
        b"%d" % first.max_unfolded_bytes,
        b"%d" % REMEMBERED,
        *arguments,
    )
