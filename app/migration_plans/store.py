"""Migration plans in Redis. The worker writes them; the API adds plans to be made, commands and reports."""

import asyncio
from collections.abc import Mapping
from enum import Enum
from typing import TypeVar, cast

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.errors import DamagedRecord, NotFound, TooManyRequests
from app.migration_plans.schemas import MoveReportRecord, PlanCommand, PlanRecord, PlanSummary
from app.storage import topics
from app.storage.history import newest_first
from app.storage.jobs import Job, JobKind, queue_job, require_room
from app.storage.keys import ClusterKeys
from app.storage.optimistic import Queue, optimistic
from app.storage.records import read_record, record_json
from migrations.model import MoveKind

Decoded = TypeVar("Decoded")

MAX_COMMANDS = 64
REPORTS_AT_ONCE = 500

# KEYS plan_progress, plan_reports, telemetry_instances, holdings, holdings_versions
# ARGV move id, node id, instance uid, attempt, state, bytes done, report, how its success changes the
#      holdings (SADD or SREM), member, wake channel, topic
_REPORT = """
if redis.call('HGET', KEYS[3], ARGV[2]) ~= ARGV[3] then return 'OTHER_INSTANCE' end
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if not stored then return 'NOT_RELEASED' end
local read, progress = pcall(cjson.decode, stored)
if not read or type(progress) ~= 'table' or type(progress.attempts) ~= 'number' then return 'DAMAGED' end
local attempt = tonumber(ARGV[4])
if progress.state == 'PENDING' or attempt > progress.attempts then return 'NOT_RELEASED' end
if attempt < progress.attempts then return 'STALE_ATTEMPT' end
local before = redis.call('HGET', KEYS[2], ARGV[1])
if before then
  local known, last = pcall(cjson.decode, before)
  if known and type(last) == 'table' and last.attempt == attempt then
    if last.state ~= 'IN_PROGRESS' then return 'UNCHANGED' end
    local done = tonumber(last.bytes_done) or -1
    if ARGV[5] == 'IN_PROGRESS' and tonumber(ARGV[6]) <= done then return 'UNCHANGED' end
  end
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[7])
if ARGV[5] == 'SUCCEEDED' and redis.call(ARGV[8], KEYS[4], ARGV[9]) == 1 then
  redis.call('HINCRBY', KEYS[5], ARGV[2], 1)
end
redis.call('PUBLISH', ARGV[10], ARGV[11])
return 'ACCEPTED'
"""


_DAMAGED = b"DAMAGED"


class Reported(Enum):
    ACCEPTED = b"ACCEPTED"
    UNCHANGED = b"UNCHANGED"
    OTHER_INSTANCE = b"OTHER_INSTANCE"
    NOT_RELEASED = b"NOT_RELEASED"
    STALE_ATTEMPT = b"STALE_ATTEMPT"


class KnownMove(msgspec.Struct, frozen=True):
    """What a report of a move is judged by; the part of `PlannedMove` that matters."""

    move_id: str
    kind: MoveKind
    model_id: str
    layer: int
    expert: int
    destination: str

    @property
    def member(self) -> str:
        """Of the destination's holdings."""
        return f"{self.model_id}/{self.layer}/{self.expert}"


class _Moves(msgspec.Struct):
    moves: list[KnownMove]


async def read_stored(redis: Redis, cluster_id: str, plan_id: str) -> bytes | None:
    return cast("bytes | None", await redis.get(ClusterKeys(cluster_id).plan(plan_id)))


async def read_summary(redis: Redis, cluster_id: str, plan_id: str) -> PlanSummary | None:
    stored = await read_stored(redis, cluster_id, plan_id)
    key = ClusterKeys(cluster_id).plan(plan_id)
    return None if stored is None else await asyncio.to_thread(summarise, stored, key)


def summarise(stored: bytes, key: str) -> PlanSummary:
    """Without looking into the moves, of which there may be tens of thousands."""
    parts = _decoded(stored, dict[str, msgspec.Raw], key)
    parts.pop("moves", None)
    return read_record(PlanSummary, msgspec.json.encode(parts), key)


async def read_moves(redis: Redis, cluster_id: str, plan_id: str) -> Mapping[str, KnownMove] | None:
    """By move_id; None where there is no such plan."""
    stored = await read_stored(redis, cluster_id, plan_id)
    if stored is None:
        return None
    key = ClusterKeys(cluster_id).plan(plan_id)
    moves = await asyncio.to_thread(_decoded, stored, _Moves, key)
    return {move.move_id: move for move in moves.moves}


