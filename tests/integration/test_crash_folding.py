"""Telemetry survives `kill -9` of everything, at any moment: what was acknowledged is counted, once.

The server's append-only file is synced every second, so a power cut may lose a second; the death of its
process loses nothing, since what it wrote is with the kernel before it answers.
"""

import asyncio
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import httpx
import msgspec
import numpy as np
import pytest

from app.instance.bucket_encoding import decode_bucket
from app.storage.client import open_client
from app.storage.embedded import EmbeddedServer
from app.storage.keys import ClusterKeys
from tests.conftest import TEST_SERVER
from tests.service import Service

KEYS = ClusterKeys("crash")
BASE = "/v1/clusters/crash"
LAYERS = {0: 8, 3: 6}
NODES = ("n1", "n2", "n3")
CHILDREN = ("api", "worker", "server")
ROUNDS = 3
SETTLE_SECONDS = 60.0
RETRIED = {429, 502, 503, 504}


@dataclass
class Sender:
    """One node: posts window after window, each again and again until it is acknowledged."""

    base_url: str
    node_id: str
    seed: int
    windows: int = 0
    tokens: int = 0
    repeats: int = 0
    counts: np.ndarray[tuple[int], np.dtype[np.int64]] = field(
        default_factory=lambda: np.zeros(sum(LAYERS.values()), np.int64)
    )
    failure: str = ""

    def run(self, stop: threading.Event) -> None:
        rng = np.random.default_rng(self.seed)
        with httpx.Client(base_url=self.base_url, timeout=5) as client:
            while not stop.is_set() and not self.failure:
                counts = rng.integers(0, 2**20, sum(LAYERS.values()))
                tokens = int(rng.integers(1, 1000))
                if self._post(client, counts.astype("<u4"), tokens):
                    self.windows += 1
                    self.tokens += tokens
                    self.counts += counts

    def _post(
        self, client: httpx.Client, counts: np.ndarray[tuple[int], np.dtype[np.uint32]], tokens: int
    ) -> bool:
        end = datetime.now(UTC)
        body = msgspec.msgpack.encode(
            {
                "model_id": "moe",
                "instance_uid": f"{self.node_id}-1",
                "sequence_number": self.windows + 1,
                "window": {"start_at": end - timedelta(seconds=1), "end_at": end},
                "tokens": tokens,
                "layers": [
                    {"layer": 0, "counts": counts[:8].tobytes()},
                    {"layer": 3, "counts": counts[8:].tobytes()},
                ],
                "routes": [{"layer": 0, "experts": np.asarray([[0, 1], [2, 5]], "<u2").tobytes()}],
            }
        )
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            try:
                answer = client.post(
                    f"{BASE}/nodes/{self.node_id}/telemetry",
                    content=body,
                    headers={"Content-Type": "application/msgpack"},
                )
            except httpx.TransportError:
                time.sleep(0.05)
                continue
            if answer.status_code in RETRIED:
                time.sleep(0.05)
                continue
            if answer.status_code != 200 or answer.json()["partial_success"] is not None:
                self.failure = f"{answer.status_code}: {answer.text}"
                return False
            self.repeats += answer.json()["duplicate"]
            return True
        self.failure = f"not acknowledged within {SETTLE_SECONDS:g} s"
        return False


def register(base_url: str) -> None:
    with httpx.Client(base_url=base_url, timeout=10) as client:
        client.put(BASE, json={"automatic": False}).raise_for_status()
        blocks = [
            {"layer": layer, "experts": experts, "expert_bytes": 1000, "top_k": 2}
            for layer, experts in LAYERS.items()
        ]
        client.put(f"{BASE}/models/moe", json={"blocks": blocks}).raise_for_status()
        for node_id in NODES:
            client.put(
                f"{BASE}/nodes/{node_id}",
                json={
                    "instance_uid": f"{node_id}-1",
                    "devices": [{"device_id": "gpu0", "memory_bytes": 100_000}],
                },
            ).raise_for_status()


