"""Plans in Redis, as the worker writes them: all in one fenced transaction with the orders they lead to."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import cast

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.migration_plans.schemas import MoveProgress, MoveReportRecord, PlanCommand, PlanRecord
from app.storage.keys import ClusterKeys
from app.storage.records import read_record, record_json

RETAINED_PLANS = 50

Progress = dict[str, MoveProgress]


async def read_plan(redis: Redis, keys: ClusterKeys, plan_id: str) -> PlanRecord | None:
    key = keys.plan(plan_id)
    stored = cast("bytes | None", await redis.get(key))
    return None if stored is None else await asyncio.to_thread(read_record, PlanRecord, stored, key)


async def read_progress(redis: Redis, keys: ClusterKeys, plan_id: str) -> Progress:
    key = keys.plan_progress(plan_id)
    stored = cast("dict[bytes, bytes]", await redis.hgetall(key))
    return await asyncio.to_thread(_decode_progress, stored, key)


async def read_reports(
    redis: Redis, keys: ClusterKeys, plan_id: str, move_ids: list[str]
) -> dict[str, MoveReportRecord]:
    """Only of the moves named: at most those that nodes have been told to do."""
    if not move_ids:
        return {}
    key = keys.plan_reports(plan_id)
    stored = cast("list[bytes | None]", await redis.hmget(key, move_ids))
    return {
        move_id: read_record(MoveReportRecord, report, key)
        for move_id, report in zip(move_ids, stored, strict=True)
        if report is not None
    }


async def newest_plans(redis: Redis, keys: ClusterKeys, count: int) -> list[str]:
    found = cast("list[bytes]", await redis.zrevrange(keys.plans, 0, count - 1))
    return [plan_id.decode() for plan_id in found]


async def outdated_plans(redis: Redis, keys: ClusterKeys) -> list[str]:
    """Beyond what is retained, but for the one that is being carried out."""
    found = cast("list[bytes]", await redis.zrevrange(keys.plans, RETAINED_PLANS, -1))
    active = cast("bytes | None", await redis.get(keys.plan_active))
    return [plan_id.decode() for plan_id in found if plan_id != active]


async def read_commands(redis: Redis, keys: ClusterKeys) -> list[PlanCommand]:
    stored = cast("list[bytes]", await redis.lrange(keys.plan_commands, 0, -1))
    return [read_record(PlanCommand, command, keys.plan_commands) for command in stored]


def queue_forgetting(pipe: Pipeline, keys: ClusterKeys, outdated: Iterable[str]) -> None:
    for plan_id in outdated:
        pipe.zrem(keys.plans, plan_id)
        pipe.delete(keys.plan(plan_id), keys.plan_progress(plan_id), keys.plan_reports(plan_id))


def queue_progress(
    pipe: Pipeline, keys: ClusterKeys, plan_id: str, progress: Mapping[str, MoveProgress]
) -> None:
    if progress:
        pipe.hset(
            keys.plan_progress(plan_id),
            mapping={move_id: record_json(entry) for move_id, entry in progress.items()},
        )


def _decode_progress(stored: Mapping[bytes, bytes], key: str) -> Progress:
    return {move_id.decode(): read_record(MoveProgress, entry, key) for move_id, entry in stored.items()}
