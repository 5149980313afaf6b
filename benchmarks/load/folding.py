"""Windows a second that one worker folds, and what the state of a fleet takes of Redis' memory."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import psutil
from redis.asyncio import Redis

from app.clusters.schemas import ClusterSettings
from app.models.schemas import ModelRecord
from app.runtime.garbage import collect_seldom
from app.runtime.loop import new_event_loop
from app.statistics.fold import TelemetryFold
from app.storage.client import open_client
from app.storage.keys import ClusterKeys
from app.storage.lease import acquire
from app.telemetry.checking import check
from app.telemetry.decoding import Format, decode
from app.telemetry.faults import Faults
from app.telemetry.packed import PackedWindow, pack
from app.telemetry.registry import LayerShape, ModelShape, Registered
from benchmarks.load import fleet, servers

SETTINGS = ClusterSettings()
BACKLOG_WINDOWS = 8_000


@dataclass(frozen=True)
class Fold:
    """sampled: routes of each layer in each window."""

    nodes: int
    sampled: int
    windows: int
    rate: float
    cpu_us: float
    redis_cpu_us: float


@dataclass(frozen=True)
class State:
    """What `nodes` nodes' statistics take, all time buckets full."""

    nodes: int
    sampled: int
    buckets: int
    bytes: int
    node_bytes: int


def packed_window(sampled: int) -> PackedWindow:
    """As the API makes it of what agents send."""
    shape = ModelShape.of(
        "d", [LayerShape(fleet.FIRST_LAYER + n, fleet.EXPERTS, fleet.TOP_K) for n in range(58)]
    )
    faults = Faults()
    decoded = decode(fleet.msgpack_window(sampled), Format.MSGPACK, faults)
    assert decoded is not None
    registered = Registered(ClusterKeys(fleet.CLUSTER), b"1", frozenset(), {fleet.MODEL: shape})
    window = check(decoded, "n", registered, decoded.window.window.end_at, faults)
    assert window is not None
    assert faults.count == 0
    return window


def _model() -> ModelRecord:
    block = {"experts": fleet.EXPERTS, "expert_bytes": 1000, "top_k": fleet.TOP_K}
    return ModelRecord.model_validate(
        {
            "model_id": fleet.MODEL,
            "digest": "d",
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
            "blocks": [{"layer": fleet.FIRST_LAYER + n, **block} for n in range(fleet.LAYERS)],
            "source": "blocks",
            "origin_url": None,
        }
    )


async def _append(redis: Redis, keys: ClusterKeys, windows: list[PackedWindow]) -> None:
    async with redis.pipeline(transaction=False) as pipe:
        size = 0
        for window in windows:
            body = pack(window)
            size += len(body)
            pipe.xadd(keys.telemetry, {"w": body})
        pipe.incrby(keys.telemetry_bytes, size)
        await pipe.execute()


async def fold_rate(nodes: int, sampled: int) -> Fold:
    """A backlog of windows, the nodes' in turn, folded as the worker does it. It had another before: the
    first of a process is slower, since all its memory is new."""
    keys, window = ClusterKeys(fleet.CLUSTER), packed_window(sampled)
    names = [fleet.node_name(index) for index in range(nodes)]
    total = BACKLOG_WINDOWS if not sampled else BACKLOG_WINDOWS // 8
    with servers.valkey() as server:
        async with open_client(server.url) as redis:
            lease = await acquire(redis, keys, "w", 300)
            assert lease is not None
            fold = TelemetryFold(redis, keys, lease)
            await fold.load()

            async def fold_backlog() -> tuple[float, float, float]:
                """Seconds, and processor seconds of ours and of Redis."""
                for first in range(0, total, 200):
                    batch = [replace_node(window, names[n % nodes]) for n in range(first, first + 200)]
                    await _append(redis, keys, batch)
                ours, theirs = sum(psutil.Process().cpu_times()[:2]), server.cpu_seconds()
                began, folded, more = time.monotonic(), 0, True
                while more:
                    outcome = await fold.fold({fleet.MODEL: _model()}, names, SETTINGS)
                    folded, more = folded + outcome.windows, outcome.more
                assert folded == total
                return (
                    time.monotonic() - began,
                    sum(psutil.Process().cpu_times()[:2]) - ours,
                    server.cpu_seconds() - theirs,
                )

            await fold_backlog()
            seconds, cpu, redis_cpu = await fold_backlog()
            return Fold(
                nodes,
                sampled,
                total,
                total / seconds,
                1e6 * cpu / total,
                1e6 * redis_cpu / total,
            )


def replace_node(window: PackedWindow, node_id: str, shift_us: int = 0) -> PackedWindow:
    """The window as another node's, or a later one."""
    fields = {name: getattr(window, name) for name in window.__struct_fields__}
    fields |= {
        "node_id": node_id,
        "start_us": window.start_us + shift_us,
        "end_us": window.end_us + shift_us,
    }
    return PackedWindow(**fields)


async def state(nodes: int, sampled: int) -> State:
    """Every node's buckets over a whole statistics window, in a real server."""
    keys, window = ClusterKeys(fleet.CLUSTER), packed_window(sampled)
    names = [fleet.node_name(index) for index in range(nodes)]
    span_us = round(SETTINGS.statistics_window_seconds * 1e6) // 12
    with servers.valkey() as server:
        async with open_client(server.url) as redis:
            lease = await acquire(redis, keys, "w", 300)
            assert lease is not None
            fold = TelemetryFold(redis, keys, lease)
            before = (await redis.info("memory"))["used_memory"]
            buckets = 12
            for bucket in range(buckets):
                for first in range(0, nodes, 200):
                    shift = bucket * span_us
                    some = names[first : first + 200]
                    await _append(redis, keys, [replace_node(window, name, shift) for name in some])
                while (await fold.fold({fleet.MODEL: _model()}, names, SETTINGS)).more:
                    pass
            await redis.memory_purge()
            used = (await redis.info("memory"))["used_memory"] - before
            return State(nodes, sampled, buckets, used, used // nodes)


def rates(nodes: int) -> list[Fold]:
    """Of one node, of some, of many, and of some that send routes; on the worker's loop, as it collects."""
    collect_seldom()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return [runner.run(fold_rate(n, sampled)) for n, sampled in ((1, 0), (64, 0), (nodes, 0), (64, 64))]


def states(nodes: int) -> list[State]:
    """Without and with samples of routes that are full."""
    return [asyncio.run(state(nodes, sampled)) for sampled in (0, 64)]