async def read_resource(redis: Redis, cluster_id: str, plan_id: str) -> bytes | None:
    """The plan with the progress of its moves, as JSON."""
    keys = ClusterKeys(cluster_id)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.get(keys.plan(plan_id))
        pipe.hgetall(keys.plan_progress(plan_id))
        stored, progress = await pipe.execute()
    return None if stored is None else await asyncio.to_thread(_join, stored, progress, keys, plan_id)


def _decoded(stored: bytes, wanted: type[Decoded], key: str) -> Decoded:
    try:
        return msgspec.json.decode(stored, type=wanted)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DamagedRecord(key, str(error)) from None


def _join(stored: bytes, progress: Mapping[bytes, bytes], keys: ClusterKeys, plan_id: str) -> bytes:
    _decoded(stored, dict[str, msgspec.Raw], keys.plan(plan_id))
    for entry in progress.values():
        _decoded(entry, dict[str, msgspec.Raw], keys.plan_progress(plan_id))
    entries = b",".join(progress[move_id] for move_id in sorted(progress))
    return stored.rstrip()[:-1] + b',"progress_of_moves":[' + entries + b"]}"


async def read_page(
    redis: Redis, cluster_id: str, *, limit: int, before: str | None
) -> tuple[list[PlanSummary], str | None]:
    keys = ClusterKeys(cluster_id)
    page, next_before = await newest_first(redis, keys.plans, limit=limit, before=before)
    found = [await read_summary(redis, cluster_id, plan_id) for plan_id in page]
    return [summary for summary in found if summary is not None], next_before


async def enqueue(redis: Redis, cluster_id: str, record: PlanRecord) -> None:
    """Store a plan without moves and ask the worker to make it; `TooManyRequests` where too many wait."""
    keys = ClusterKeys(cluster_id)

    async def decide(pipe: Pipeline) -> tuple[None, Queue]:
        if not await pipe.exists(keys.cluster):
            raise NotFound(f"cluster {cluster_id} was deleted")
        await require_room(pipe, keys)

        def queue() -> None:
            pipe.set(keys.plan(record.plan_id), record_json(record))
            pipe.zadd(keys.plans, {record.plan_id: record.created_at.timestamp()})
            queue_job(pipe, keys, Job(kind=JobKind.PLAN, id=record.plan_id))

        return None, queue

    await optimistic(redis, (keys.jobs, keys.cluster), decide)


async def command(redis: Redis, cluster_id: str, wanted: PlanCommand) -> None:
    keys = ClusterKeys(cluster_id)

    async def decide(pipe: Pipeline) -> tuple[None, Queue]:
        waiting = await pipe.llen(keys.plan_commands)
        if waiting >= MAX_COMMANDS:
            raise TooManyRequests(f"{waiting} commands wait for the worker already", retry_after_seconds=5)

        def queue() -> None:
            pipe.rpush(keys.plan_commands, wanted.model_dump_json())
            topics.announce(pipe, keys, topics.WORK)

        return None, queue

    await optimistic(redis, (keys.plan_commands,), decide)


async def write_reports(
    redis: Redis, cluster_id: str, plan_moves: list[tuple[str, KnownMove, MoveReportRecord]]
) -> list[Reported]:
    """Take reports in, each in a script of its own: the outcomes, in order.

    A report counts once: of one attempt a final one stands for ever, and bytes done only grow. One that a
    move succeeded changes what its node is known to hold, in the same instant.
    """
    outcomes: list[Reported] = []
    for start in range(0, len(plan_moves), REPORTS_AT_ONCE):
        outcomes += await _write_some(redis, cluster_id, plan_moves[start : start + REPORTS_AT_ONCE])
    return outcomes


async def _write_some(
    redis: Redis, cluster_id: str, plan_moves: list[tuple[str, KnownMove, MoveReportRecord]]
) -> list[Reported]:
    keys = ClusterKeys(cluster_id)
    async with redis.pipeline(transaction=False) as pipe:
        for plan_id, move, report in plan_moves:
            pipe.eval(
                _REPORT,
                5,
                keys.plan_progress(plan_id),
                keys.plan_reports(plan_id),
                keys.telemetry_instances,
                keys.holdings(report.node_id),
                keys.holdings_versions,
                move.move_id,
                report.node_id,
                report.instance_uid,
                str(report.attempt),
                report.state.value,
                str(report.bytes_done),
                report.model_dump_json(),
                "SADD" if move.kind is MoveKind.COPY else "SREM",
                move.member,
                keys.wake,
                topics.WORK,
            )
        outcomes = await pipe.execute()
    for (plan_id, move, _), outcome in zip(plan_moves, outcomes, strict=True):
        if outcome == _DAMAGED:
            raise DamagedRecord(keys.plan_progress(plan_id), f"the progress of move {move.move_id}")
    return [Reported(outcome) for outcome in outcomes]
