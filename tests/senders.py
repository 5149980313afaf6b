"""Nodes that post telemetry until each window is acknowledged, and what became of it in Redis."""

import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import httpx
import msgspec
import numpy as np
from redis.asyncio import Redis

from app.statistics.bucket_encoding import decode_bucket
from app.storage.client import open_client
from app.storage.embedded import EmbeddedServer
from app.storage.keys import ClusterKeys
from tests.service import Service

LAYERS = {0: 8, 3: 6}
NODES = ("n1", "n2", "n3")
SETTLE_SECONDS = 60.0
RETRIED = {429, 502, 503, 504}


@dataclass
class Sender:
    """One node: posts window after window, each again and again until it is acknowledged."""

    base_url: str
    cluster_id: str
    node_id: str
    seed: int
    pause_seconds: float = 0.0
    """Between an acknowledgement and the next window."""
    windows: int = 0
    tokens: int = 0
    repeats: int = 0
    longest_seconds: float = 0.0
    """The longest that a window waited for its acknowledgement."""
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
                begun = time.monotonic()
                if self._post(client, counts.astype("<u4"), tokens):
                    self.windows += 1
                    self.tokens += tokens
                    self.counts += counts
                    self.longest_seconds = max(self.longest_seconds, time.monotonic() - begun)
                stop.wait(self.pause_seconds)

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
                    f"/v1/clusters/{self.cluster_id}/nodes/{self.node_id}/telemetry",
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


def register(base_url: str, cluster_id: str, **settings: float) -> None:
    """The cluster that senders post for; it only folds."""
    base = f"/v1/clusters/{cluster_id}"
    with httpx.Client(base_url=base_url, timeout=10) as client:
        client.put(base, json={"automatic": False, **settings}).raise_for_status()
        blocks = [
            {"layer": layer, "experts": experts, "expert_bytes": 1000, "top_k": 2}
            for layer, experts in LAYERS.items()
        ]
        client.put(f"{base}/models/moe", json={"blocks": blocks}).raise_for_status()
        for node_id in NODES:
            client.put(
                f"{base}/nodes/{node_id}",
                json={
                    "instance_uid": f"{node_id}-1",
                    "devices": [{"device_id": "gpu0", "memory_bytes": 100_000}],
                },
            ).raise_for_status()


@dataclass
class Folded:
    """What the service made of the windows: totals, and windows and counts by node."""

    totals: dict[str, int]
    windows: dict[str, int]
    counts: dict[str, list[int]]
    left: int
    """Windows in the stream."""


async def read_folded(redis: Redis, cluster_id: str) -> Folded:
    """Once nothing comes any more, and `left` is 0, nothing changes either."""
    keys = ClusterKeys(cluster_id)
    left = await redis.xlen(keys.telemetry)
    stored = cast("dict[bytes, bytes]", await redis.hgetall(keys.folded))
    totals = {name.decode(): int(value) for name, value in stored.items() if name != b"last_id"}
    windows, counts = {}, {}
    for node_id in NODES:
        values = cast("dict[bytes, bytes]", await redis.hgetall(keys.statistics(node_id, "moe")))
        buckets = [decode_bucket(value) for value in values.values()]
        counts[node_id] = np.sum([b.counts for b in buckets], axis=0).tolist()
        windows[node_id] = sum(b.windows for b in buckets)
    return Folded(totals, windows, counts, left)


def wait_until_folded(service: Service) -> None:
    """Return once the same worker has seen an empty stream for several of its ticks."""
    deadline = time.monotonic() + SETTLE_SECONDS
    empty_since, worker = time.monotonic(), -1
    while time.monotonic() < deadline:
        time.sleep(0.2)
        try:
            found, pid = _stream_bytes(service.base_url), service.child("worker").pid
        except (httpx.TransportError, LookupError):
            found, pid = [], -1
        if not found or any(found) or pid != worker:
            empty_since, worker = time.monotonic(), pid
        elif time.monotonic() - empty_since > 2:
            return
    raise AssertionError(f"not all is folded after {SETTLE_SECONDS:g} s:\n{service.logs()}")


def _stream_bytes(base_url: str) -> list[float]:
    """What live workers last saw waiting; empty while none has looked."""
    text = httpx.get(f"{base_url}/metrics", timeout=5).text
    name = "moeplace_telemetry_stream_bytes{"
    return [float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name)]


async def read_left_behind(data_dir: Path, cluster_id: str, binary: Path | None = None) -> Folded:
    """From the directory that a service has left. `binary`: the server to open it with."""
    server = EmbeddedServer(data_dir, binary=binary)
    server.spawn()
    try:
        await server.ready()
        async with open_client(server.url) as redis:
            return await read_folded(redis, cluster_id)
    finally:
        server.kill()
        server.close()


def require_counted_once(folded: Folded, senders: list[Sender]) -> None:
    """Every acknowledged window is in the statistics, once, to the last activation."""
    assert folded.left == 0
    assert folded.windows == {sender.node_id: sender.windows for sender in senders}
    assert folded.counts == {sender.node_id: sender.counts.tolist() for sender in senders}
    assert folded.totals == {
        "windows_total": sum(sender.windows for sender in senders),
        "discarded_total": 0,
        "tokens_total": sum(sender.tokens for sender in senders),
        "activations_total": int(sum(sender.counts.sum() for sender in senders)),
    }


class Posting:
    """Senders at work, each in a thread, until the block ends; none of them may have failed."""

    def __init__(self, senders: list[Sender]) -> None:
        self.senders = senders
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=sender.run, args=(self._stop,)) for sender in senders]

    def __enter__(self) -> list[Sender]:
        for thread in self._threads:
            thread.start()
        return self.senders

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert [sender.failure for sender in self.senders] == [""] * len(self.senders)
