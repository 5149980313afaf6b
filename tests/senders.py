"""Nodes that post telemetry until each window is acknowledged, and what became of it in Redis."""

import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import cast

import httpx
import msgspec
import numpy as np
from redis.asyncio import Redis

from app.instance.bucket_encoding import decode_bucket
from app.storage.keys import ClusterKeys

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


def register(base_url: str, cluster_id: str) -> None:
    """The cluster that senders post for; it only folds."""
    base = f"/v1/clusters/{cluster_id}"
    with httpx.Client(base_url=base_url, timeout=10) as client:
        client.put(base, json={"automatic": False}).raise_for_status()
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
