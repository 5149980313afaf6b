"""A whole node in a process: disk, engine, servers and agent, against the real API."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from app.migrate.orders import encode_orders
from app.migration_plans.schemas import ReleasedMove
from app.storage import topics
from app.storage.documents import encode_document, queue_document
from app.storage.keys import ClusterKeys
from migrations.model import MoveKind
from moeplace_agent.client import ServiceClient
from moeplace_agent.config import node_file
from moeplace_agent.engine import Engine
from moeplace_agent.holdings import ExpertKey
from moeplace_agent.host import Node
from moeplace_agent.retrying import RetryPolicy
from moeplace_agent.routing import RoutingTable
from moeplace_agent.serving.embedded import serving
from moeplace_agent.telemetry import LayerShape, Recorder, encode_window
from tests.agent.experts import ExpertFile, expert_file, listener, shelf_server, tree, url_of

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy(first_seconds=0.05, longest_seconds=0.3)
BYTES = 50_000
FILES = {e: expert_file(ExpertKey("m", 3, e), BYTES) for e in range(8)}


class Logbook(Engine):
    """Writes down what it is told, and fails where a test says so."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.refuses: set[str] = set()
        self.node: Node | None = None

    def _note(self, words: str) -> None:
        self.log.append(words)
        if words in self.refuses:
            raise RuntimeError("out of memory")

    async def on_expert_ready(self, key: ExpertKey, file: Path, device_id: str) -> None:
        assert await asyncio.to_thread(file.read_bytes) == FILES[key.expert].body
        assert self.node is None or key not in self.node.holdings
        self._note(f"ready {key.expert} on {device_id}")

    async def before_evict(self, key: ExpertKey, device_id: str) -> None:
        assert self.node is None or key not in self.node.holdings
        self._note(f"evict {key.expert}")

    async def on_routes(self, routes: RoutingTable) -> None:
        assert self.node is None or self.node.routes is not routes
        self._note(f"routes {routes.generation}")


class Stage:
    """A cluster of its own, its only node, and the worker's part played by the test."""

    def __init__(
        self, cluster_id: str, api_url: str, client: ServiceClient, redis: Redis, root: Path
    ) -> None:
        self.keys = ClusterKeys(cluster_id)
        self.client = client
        self.redis = redis
        self.root = root
        self.values: dict[str, Any] = {
            "node_id": "n1",
            "service": {"url": api_url, "cluster": cluster_id},
            "devices": [{"device_id": "gpu-0", "memory": 4 * BYTES}, {"device_id": "gpu-1", "memory": BYTES}],
            "data_dir": "disk",
            "experts": {"fetch_patience_seconds": 0.5},
            "latency": {"probe_interval_seconds": 0.2},
        }
        self.engine = Logbook()

    @asynccontextmanager
    async def node(self, *recorders: Recorder, engine: Engine | None = None) -> AsyncIterator[Node]:
        experts, local = listener(), listener()
        node = Node(
            node_file(self.values, base=self.root),
            experts_url=url_of(experts),
            experts_listener=experts,
            local_listener=local,
            engine=engine or (None if "engine" in self.values else self.engine),
            recorders=recorders,
            retry=QUICK,
            use_environment=False,
        )
        self.engine.node = node
        self.experts_url, self.local_url = url_of(experts), url_of(local)
        async with node:
            yield node

    async def order(self, generation: int, *moves: ReleasedMove) -> None:
        uid = (await self.client.get(""))["uid"]
        document = encode_orders(uid, generation, "n1", list(moves), uuid.uuid4().hex)
        async with self.redis.pipeline() as pipeline:
            queue_document(pipeline, self.keys.moves("n1"), document)
            pipeline.publish(self.keys.wake, topics.moves("n1"))
            await pipeline.execute()

    async def assign(self, generation: int, **body: Any) -> None:
        uid = (await self.client.get(""))["uid"]
        metadata = {"uid": uid, "generation": generation, "digest": f"d{generation}"}
        content = {"metadata": metadata, "node_id": "n1", "devices": [], "targets": [], "routes": [], **body}
        document = encode_document(
            msgspec.json.encode(content), uid=uid, generation=generation, digest=f"d{generation}"
        )
        async with self.redis.pipeline() as pipeline:
            queue_document(pipeline, self.keys.assignment("n1"), document)
            pipeline.publish(self.keys.wake, topics.assignment("n1"))
            await pipeline.execute()

    async def held(self) -> set[str]:
        members: Any = await self.redis.smembers(self.keys.holdings("n1"))
        return {member.decode() for member in members}

    async def until(self, met: Callable[[], Any], seconds: float = 20.0) -> None:
        async with asyncio.timeout(seconds):
            while True:
                value = met()
                if asyncio.iscoroutine(value):
                    value = await value
                if value:
                    return
                await asyncio.sleep(0.05)


