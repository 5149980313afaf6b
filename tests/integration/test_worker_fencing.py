"""Real worker processes on one server: who works when one dies or oversleeps its lease."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import psutil
import pytest
from redis.asyncio import Redis

from app.storage import workers
from tests.app.worker.simulation import Cluster, until

pytestmark = pytest.mark.anyio

NODES = ("a", "b", "c")
LEASE_SECONDS = 2.0
SLACK_SECONDS = 8.0
"""On top of the lease, for a loaded machine."""

StartWorker = Callable[[], psutil.Process]


@pytest.fixture
def start_worker(redis_url: str, tmp_path: Path) -> Iterator[StartWorker]:
    """Start `moeplace worker` processes; all are killed at the end."""
    started: list[psutil.Process] = []

    def start() -> psutil.Process:
        with (tmp_path / f"worker-{len(started)}.log").open("w") as log:
            process = psutil.Popen(
                [sys.executable, "-m", "app", "worker", "--redis-url", redis_url],
                env={
                    **os.environ,
                    "MOEPLACE_WORKER_LEASE_SECONDS": str(LEASE_SECONDS),
                    "MOEPLACE_WORKER_TICK_SECONDS": "0.1",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.is_running():
            process.kill()
        process.wait()


async def holder(cluster: Cluster) -> int | None:
    """Process id in the worker id of whoever holds the lease."""
    value = cast("bytes | None", await cluster.redis.get(cluster.keys.lease))
    return None if value is None else int(value.decode().rsplit("-", 2)[1])


async def holds_lease(cluster: Cluster, process: psutil.Process) -> bool:
    return await holder(cluster) == process.pid


async def at_generation(cluster: Cluster, generation: int) -> bool:
    return (await cluster.generation() or 0) >= generation


async def workers_live(redis: Redis, count: int) -> bool:
    return await workers.alive(redis) == count


async def small_cluster(redis: Redis) -> Cluster:
    cluster = Cluster(redis)
    await cluster.create()
    for node_id in NODES:
        await cluster.add_node(node_id, 8)
    return cluster


async def lose_one(cluster: Cluster) -> None:
    """A node to which the placement in force gives something; the others have room for it."""
    for node_id in NODES:
        if await cluster.desired(node_id):
            await cluster.lose(node_id)
            return
    raise AssertionError("the placement is empty")


async def test_killed_worker_is_replaced_within_its_lease(redis: Redis, start_worker: StartWorker) -> None:
    """After kill -9 another worker holds the lease within its time, and places what has changed since."""
    cluster = await small_cluster(redis)
    first = start_worker()
    await until(lambda: at_generation(cluster, 1), 60, what="generation 1")
    second = start_worker()
    await until(lambda: workers_live(redis, 2), 60, what="the second worker")
    assert await holds_lease(cluster, first)
    children = first.children(recursive=True)
    first.kill()
    killed = time.monotonic()
    await until(lambda: holds_lease(cluster, second), 60, what="the second worker's lease")
    assert time.monotonic() - killed < LEASE_SECONDS + SLACK_SECONDS
    await lose_one(cluster)
    await until(lambda: at_generation(cluster, 2), 30, what="generation 2")
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert not alive, f"the killed worker's solvers live on; {len(gone)} ended"


async def test_paused_worker_writes_nothing_after_its_lease(redis: Redis, start_worker: StartWorker) -> None:
    """A worker stopped past its lease and woken again changes nothing, though it was about to publish."""
    cluster = await small_cluster(redis)
    first = start_worker()
    await until(lambda: at_generation(cluster, 1), 60, what="generation 1")
    first.send_signal(signal.SIGSTOP)
    await lose_one(cluster)
    second = start_worker()
    await until(lambda: holds_lease(cluster, second), 60, what="the second worker's lease")
    await until(lambda: at_generation(cluster, 2), 30, what="generation 2")
    token = cast("bytes", await redis.get(cluster.keys.lease))
    generation = await cluster.generation()
    second.send_signal(signal.SIGSTOP)  # so that whatever is written now is the first worker's
    value = cast("bytes", await redis.get(cluster.keys.lease))
    await redis.set(cluster.keys.lease, value, px=600_000)
    before = await snapshot(cluster)
    await lose_one(cluster)
    first.send_signal(signal.SIGCONT)
    await asyncio.sleep(3 * LEASE_SECONDS)
    assert first.is_running()
    assert await cluster.generation() == generation
    assert await redis.get(cluster.keys.lease) == token
    assert await snapshot(cluster) == before


async def snapshot(cluster: Cluster) -> dict[bytes, bytes | None]:
    """What only workers write."""
    keys = cluster.keys
    written = [keys.placement, keys.placements, keys.plans, keys.folded, keys.analysis, keys.placement_status]
    written += [name for node_id in NODES for name in (keys.assignment(node_id), keys.moves(node_id))]
    return {name.encode(): await cluster.redis.dump(name) for name in written}


async def test_worker_ends_in_order(redis: Redis, start_worker: StartWorker) -> None:
    """SIGTERM: the lease is free at once, and the process has ended within seconds with status 0."""
    cluster = await small_cluster(redis)
    worker = start_worker()
    await until(lambda: at_generation(cluster, 1), 60, what="generation 1")
    begun = time.monotonic()
    worker.terminate()
    status = await asyncio.to_thread(worker.wait, 20)
    assert status == 0
    assert time.monotonic() - begun < 3.0 + SLACK_SECONDS
    assert await redis.get(cluster.keys.lease) is None
