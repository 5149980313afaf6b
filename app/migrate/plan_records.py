"""Plans in Redis, as the worker writes them: all in one fenced transaction with the orders they lead to."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import cast

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.errors import DamagedRecord
from app.migration_plans.schemas import MoveProgress, MoveReportRecord, PlanCommand, PlanRecord
from app.observe.left_out import LeftOut
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
    redis: Redis, keys: ClusterKeys, plan_id: str, move_ids: list[str], left_out: LeftOut
) -> dict[str, MoveReportRecord]:
    """Only of the moves named: at most those that nodes have been told to do. A damaged report is left out:
    the node's next one replaces it, or the move is tried again when its time is over."""
    if not move_ids:
        return {}
    key = keys.plan_reports(plan_id)
    stored = cast("list[bytes | None]", await redis.hmget(key, move_ids))
    reports: dict[str, MoveReportRecord] = {}

    async def read_again() -> None:
        for report in cast("list[bytes]", await redis.hvals(key)):
            read_record(MoveReportRecord, report, key)

    for move_id, report in zip(move_ids, stored, strict=True):
        if report is not None:
            try:
                reports[move_id] = read_record(MoveReportRecord, report, key)
            except DamagedRecord as damage:
                left_out.note(damage, read_again)
    return reports


async def newest_plans(redis: Redis, keys: ClusterKeys, count: int) -> list[str]:
    found = cast("list[bytes]", await redis.zrevrange(keys.plans, 0, count - 1))
    return [plan_id.decode() for plan_id in found]


async def outdated_plans(redis: Redis, keys: ClusterKeys) -> list[str]:
    """Beyond what is retained, but for the one that is being carried out."""
    found = cast("list[bytes]", await redis.zrevrange(keys.plans, RETAINED_PLANS, -1))
    active = cast("bytes | None", await redis.get(keys.plan_active))
    return [plan_id.decode() for plan_id in found if plan_id != active]


async def read_commands(redis: Redis, keys: ClusterKeys, left_out: LeftOut) -> tuple[list[PlanCommand], int]:
    """The commands that can be read, and how many are stored."""
    stored = cast("list[bytes]", await redis.lrange(keys.plan_commands, 0, -1))
    commands = []
    for command in stored:
        try:
            commands.append(read_record(PlanCommand, command, keys.plan_commands))
        except DamagedRecord as damage:
            left_out.note(damage, lambda: read_commands(redis, keys, LeftOut()))
    return commands, len(stored)


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