def copy(file: ExpertFile, source: str | None, attempt: int = 1, **more: Any) -> ReleasedMove:
    values: dict[str, Any] = {
        "move_id": f"copy-{file.key.expert}",
        "plan_id": "p1",
        "kind": MoveKind.COPY,
        **file.key._asdict(),
        "bytes": file.data_bytes,
        "device_id": None,
        "source_node_id": None,
        "source_url": source,
        "expert_digest": file.digest,
        "attempt": attempt,
        "rate_limit_bytes_per_second": None,
        **more,
    }
    return ReleasedMove(**values)


def drop(file: ExpertFile) -> ReleasedMove:
    return copy(file, None, move_id=f"drop-{file.key.expert}", kind=MoveKind.DROP, expert_digest=None)


def elsewhere(*experts: int) -> dict[str, Any]:
    """Routes that send calls for these to another node."""
    target = {
        "kind": "NODE",
        "node_id": "n2",
        "base_url": None,
        "experts_url": None,
        "latency_seconds": 0.004,
    }
    routes = [{"model_id": "m", "layer": 3, "experts": list(experts), "targets": [[0]] * len(experts)}]
    return {"targets": [target], "routes": routes}


@pytest.fixture
async def stage(api_url: str, redis: Redis, tmp_path: Path) -> AsyncIterator[Stage]:
    cluster_id = f"c-{uuid.uuid4().hex[:8]}"
    async with ServiceClient(api_url, cluster_id, retry=QUICK, use_environment=False) as client:
        await client.put("", {})
        await client.put(
            "/models/m", {"blocks": [{"layer": 3, "experts": 8, "expert_bytes": BYTES, "top_k": 2}]}
        )
        yield Stage(cluster_id, api_url, client, redis, tmp_path)


async def test_an_ordered_expert_is_fetched_loaded_held_and_served(stage: Stage) -> None:
    """The engine has it before it is held; the service and peers see it; an eviction goes the other way, and
    nothing of it is left on disk."""
    async with shelf_server(*FILES.values()) as origin, stage.node() as node:
        await stage.order(1, copy(FILES[2], origin), copy(FILES[5], origin, device_id="gpu-1"))
        await stage.until(lambda: _equals(stage.held(), {"m/3/2", "m/3/5"}))
        assert stage.engine.log == ["ready 2 on gpu-0", "ready 5 on gpu-1"]
        async with httpx.AsyncClient(trust_env=False) as peer:
            answer = await peer.get(f"{stage.experts_url}/v1/experts/m/3/5")
            assert answer.content == FILES[5].body
            await stage.assign(2, **elsewhere(5))
            await stage.order(2, drop(FILES[5]))
            await stage.until(lambda: _equals(stage.held(), {"m/3/2"}))
            assert (await peer.get(f"{stage.experts_url}/v1/experts/m/3/5")).status_code == 404
            assert (await peer.get(f"{stage.experts_url}/v1/experts/m/3/2")).status_code == 200
        assert stage.engine.log[2:] == ["routes 2", "evict 5"]
        assert [target.node_id for target in node.where("m", 3, 5)] == ["n2"]  # type: ignore[union-attr]
        assert len(tree(stage.root / "disk")) == 1


async def test_an_engine_that_cannot_load_fails_the_move_alone(stage: Stage) -> None:
    """The reason reaches the service, the expert is not held and takes no room; the next attempt needs no
    fetching, since the file is there."""
    stage.engine.refuses.add("ready 2 on gpu-0")
    async with shelf_server(FILES[2]) as origin, stage.node() as node:
        await stage.order(1, copy(FILES[2], origin))
        await stage.until(lambda: "ready 2 on gpu-0" in stage.engine.log)
        await stage.until(lambda: node.agent.moves_failed == 1)
        assert node.holdings.used_bytes == 0
        stage.engine.refuses.clear()
    async with stage.node() as node:
        assert node.holdings.keys == {FILES[2].key}


async def test_an_engine_that_does_not_let_go_keeps_the_expert(stage: Stage) -> None:
    """An eviction it refuses fails: the expert is held and served as before."""
    stage.engine.refuses.add("evict 2")
    async with shelf_server(FILES[2]) as origin, stage.node() as node:
        await stage.order(1, copy(FILES[2], origin))
        await stage.until(lambda: _equals(stage.held(), {"m/3/2"}))
        await stage.assign(2, **elsewhere(2))
        await stage.order(2, drop(FILES[2]))
        await stage.until(lambda: node.agent.moves_failed == 1)
        assert node.holdings.keys == {FILES[2].key}
        async with httpx.AsyncClient(trust_env=False) as peer:
            assert (await peer.get(f"{stage.experts_url}/v1/experts/m/3/2")).status_code == 200


