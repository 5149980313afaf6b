"""`moeplace agent` and `moeplace origin` as processes, killed in the middle of what they do."""

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from moeplace_agent.client import ServiceClient, ServiceError
from moeplace_agent.experts.content import Content
from moeplace_agent.retrying import RetryPolicy
from moeplace_agent.wording import counted
from tests.agent.checkpoints import EXPERTS, mixtral, write_checkpoint
from tests.agent.experts import tree
from tests.service import Service

pytestmark = pytest.mark.anyio

CLUSTER = "edge"
NODES = ("n1", "n2", "n3")
CHECKPOINT = mixtral(hidden=256, intermediate=256)
LAYERS = CHECKPOINT.moe_layers
ALL = len(LAYERS) * EXPERTS
SLOTS = ALL - 3
EXPERT_BYTES = 3 * 256 * 256 * 2
RETRY = RetryPolicy(first_seconds=0.05, longest_seconds=0.5)
ENVIRONMENT = {
    "MOEPLACE_HEARTBEAT_INTERVAL_SECONDS": "0.3",
    "MOEPLACE_TELEMETRY_INTERVAL_SECONDS": "0.3",
    "MOEPLACE_WORKER_TICK_SECONDS": "0.2",
    "MOEPLACE_NODE_LEASE_SECONDS": "5",
}
SETTINGS = {
    "optimization_interval_seconds": 1.0,
    "time_limit_seconds": 1.0,
    "default_latency_seconds": 0.002,
}


