"""`python -m benchmarks.clusters`: many small clusters on few workers.

A Valkey server, an API process and two worker processes; 200 clusters of two nodes, which send a heartbeat
and a window of telemetry every ten seconds each. Measured: what the workers need while nothing changes, how
long after a second worker's start both have equal parts, and how long after a worker was killed the other
has all clusters.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import msgspec
import numpy as np
import psutil
from redis.asyncio import Redis

from app.config import Settings
from app.storage.client import open_client
from app.storage.embedded import EmbeddedServer
from app.storage.keys import ClusterKeys
from app.storage.workers import alive

NODES = ("a", "b")
LAYERS, EXPERTS = 4, 8
INTERVAL_SECONDS = 10.0
EXPERT_BYTES = 1000
RESULTS = Path(__file__).resolve().parents[1] / "results"


@dataclass
class Node:
    """One node of one cluster, which holds everything and does as it is told."""

    client: httpx.AsyncClient
    cluster_id: str
    node_id: str
    beats: int = 0
    windows: int = 0
    version: str | None = None

    @property
    def path(self) -> str:
        return f"/v1/clusters/{self.cluster_id}/nodes/{self.node_id}"

    async def register(self) -> None:
        device = {"device_id": "g", "memory_bytes": LAYERS * EXPERTS * EXPERT_BYTES}
        spec = {"instance_uid": f"{self.node_id}-1", "devices": [device]}
        (await self.client.put(self.path, json=spec)).raise_for_status()

    async def beat(self) -> None:
        self.beats += 1
        holds = [
            {"model_id": "m", "layer": layer, "experts": list(range(EXPERTS))} for layer in range(LAYERS)
        ]
        report = {
            "instance_uid": f"{self.node_id}-1",
            "sequence_number": self.beats,
            "state": "APPLIED",
            "assignment_version": self.version,
            **({"holds": holds} if self.beats == 1 else {}),
        }
        answer = await self.client.put(f"{self.path}/status", json=report)
        answer.raise_for_status()
        if "FETCH_ASSIGNMENT" in answer.json()["directives"]:
            told = await self.client.get(f"{self.path}/assignment", headers={"Accept-Encoding": "identity"})
            self.version = told.headers["ETag"].strip('"')

    async def post(self, rng: np.random.Generator) -> None:
        self.windows += 1
        end = datetime.now(UTC)
        counts = rng.integers(0, 1000, (LAYERS, EXPERTS), np.uint32)
        window = {
            "model_id": "m",
            "instance_uid": f"{self.node_id}-1",
            "sequence_number": self.windows,
            "window": {"start_at": end - timedelta(seconds=INTERVAL_SECONDS), "end_at": end},
            "tokens": 1000,
            "layers": [{"layer": layer, "counts": row.tobytes()} for layer, row in enumerate(counts)],
            "routes": [{"layer": 0, "experts": np.array([[0, 1], [2, 3]], "<u2").tobytes()}],
        }
        answer = await self.client.post(
            f"{self.path}/telemetry",
            content=msgspec.msgpack.encode(window),
            headers={"Content-Type": "application/msgpack"},
        )
        answer.raise_for_status()

    async def live(self, rng: np.random.Generator) -> None:
        await asyncio.sleep(rng.uniform(0, INTERVAL_SECONDS))
        while True:
            began = time.monotonic()
            await self.beat()
            await self.post(rng)
            await asyncio.sleep(INTERVAL_SECONDS - (time.monotonic() - began))


@dataclass
class Figures:
    """Seconds, and processor seconds per second of the workers' own processes and of their solvers."""

    clusters: int
    workers: int
    nodes: int
    windows_per_second: float
    lease_seconds: float
    first_leases_seconds: float
    even_seconds: float
    parts: list[int]
    loop_cpu: list[float]
    solvers_cpu: list[float]
    api_cpu: float
    oldest_window_seconds: float
    takeover_seconds: float
    load: float


async def holders(redis: Redis, ids: list[str]) -> Counter[bytes]:
    async with redis.pipeline(transaction=False) as pipe:
        for cluster_id in ids:
            pipe.get(ClusterKeys(cluster_id).lease)
        values = await pipe.execute()
    return Counter(value.partition(b":")[2] for value in values if value is not None)


async def until_held(
    redis: Redis, ids: list[str], parts: list[int], since: float, limit: float = 180
) -> float:
    """Seconds from `since` until workers hold as many clusters as `parts` says."""
    while sorted((await holders(redis, ids)).values()) != sorted(parts):
        assert time.monotonic() - since < limit, await holders(redis, ids)
        await asyncio.sleep(0.05)
    return time.monotonic() - since


async def until_there(redis: Redis, workers: int) -> None:
    """Wait until so many count as alive."""
    deadline = time.monotonic() + 120
    while await alive(redis) < workers:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def oldest_window(redis: Redis, ids: list[str]) -> float:
    """Age of the oldest window that waits for its worker, seconds."""
    async with redis.pipeline(transaction=False) as pipe:
        for cluster_id in ids:
            pipe.xrange(ClusterKeys(cluster_id).telemetry, count=1)
        entries = [found[0][0] for found in await pipe.execute() if found]
    oldest = min((int(entry.partition(b"-")[0]) for entry in entries), default=None)
    return 0.0 if oldest is None else time.time() - oldest / 1000


def seconds_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def usage(processes: list[psutil.Process]) -> tuple[list[float], list[float]]:
    """Processor seconds so far, of each process itself and of what it has started."""
    return (
        [seconds_of(process) for process in processes],
        [sum(map(seconds_of, process.children(recursive=True))) for process in processes],
    )