async def test_an_engine_that_does_not_switch_is_asked_again(stage: Stage) -> None:
    """The table is not in use before the engine uses it: FAILED is reported meanwhile, and APPLIED once it
    works."""
    stage.engine.refuses.add("routes 4")
    async with stage.node() as node:
        await stage.assign(4)
        await stage.until(lambda: stage.engine.log.count("routes 4") >= 2)
        assert node.routes is None
        assert "out of memory" in (node.agent.failure or "")
        stage.engine.refuses.clear()
        await stage.until(lambda: node.routes is not None)
        assert node.agent.failure is None


async def test_after_a_restart_what_is_whole_is_held_before_the_first_heartbeat(stage: Stage) -> None:
    """One expert was damaged on disk meanwhile, one belongs to a device that has become too small: the third
    is loaded and reported at once; the second is taken over without fetching when it is ordered again."""
    async with shelf_server(*FILES.values()) as origin:
        async with stage.node():
            orders = [copy(FILES[e], origin) for e in (0, 1)]
            await stage.order(1, *orders, copy(FILES[6], origin, device_id="gpu-1"))
            await stage.until(lambda: _equals(stage.held(), {"m/3/0", "m/3/1", "m/3/6"}))
        (damaged,) = (stage.root / "disk").rglob(f"0.{FILES[0].digest}.safetensors")
        with damaged.open("r+b") as file:
            file.seek(-5, os.SEEK_END)
            file.write(b"!!!!!")
        stage.values["devices"][1]["memory"] = BYTES - 1
        stage.engine.log.clear()
        await stage.order(2)
        async with stage.node() as node:
            assert node.holdings.keys == {FILES[1].key}
            assert stage.engine.log == ["ready 1 on gpu-0"]
            await stage.until(lambda: _equals(stage.held(), {"m/3/1"}))
            await stage.order(3, copy(FILES[6], None, move_id="again", device_id="gpu-0"))
            await stage.until(lambda: _equals(stage.held(), {"m/3/1", "m/3/6"}))


async def test_the_routing_table_names_other_sources(stage: Stage) -> None:
    """The source an order names is dead: the expert comes from the node the routes name."""
    async with shelf_server(FILES[2]) as peer, stage.node():
        routes = elsewhere(2)
        routes["targets"][0] |= {"base_url": "http://127.0.0.1:1", "experts_url": peer}
        await stage.assign(1, **routes)
        await stage.until(lambda: "routes 1" in stage.engine.log)
        await stage.order(1, copy(FILES[2], "http://127.0.0.1:1", source_node_id="n3"))
        await stage.until(lambda: _equals(stage.held(), {"m/3/2"}))


async def test_a_file_damaged_while_running_is_not_served(stage: Stage) -> None:
    """Somebody writes into the file of a held expert: peers get 404 from then on, never its bytes."""
    async with shelf_server(FILES[2]) as origin, stage.node(), httpx.AsyncClient(trust_env=False) as peer:
        await stage.order(1, copy(FILES[2], origin))
        await stage.until(lambda: _equals(stage.held(), {"m/3/2"}))
        url = f"{stage.experts_url}/v1/experts/m/3/2"
        assert (await peer.get(url)).content == FILES[2].body
        (path,) = (stage.root / "disk").rglob("*.safetensors")
        with path.open("r+b") as file:
            file.seek(-5, os.SEEK_END)
            file.write(b"!!!!!")
        assert (await peer.get(url)).status_code == 404
        assert (await peer.get(f"{stage.experts_url}/v1/experts")).json() == {"experts": []}


async def test_latencies_are_measured_and_reported(stage: Stage) -> None:
    """The node visits the nodes of its cluster and the origin; what it measured is in its heartbeats."""
    async with shelf_server() as peer, shelf_server() as origin:
        spec = {"instance_uid": "x", "devices": [{"device_id": "g", "memory_bytes": 1}], "base_url": peer}
        await stage.client.put("", {"origin": {"base_url": origin, "latency_seconds": 9.0}})
        await stage.client.put("/nodes/n2", spec)
        async with stage.node() as node:
            await stage.until(lambda: node.agent.heartbeats)

            async def measured() -> bool:
                status = (await stage.client.get("/nodes/n1"))["status"]
                latency = (status or {}).get("latency") or {}
                return bool(latency.get("peers_seconds", {}).get("n2") and latency.get("origin_seconds"))

            await stage.until(measured)