def kill_in_turn(service: Service, rng: random.Random) -> dict[str, int]:
    """Each child several times, in random order, at random moments."""
    kills = dict.fromkeys(CHILDREN, 0)
    for _ in range(ROUNDS):
        for name in rng.sample(CHILDREN, len(CHILDREN)):
            time.sleep(rng.uniform(0.1, 1.5))
            deadline = time.monotonic() + SETTLE_SECONDS
            while True:
                try:
                    service.kill_child(name)
                except LookupError:
                    assert time.monotonic() < deadline, f"{name} does not come back:\n{service.logs()}"
                    time.sleep(0.05)
                else:
                    kills[name] += 1
                    break
    return kills


def stream_bytes(base_url: str) -> list[float]:
    """What live workers last saw waiting; empty while none has looked."""
    text = httpx.get(f"{base_url}/metrics", timeout=5).text
    name = "moeplace_telemetry_stream_bytes{"
    return [float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name)]


def wait_until_folded(service: Service) -> None:
    """The same worker has seen an empty stream for several of its ticks."""
    deadline = time.monotonic() + SETTLE_SECONDS
    empty_since, worker = time.monotonic(), -1
    while time.monotonic() < deadline:
        time.sleep(0.2)
        try:
            found, pid = stream_bytes(service.base_url), service.child("worker").pid
        except (httpx.TransportError, LookupError):
            found, pid = [], -1
        if not found or any(found) or pid != worker:
            empty_since, worker = time.monotonic(), pid
        elif time.monotonic() - empty_since > 2:
            return
    raise AssertionError(f"not all is folded after {SETTLE_SECONDS:g} s:\n{service.logs()}")


async def read_folded(data_dir: Path) -> tuple[dict[str, int], dict[str, list[int]], dict[str, int], int]:
    """Totals, counts and windows by node from the buckets, and windows left in the stream."""
    server = EmbeddedServer(data_dir, binary=TEST_SERVER)
    server.spawn()
    try:
        await server.ready()
        async with open_client(server.url) as redis:
            totals = cast("dict[bytes, bytes]", await redis.hgetall(KEYS.folded))
            folded = {name.decode(): int(value) for name, value in totals.items() if name != b"last_id"}
            counts, windows = {}, {}
            for node_id in NODES:
                stored = cast("dict[bytes, bytes]", await redis.hgetall(KEYS.statistics(node_id, "moe")))
                buckets = [decode_bucket(value) for value in stored.values()]
                counts[node_id] = np.sum([b.counts for b in buckets], axis=0).tolist()
                windows[node_id] = sum(b.windows for b in buckets)
            left = await redis.xlen(KEYS.telemetry)
    finally:
        server.kill()
        server.close()
    return folded, counts, windows, left


@pytest.mark.timeout(300)
def test_what_was_acknowledged_is_counted_once(serve: Callable[..., Service], tmp_path: Path) -> None:
    """Three nodes post while API, worker and server are killed again and again; the sums agree exactly."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    data_dir = tmp_path / "data"
    service = serve(data_dir=data_dir, env={"MOEPLACE_WORKER_LEASE_SECONDS": "2"})
    register(service.base_url)
    senders = [Sender(service.base_url, node_id, rng.randrange(2**32)) for node_id in NODES]
    stop = threading.Event()
    threads = [threading.Thread(target=sender.run, args=(stop,)) for sender in senders]
    for thread in threads:
        thread.start()
    try:
        kills = kill_in_turn(service, rng)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [sender.failure for sender in senders] == [""] * len(senders)
    assert min(kills.values()) == ROUNDS
    wait_until_folded(service)
    assert service.terminate() == 0, service.logs()

    folded, counts, windows, left = asyncio.run(read_folded(data_dir))
    print(folded, {s.node_id: (s.windows, s.repeats) for s in senders})
    assert left == 0
    assert windows == {sender.node_id: sender.windows for sender in senders}
    assert counts == {sender.node_id: sender.counts.tolist() for sender in senders}
    assert folded == {
        "windows_total": sum(sender.windows for sender in senders),
        "discarded_total": 0,
        "tokens_total": sum(sender.tokens for sender in senders),
        "activations_total": int(sum(sender.counts.sum() for sender in senders)),
    }
    assert min(sender.windows for sender in senders) > 5
