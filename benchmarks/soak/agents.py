"""Real agents with an origin: processes that are killed and started again, and the engines beside them."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import msgspec
import numpy as np
import numpy.typing as npt
import yaml

from moeplace_agent.experts.content import Content
from tests.agent.checkpoints import EXPERTS, mixtral, write_checkpoint

CLUSTER = "fleet"
MODEL = "m"
NODES = ("edge-a", "edge-b", "edge-c")
CHECKPOINT = mixtral(hidden=256, intermediate=256)
ALL = len(CHECKPOINT.moe_layers) * EXPERTS
SLOTS = ALL - 3
EXPERT_BYTES = 3 * 256 * 256 * 2
START_SECONDS = 180.0
WINDOW_SECONDS = 0.5
DRIFT_WINDOWS = 20
"""After so many windows an engine's tokens take other experts."""

SETTINGS = {
    "min_replicas": 2,
    "optimization_interval_seconds": 2.0,
    "time_limit_seconds": 1.0,
    "statistics_window_seconds": 20.0,
    "statistics_half_life_seconds": 5.0,
    "min_improvement": 0.02,
    "default_latency_seconds": 0.002,
}


class Program:
    """One process of `moeplace`, which says in one line where it serves."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self.urls: list[str] = []
        with log.open("a") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app", *arguments], stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.urls = self.urls or re.findall(r"http://[0-9.]+:\d+", line)

    def wait_until_serving(self) -> str:
        """The first URL that it serves on."""
        deadline = time.monotonic() + START_SECONDS
        while not self.urls:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.process.args!r} does not serve: status {self.process.poll()}")
            time.sleep(0.05)
        return self.urls[0]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Engine:
    """Gives windows to the agent beside it. A window that the agent took is in the agent's memory alone."""

    def __init__(self, node: AgentNode, seed: int) -> None:
        self._node = node
        self._rng = np.random.default_rng(seed)
        self.given = 0

    def run(self, stop: threading.Event) -> None:
        window, popularity = 0, self._popularity()
        with httpx.Client(timeout=5, trust_env=False) as client:
            while not stop.wait(WINDOW_SECONDS):
                window += 1
                if window % DRIFT_WINDOWS == 0:
                    popularity = self._popularity()
                urls = self._node.program.urls
                if len(urls) < 2:
                    continue
                # Counted before it is known to have arrived: the agent may be killed after taking it.
                self.given += 1
                with contextlib.suppress(httpx.TransportError):
                    client.post(
                        f"{urls[1]}/v1/telemetry",
                        content=self._window(popularity),
                        headers={"Content-Type": "application/msgpack"},
                    )

    def _popularity(self) -> npt.NDArray[np.float64]:
        return self._rng.dirichlet(np.full(EXPERTS, 0.3), len(CHECKPOINT.moe_layers))

    def _window(self, popularity: npt.NDArray[np.float64]) -> bytes:
        end = datetime.now(UTC)
        counts = (popularity * 1000).astype("<u4")
        layers = [
            {"layer": layer, "counts": counts[index].tobytes()}
            for index, layer in enumerate(CHECKPOINT.moe_layers)
        ]
        return msgspec.msgpack.encode(
            {
                "model_id": MODEL,
                "window": {"start_at": end - timedelta(seconds=WINDOW_SECONDS), "end_at": end},
                "tokens": 500,
                "layers": layers,
            }
        )


class AgentNode:
    """`moeplace agent` over a directory that outlives it."""

    def __init__(self, root: Path, node_id: str, service_url: str) -> None:
        self.node_id = node_id
        self._root = root
        self._file = root / f"{node_id}.yaml"
        values = {
            "node_id": node_id,
            "service": {"url": service_url, "cluster": CLUSTER},
            "devices": [{"device_id": "gpu-0", "memory": EXPERT_BYTES * SLOTS}],
            "data_dir": f"data-{node_id}",
            "experts": {"port": 0},
            "local": {"port": 0},
            "latency": {"probe_interval_seconds": 1.0},
        }
        self._file.write_text(yaml.safe_dump(values))
        self.starts = 0
        self.program = self._start()

    def _start(self) -> Program:
        self.starts += 1
        return Program(self._root / f"{self.node_id}.log", "agent", "--config", str(self._file))

    def kill(self) -> None:
        """SIGKILL, at whatever the agent is, and another in its place at once."""
        self.program.kill()
        self.program = self._start()

    def damaged(self) -> list[str]:
        """Files among the whole experts that do not have the bytes that their names say."""
        found = sorted((self._root / f"data-{self.node_id}" / "experts").rglob("*.safetensors"))
        return [
            str(path)
            for path in found
            if Content.of_file(path, path.stat().st_size).sha256() != path.name.split(".")[1]
        ]


class AgentFleet:
    """Three nodes, their engines and the origin, until the block ends."""

    def __init__(self, root: Path, service_url: str, seed: int) -> None:
        self._root = root
        self._url = service_url
        self._seed = seed
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.nodes: list[AgentNode] = []
        self.engines: list[Engine] = []

    def __enter__(self) -> AgentFleet:
        write_checkpoint(self._root / "checkpoint", CHECKPOINT)
        origin = [
            "origin",
            "--checkpoint",
            str(self._root / "checkpoint"),
            "--model-id",
            MODEL,
            "--port",
            "0",
        ]
        with httpx.Client(base_url=self._url, timeout=30) as client:
            client.put(f"/v1/clusters/{CLUSTER}", json=SETTINGS).raise_for_status()
            self._origin = Program(
                self._root / "origin.log", *origin, "--service", self._url, "--cluster", CLUSTER
            )
            try:
                origin_url = self._origin.wait_until_serving()
                settings = {**SETTINGS, "origin": {"base_url": origin_url, "latency_seconds": 0.05}}
                client.put(f"/v1/clusters/{CLUSTER}", json=settings).raise_for_status()
                for index, node_id in enumerate(NODES):
                    node = AgentNode(self._root, node_id, self._url)
                    self.nodes.append(node)
                    self.engines.append(Engine(node, self._seed + index))
            except BaseException:
                self.__exit__()
                raise
        self._threads = [threading.Thread(target=engine.run, args=(self._stop,)) for engine in self.engines]
        for thread in self._threads:
            thread.start()
        return self

    def silence(self) -> None:
        """The engines give no more windows."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def settle(self) -> None:
        """The last placement stays in force: what is forgotten of the traffic asks for no other."""
        merge = {"Content-Type": "application/merge-patch+json"}
        with httpx.Client(base_url=self._url, timeout=30) as client:
            path = f"/v1/clusters/{CLUSTER}"
            client.patch(path, content=b'{"automatic":false}', headers=merge).raise_for_status()

    def wait_until_converged(self, seconds: float) -> float | None:
        """How long it took until the placement in force is what every node holds; None where it took more."""
        begun = time.monotonic()
        with httpx.Client(base_url=self._url, timeout=5) as client:
            while time.monotonic() - begun < seconds:
                with contextlib.suppress(httpx.HTTPError):
                    status = client.get(f"/v1/clusters/{CLUSTER}/placement/status").raise_for_status().json()
                    conditions = {entry["type"]: entry["status"] for entry in status["conditions"]}
                    live = [node["node_id"] for node in status["nodes"] if node["live"]]
                    if conditions.get("Converged") and sorted(live) == sorted(NODES):
                        return time.monotonic() - begun
                time.sleep(0.2)
        return None

    def __exit__(self, *_: object) -> None:
        self.silence()
        for program in [*(node.program for node in self.nodes), self._origin]:
            program.kill()