async def test_another_process_hands_over_telemetry_and_reads_what_is_held(stage: Stage) -> None:
    """Windows posted on the local port get the node's numbers and lie in the service's stream, in turn with
    those of a recorder in the process; what is no window is refused in words; files and routes are told."""
    recorder = Recorder("m", {3: LayerShape(8, 2)}, seed=0)
    async with (
        shelf_server(FILES[2]) as origin,
        stage.node() as node,
        httpx.AsyncClient(trust_env=False) as engine,
    ):
        await stage.until(lambda: node.agent.heartbeats)
        recorder.add_tokens(10)
        recorder.record(3, np.tile([1, 2], (10, 1)))
        window = recorder.cut()
        assert window is not None
        body = msgspec.msgpack.decode(encode_window(window, "", 0))
        del body["instance_uid"], body["sequence_number"]
        kind = {"Content-Type": "application/msgpack"}
        url = f"{stage.local_url}/v1/telemetry"
        answers = [await engine.post(url, content=msgspec.msgpack.encode(body), headers=kind) for _ in "ab"]
        assert [a.json()["sequence_number"] for a in answers] == [1, 2]
        await stage.until(lambda: _equals(stage.redis.xlen(stage.keys.telemetry), 2))
        for content, headers, status in (
            (b"\xc1", kind, 422),
            (msgspec.msgpack.encode({"model_id": "m"}), kind, 422),
            (b"{}", {"Content-Type": "application/json"}, 415),
            (bytes(3 << 20), kind, 413),
        ):
            assert (await engine.post(url, content=content, headers=headers)).status_code == status

        calls = await engine.post(f"{stage.local_url}/v1/calls", json={"n2": [0.25], "n1": [0.001]})
        assert calls.status_code == 204
        for wrong in ({"n2": ["x"]}, {"n 2": [0.1]}, {"n2": [-1]}, [0.1]):
            assert (await engine.post(f"{stage.local_url}/v1/calls", json=wrong)).status_code == 422
        report = node.latency.report()
        assert report is not None
        assert (report["local_seconds"], report["peers_seconds"]) == (0.001, {"n2": 0.25})

        await stage.assign(7)
        await stage.order(7, copy(FILES[2], origin))
        await stage.until(lambda: _equals(stage.held(), {"m/3/2"}))
        await stage.until(lambda: node.routes)
        (held,) = (await engine.get(f"{stage.local_url}/v1/experts")).json()["experts"]
        assert await asyncio.to_thread(Path(held["path"]).read_bytes) == FILES[2].body
        routes = (await engine.get(f"{stage.local_url}/v1/routes")).json()
        assert routes["metadata"]["generation"] == 7
        health = (await engine.get(f"{stage.local_url}/healthz")).json()
        assert (health["held_experts"], health["generation"]) == (1, 7)
        metrics = (await engine.get(f"{stage.local_url}/metrics")).text
        assert f'moeplace_agent_fetched_bytes_total{{source="origin"}} {len(FILES[2].body):.1f}' in metrics
        assert "moeplace_agent_held_experts 1.0" in metrics


async def test_an_engine_in_another_process_is_told_over_http(stage: Stage) -> None:
    """Its hooks are called in the order of a library's; one that answers 500 fails the move."""
    told: list[tuple[str, Any]] = []
    broken = True

    async def hook(request: Request) -> Response:
        told.append((request.url.path, msgspec.json.decode(await request.body())))
        if broken and request.url.path.endswith("ready"):
            return PlainTextResponse("no memory left", 500)
        return Response(status_code=204)

    hooks = listener()
    stage.values["engine"] = {"hooks_url": url_of(hooks) + "/moeplace"}
    application = Starlette(routes=[Route("/moeplace/{rest:path}", hook, methods=["POST"])])
    async with serving(application, hooks), shelf_server(FILES[2]) as origin, stage.node() as node:
        await stage.assign(1, **elsewhere(2))
        await stage.order(1, copy(FILES[2], origin))
        await stage.until(lambda: node.agent.moves_failed == 1)
        broken = False
        await stage.order(1, copy(FILES[2], origin, attempt=2))
        await stage.until(lambda: _equals(stage.held(), {"m/3/2"}))
        await stage.order(2, drop(FILES[2]))
        await stage.until(lambda: _equals(stage.held(), set()))
    paths = [path.removeprefix("/moeplace") for path, _ in told]
    assert sorted(paths[:2]) == ["/experts/ready", "/routes"]
    assert paths[2:] == ["/experts/ready", "/experts/evict"]
    ready = next(body for path, body in reversed(told) if path.endswith("ready"))
    assert Path(ready["path"]).name == f"2.{FILES[2].digest}.safetensors"


async def _equals(found: Any, expected: object) -> bool:
    return bool(await found == expected)
