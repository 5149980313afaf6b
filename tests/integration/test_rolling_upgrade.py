"""A process of an earlier commit and one of this tree share one Redis while clients go on."""

import asyncio
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from redis.asyncio import Redis

from app.storage.keys import ClusterKeys
from tests.conftest import ON_CLUSTER
from tests.integration.test_rolling_restart import in_time

EARLIER = "b1de19b"
"""Rolling upgrades go from this commit, or a later one, to this tree."""

TREE = Path(__file__).parents[2]
PATHS = os.pathsep.join([str(TREE), str(TREE / "agent")])
KEYS = ClusterKeys("east")
BASE = "/v1/clusters/east"
Version = Literal["earlier", "this"]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The earlier commit's packages."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    archived = subprocess.run(
        ["git", "-C", str(TREE), "archive", EARLIER, "app", "agent", "solvers", "migrations", "deploy"],
        capture_output=True,
        check=False,
    )
    if archived.returncode:
        pytest.skip(f"the history does not reach back to commit {EARLIER}")
    where = tmp_path_factory.mktemp("earlier")
    with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as archive:
        archive.extractall(where, filter="data")
    return where


@dataclass
class Process:
    process: subprocess.Popen[str]
    log: Path
    url: str = ""

    def works(self) -> bool:
        return "worker ready" in self.log.read_text()

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(30) == 0, self.log.read_text()


Start = Callable[[Version, str], Process]


@pytest.fixture
def start(redis_url: str, earlier: Path, tmp_path: Path) -> Iterator[Start]:
    started: list[Process] = []

    def begin(version: Version, command: str) -> Process:
        log = tmp_path / f"{len(started)}-{version}-{command}.log"
        options = ["--port", "0"] if command == "api" else []
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "app", command, *options],
                env={
                    **os.environ,
                    "PYTHONPATH": str(earlier) if version == "earlier" else PATHS,
                    # The earlier tree has no compiled kernels, and the problem is tiny.
                    "NUMBA_DISABLE_JIT": "1",
                    "MOEPLACE_REDIS_URL": redis_url,
                    "MOEPLACE_WORKER_LEASE_SECONDS": "1",
                    "MOEPLACE_WORKER_TICK_SECONDS": "0.1",
                },
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        begun = Process(process, log)
        started.append(begun)
        if command == "api":
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("moeplace api is listening on "), log.read_text()
            begun.url = line.split()[-1]
        return begun

    yield begin
    for begun in started:
        begun.process.kill()
        begun.process.wait()
        assert begun.process.stdout is not None
        begun.process.stdout.close()


class Fleet:
    """Two nodes that post, report and read, each request to the next of the API processes that there are."""

    def __init__(self) -> None:
        self.apis: list[Process] = []
        self.failures: list[str] = []
        self.tokens = 0
        self.rounds = 0
        self._client = httpx.AsyncClient(timeout=20)

    async def ask(self, method: str, path: str, expected: set[int], **body: Any) -> httpx.Response:
        self.apis.append(self.apis.pop(0))
        answer = await self._client.request(method, self.apis[0].url + BASE + path, **body)
        if answer.status_code not in expected:
            self.failures.append(f"{method} {path} {answer.status_code}: {answer.text[:300]}")
        return answer

    async def register(self) -> None:
        settings = {"origin": {"latency_seconds": 0.08}, "automatic": False, "algorithm": "local_popularity"}
        await self.ask("PUT", "", {200, 201}, json=settings)
        block = {"layer": 0, "experts": 4, "expert_bytes": 100, "top_k": 2}
        await self.ask("PUT", "/models/tiny", {200, 201}, json={"blocks": [block]})
        for node in ("a", "b"):
            device = {"device_id": "gpu0", "memory_bytes": 200}
            spec = {"instance_uid": f"{node}-1", "devices": [device]}
            await self.ask("PUT", f"/nodes/{node}", {200, 201}, json=spec)

    async def round(self) -> None:
        """What a fleet does in an interval."""
        self.rounds += 1
        now = datetime.now(UTC)
        for node, counts in (("a", [9, 9, 1, 1]), ("b", [1, 1, 9, 9])):
            window = {
                "model_id": "tiny",
                "instance_uid": f"{node}-1",
                "sequence_number": self.rounds,
                "window": {"start_at": (now - timedelta(seconds=1)).isoformat(), "end_at": now.isoformat()},
                "tokens": 10,
                "layers": [{"layer": 0, "counts": counts}],
                "routes": [{"layer": 0, "experts": [[0, 1], [2, 3]], "weights": [counts[0], counts[2]]}],
            }
            await self.ask("POST", f"/nodes/{node}/telemetry", {200}, json=window)
            self.tokens += 10
            status = {"instance_uid": f"{node}-1", "sequence_number": self.rounds, "generation": None}
            await self.ask("PUT", f"/nodes/{node}/status", {200}, json=status)
            await self.ask("GET", f"/nodes/{node}/assignment", {200, 404})
            await self.ask("GET", f"/nodes/{node}", {200})
        for path in ("", "/placements", "/migration_plans", "/optimizations", "/placement/status"):
            await self.ask("GET", path, {200, 404})

    async def optimise(self) -> None:
        answer = await self.ask("POST", "/optimizations", {200, 202}, json={})
        found = answer.json()
        async with asyncio.timeout(120):
            while found["state"] in ("QUEUED", "RUNNING"):
                path = f"/optimizations/{found['optimization_id']}"
                found = (await self.ask("GET", path, {200}, headers={"Prefer": "wait=1"})).json()
        assert found["state"] == "SUCCEEDED", found

    async def close(self) -> None:
        await self._client.aclose()


@pytest.mark.anyio
@pytest.mark.timeout(600)
@pytest.mark.skipif(ON_CLUSTER, reason="one server is enough")
async def test_processes_of_two_versions_share_one_redis_under_traffic(start: Start, redis: Redis) -> None:
    """Upgraded and then taken back, process by process: no request fails, each window counts once, solves and
    plans go on, and no process meets a record that it cannot read."""
    fleet = Fleet()
    worker, api = start("earlier", "worker"), start("earlier", "api")
    logs = [worker.log, api.log]
    fleet.apis = [api]
    await fleet.register()

    async def traffic() -> None:
        while True:
            await fleet.round()
            await asyncio.sleep(0.05)

    posting = asyncio.ensure_future(traffic())
    try:
        await fleet.optimise()
        versions: list[Version] = ["this", "earlier"]
        for version in versions:
            # The API is replaced first: the worker reads what a newer, and then an older, API writes.
            next_api = start(version, "api")
            fleet.apis.append(next_api)
            await fleet.optimise()
            next_worker = start(version, "worker")
            await in_time(next_worker.works, 120, "the worker starts")
            worker.stop()
            await fleet.optimise()
            rounds = fleet.rounds
            fleet.apis.remove(api)
            # No request is under way at the process that stops.
            await in_time(lambda rounds=rounds: fleet.rounds >= rounds + 2, 30, "two rounds have passed")  # type: ignore[misc]
            api.stop()
            worker, api = next_worker, next_api
            logs += [worker.log, api.log]
    finally:
        posting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await posting
        await fleet.close()
    assert fleet.failures == []

    async with asyncio.timeout(30):
        while await redis.xlen(KEYS.telemetry):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    folded = int(await redis.hget(KEYS.folded, "tokens_total") or 0)
    assert 0 <= folded - fleet.tokens <= 20  # of the round that was given up
    for log in logs:
        text = log.read_text()
        assert "Traceback" not in text, text
        assert "damaged" not in text, text