class Program:
    """One process of ours; `words` is the line it prints once it serves."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self._log = log
        with log.open("a") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app", *arguments], stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        assert self.process.stdout is not None
        self.words = self.process.stdout.readline()
        if " serves " not in self.words:
            self.kill()
            raise AssertionError(f"{arguments}: {self.words}{log.read_text()}")

    @property
    def urls(self) -> list[str]:
        return re.findall(r"http://[0-9.]+:\d+", self.words)

    def logs(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


class Fleet:
    """An origin and nodes with their data under `root`."""

    def __init__(self, root: Path, service: Service) -> None:
        self.root = root
        self.service = service
        self._programs: list[Program] = []
        write_checkpoint(root / "checkpoint", CHECKPOINT)

    def start(self, name: str, *arguments: str) -> Program:
        program = Program(self.root / f"{name}.log", *arguments)
        self._programs.append(program)
        return program

    def origin(self, *options: str) -> Program:
        arguments = ["--checkpoint", str(self.root / "checkpoint"), "--model-id", "m", "--port", "0"]
        return self.start(
            "origin", "origin", *arguments, "--service", self.service.base_url, "--cluster", CLUSTER, *options
        )

    def node(self, node_id: str, slots: int, **experts: Any) -> Program:
        values = {
            "node_id": node_id,
            "service": {"url": self.service.base_url, "cluster": CLUSTER},
            "devices": [{"device_id": "gpu-0", "memory": EXPERT_BYTES * slots}],
            "data_dir": f"data-{node_id}",
            "experts": {"port": 0, **experts},
            "local": {"port": 0},
            "latency": {"probe_interval_seconds": 0.5},
        }
        path = self.root / f"{node_id}.yaml"
        path.write_text(yaml.safe_dump(values))
        return self.start(node_id, "agent", "--config", str(path))

    def files(self, node_id: str, kind: str) -> list[Path]:
        directory = self.root / f"data-{node_id}"
        return [directory / name for name in tree(directory) if name.startswith(kind)]

    def end(self) -> None:
        for program in self._programs:
            program.kill()


@pytest.fixture
def fleet(serve: Callable[..., Service], tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, serve(env=ENVIRONMENT))
    yield fleet
    fleet.end()


@contextlib.asynccontextmanager
async def cluster(fleet: Fleet, origin_url: str, replicas: int) -> AsyncIterator[ServiceClient]:
    url = fleet.service.base_url
    async with ServiceClient(url, CLUSTER, retry=RETRY, use_environment=False) as client:
        origin = {"base_url": origin_url, "latency_seconds": 0.05}
        await client.put("", {**SETTINGS, "origin": origin, "min_replicas": replicas})
        yield client


async def until(met: Callable[[], Any], seconds: float = 90.0) -> None:
    async with asyncio.timeout(seconds):
        while True:
            value = met()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return
            await asyncio.sleep(0.05)


async def converged(client: ServiceClient) -> bool:
    try:
        status: dict[str, Any] = await client.get("/placement/status")
    except ServiceError:
        return False
    nodes = [node for node in status["nodes"] if node["live"]]
    conditions = {c["type"]: c["status"] for c in status["conditions"]}
    return bool(conditions["Converged"]) and sum(node["held_count"] for node in nodes) > 0


def whole(paths: list[Path]) -> bool:
    """Every file has the bytes its name says."""
    return all(
        Content.of_file(path, path.stat().st_size).sha256() == path.name.split(".")[1] for path in paths
    )


async def test_a_node_killed_in_the_middle_of_a_download_goes_on_where_it_was(fleet: Fleet) -> None:
    """SIGKILL while an expert arrives over a slow link: no half file is ever among the whole ones; started
    again the node at once holds what was whole, but for a file that was damaged meanwhile, and fetches of the
    interrupted expert only what was missing."""
    origin = fleet.origin()
    async with cluster(fleet, origin.urls[0], 1), httpx.AsyncClient(trust_env=False) as http:
        node = fleet.node("n1", ALL, fetch_limit=EXPERT_BYTES)

        def in_the_middle() -> bool:
            arrived = [path.stat().st_size for path in fleet.files("n1", "partial")]
            return len(fleet.files("n1", "experts")) > 1 and any(s > EXPERT_BYTES // 3 for s in arrived)

        await until(in_the_middle)
        node.kill()
        damaged, *held = fleet.files("n1", "experts")
        partials = {path: path.stat().st_size for path in fleet.files("n1", "partial")}
        assert whole([damaged, *held])
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")

        node = fleet.node("n1", ALL, fetch_limit=4 * EXPERT_BYTES)
        assert f"serves {counted(len(held), 'expert')} on" in node.words
        assert f"{damaged} is deleted: its bytes have SHA-256" in node.logs()
        interrupted = {path.name for path in partials}

        def resumed() -> bool:
            return interrupted <= {path.name.removesuffix(".safetensors") for path in arrived_since()}

        def arrived_since() -> list[Path]:
            return [path for path in fleet.files("n1", "experts") if path not in held]

        await until(resumed)
        metrics = (await http.get(node.urls[1] + "/metrics")).text
        fetched = float(re.search(r'fetched_bytes_total\{source="origin"\} (\S+)', metrics)[1])  # type: ignore[index]
        now = [*arrived_since(), *fleet.files("n1", "partial")]
        assert fetched <= sum(path.stat().st_size for path in now) - sum(partials.values())
        assert whole(fleet.files("n1", "experts"))


async def test_a_fleet_fills_itself_from_peers_too_and_survives_the_loss_of_its_origin(fleet: Fleet) -> None:
    """Three nodes that could not do it in two end with every expert on two of them, all of it whole; then the
    origin is killed and one node loses its disk: it is filled from its peers alone."""
    origin = fleet.origin()
    async with cluster(fleet, origin.urls[0], 2) as client, httpx.AsyncClient(trust_env=False) as http:
        nodes = {node_id: fleet.node(node_id, SLOTS) for node_id in NODES}
        await until(lambda: converged(client))
        assert sum(len(fleet.files(node_id, "experts")) for node_id in NODES) >= 2 * ALL
        assert all(whole(fleet.files(node_id, "experts")) for node_id in NODES)

        async def measured() -> bool:
            latency = (await client.get("/nodes/n1"))["status"]["latency"] or {}
            return len(latency.get("peers_seconds", {})) == 2 and latency["origin_seconds"] > 0

        await until(measured)

        origin.kill()
        nodes["n3"].kill()
        for path in fleet.files("n3", ""):
            path.unlink()
        nodes["n3"] = fleet.node("n3", SLOTS)
        assert "serves 0 experts" in nodes["n3"].words
        await until(lambda: len(fleet.files("n3", "experts")) > 0)
        await until(lambda: converged(client))
        assert whole(fleet.files("n3", "experts"))
        metrics = (await http.get(nodes["n3"].urls[1] + "/metrics")).text
        assert re.search(r'moeplace_agent_fetched_bytes_total\{source="peer"\} [1-9]', metrics)
        assert 'source="origin"' not in metrics
        assert nodes["n1"].end() == 0