def start(stack: ExitStack, url: str, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "app", *arguments, "--log-level", "warning"],
        env={**os.environ, "MOEPLACE_REDIS_URL": url},
        stdout=subprocess.PIPE,
        text=True,
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


async def measure(clusters: int, seconds: float) -> Figures:
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="moeplace-bench-") as directory:
        server = EmbeddedServer(Path(directory))
        server.spawn()
        stack.callback(server.close)
        stack.callback(server.kill)
        await server.ready()
        api = start(stack, server.url, "api", "--port", "0")
        assert api.stdout is not None
        base_url = api.stdout.readline().split()[-1]
        limits = httpx.Limits(max_connections=16)
        async with (
            open_client(server.url) as redis,
            httpx.AsyncClient(base_url=base_url, timeout=60, limits=limits) as client,
        ):
            ids = [f"c{index}" for index in range(clusters)]
            nodes = [Node(client, cluster_id, node_id) for cluster_id in ids for node_id in NODES]
            blocks = [
                {"layer": layer, "experts": EXPERTS, "expert_bytes": EXPERT_BYTES, "top_k": 2}
                for layer in range(LAYERS)
            ]
            for cluster_id in ids:
                answer = await client.put(f"/v1/clusters/{cluster_id}/models/m", json={"blocks": blocks})
                answer.raise_for_status()
            await asyncio.gather(*(node.register() for node in nodes))
            rng = np.random.default_rng(0)
            living = asyncio.gather(*(node.live(rng) for node in nodes))
            try:
                begun = time.monotonic()
                first = start(stack, server.url, "worker")
                first_leases = await until_held(redis, ids, [clusters], begun)
                second = start(stack, server.url, "worker")
                await until_there(redis, 2)
                even = await until_held(
                    redis, ids, [clusters // 2, clusters - clusters // 2], time.monotonic()
                )
                await asyncio.sleep(2 * seconds)  # first placements are computed, and converge
                workers = [psutil.Process(first.pid), psutil.Process(second.pid)]
                before, began = usage(workers), time.monotonic()
                api_before, posted, oldest = (
                    seconds_of(psutil.Process(api.pid)),
                    sum(n.windows for n in nodes),
                    0.0,
                )
                while time.monotonic() - began < seconds:
                    oldest = max(oldest, await oldest_window(redis, ids))
                    await asyncio.sleep(0.25)
                after, took = usage(workers), time.monotonic() - began
                api_cpu = (seconds_of(psutil.Process(api.pid)) - api_before) / took
                rate = (sum(n.windows for n in nodes) - posted) / took
                parts = sorted((await holders(redis, ids)).values())
                second.send_signal(signal.SIGKILL)
                takeover = await until_held(redis, ids, [clusters], time.monotonic())
            finally:
                living.cancel()
                await asyncio.gather(living, return_exceptions=True)
        return Figures(
            clusters=clusters,
            workers=2,
            nodes=len(nodes),
            windows_per_second=rate,
            lease_seconds=Settings().worker_lease_seconds,
            first_leases_seconds=first_leases,
            even_seconds=even,
            parts=parts,
            loop_cpu=[(b - a) / took for a, b in zip(before[0], after[0], strict=True)],
            solvers_cpu=[(b - a) / took for a, b in zip(before[1], after[1], strict=True)],
            api_cpu=api_cpu,
            oldest_window_seconds=oldest,
            takeover_seconds=takeover,
            load=os.getloadavg()[0],
        )


def table(found: Figures) -> str:
    def percent(shares: list[float]) -> str:
        return ", ".join(f"{100 * share:.0f}" for share in shares)

    rows = [
        ("clusters by worker", ", ".join(map(str, found.parts))),
        ("first worker started until it has all, s", f"{found.first_leases_seconds:.1f}"),
        ("second worker there until both have equal parts, s", f"{found.even_seconds:.1f}"),
        ("steady: workers' loops, % of one processor each", percent(found.loop_cpu)),
        ("steady: their solver processes, %", percent(found.solvers_cpu)),
        ("steady: the API, %", percent([found.api_cpu])),
        ("oldest window not folded yet, s", f"{found.oldest_window_seconds:.1f}"),
        (
            f"killed until the other has all, s (leases of {found.lease_seconds:g} s)",
            f"{found.takeover_seconds:.1f}",
        ),
    ]
    head = (
        f"`python -m benchmarks.clusters`: {found.clusters} clusters of {len(NODES)} nodes, {LAYERS} layers "
        f"of {EXPERTS} experts, {found.workers} workers, {found.windows_per_second:.0f} windows and as many "
        f"heartbeats per second. {platform.machine()}, {os.cpu_count()} processors, load {found.load:.0f} in "
        "the end.\n\n| | |\n|---|---:|\n"
    )
    return head + "".join(f"| {name} | {value} |\n" for name, value in rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clusters", description=__doc__)
    parser.add_argument("--clusters", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30.0, help="Length of the steady part.")
    parser.add_argument("--write", action="store_true", help="Replace the committed results.")
    told = parser.parse_args()
    found = asyncio.run(measure(told.clusters, told.seconds))
    print(table(found))
    if told.write:
        (RESULTS / "clusters.json").write_text(json.dumps(asdict(found), indent=1) + "\n")
        (RESULTS / "clusters.md").write_text(table(found))


if __name__ == "__main__":
    main()
