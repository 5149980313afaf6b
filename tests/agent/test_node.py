"""The agent of a node against the real API."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from redis.asyncio import Redis

from app.storage import topics
from app.storage.documents import encode_document, queue_document
from app.storage.keys import ClusterKeys
from moeplace_agent.client import ServiceClient, ServiceProblem
from moeplace_agent.holdings import ExpertKey
from moeplace_agent.messages import MoveOrder
from moeplace_agent.node import NodeAgent, NodeConfig
from moeplace_agent.retrying import RetryPolicy
from moeplace_agent.telemetry import LayerShape, Recorder
from tests.agent.losing_proxy import LosingProxy, losing_proxy

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy(first_seconds=0.05, longest_seconds=0.3)
LAYERS = {0: LayerShape(8, 2), 3: LayerShape(8, 2)}


class Memory:
    """A storage that holds whatever it is told to."""

    async def fetch(self, order: MoveOrder, device_id: str, progress: Callable[[int], None]) -> str | None:
        return None

    async def evict(self, key: ExpertKey, device_id: str) -> None:
        return None


class Scene:
    """One node of a cluster of its own, its agent running through a proxy that can lose answers."""

    def __init__(self, cluster_id: str, proxy: LosingProxy, client: ServiceClient, redis: Redis) -> None:
        self.cluster_id = cluster_id
        self.keys = ClusterKeys(cluster_id)
        self.proxy = proxy
        self.client = client
        self.redis = redis
        self.recorder = Recorder("m", LAYERS, seed=0)
        self.agent = NodeAgent(
            NodeConfig("n1", {"gpu-0": 1000}), client, Memory(), [self.recorder], wait_seconds=2, retry=QUICK
        )

    def record(self, tokens: int) -> None:
        generator = np.random.default_rng(tokens)
        self.recorder.add_tokens(tokens)
        for layer in LAYERS:
            self.recorder.record(layer, np.argsort(generator.random((tokens, 8)), axis=1)[:, :2])

    def hold(self, expert: int) -> None:
        key = ExpertKey("m", 0, expert)
        self.agent.holdings.reserve(key, 10, None)
        self.agent.holdings.complete(key)

    async def status(self) -> dict[str, Any]:
        """What the service knows of the node's last heartbeat; nothing while there is none."""
        try:
            status: dict[str, Any] | None = (await self.client.get("/nodes/n1"))["status"]
        except ServiceProblem as problem:
            if problem.status != 404:
                raise
            return {}
        return status or {}

    async def held(self) -> set[str]:
        members = cast("set[bytes]", await self.redis.smembers(self.keys.holdings("n1")))
        return {member.decode() for member in members}

    async def windows(self) -> int:
        return int(await self.redis.xlen(self.keys.telemetry))

    async def until(self, met: Callable[[], Any], seconds: float = 10.0) -> None:
        """Wait until the (possibly asynchronous) condition holds."""
        async with asyncio.timeout(seconds):
            while True:
                value = met()
                if asyncio.iscoroutine(value):
                    value = await value
                if value:
                    return
                await asyncio.sleep(0.05)

    async def assign(self, body: dict[str, Any], generation: int) -> str:
        """Write the node's assignment as the worker does; its version."""
        uid = (await self.client.get(""))["uid"]
        body["metadata"] = {"uid": uid, "generation": generation, "digest": f"digest{generation}"}
        document = encode_document(
            msgspec.json.encode(body), uid=uid, generation=generation, digest=f"digest{generation}"
        )
        async with self.redis.pipeline() as pipeline:
            queue_document(pipeline, self.keys.assignment("n1"), document)
            pipeline.publish(self.keys.wake, topics.assignment("n1"))
            await pipeline.execute()
        return document.version


@asynccontextmanager
async def running(agent: NodeAgent) -> AsyncIterator[None]:
    task = asyncio.create_task(agent.run())
    try:
        yield
    finally:
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError), outcome


@pytest.fixture
async def scene(api_url: str, redis: Redis) -> AsyncIterator[Scene]:
    cluster_id = f"c-{uuid.uuid4().hex[:8]}"
    async with (
        losing_proxy(api_url) as proxy,
        ServiceClient(proxy.base_url, cluster_id, retry=QUICK, use_environment=False) as client,
    ):
        await client.put("", {})
        blocks = [{"layer": layer, "experts": 8, "expert_bytes": 10, "top_k": 2} for layer in LAYERS]
        await client.put("/models/m", {"blocks": blocks})
        yield Scene(cluster_id, proxy, client, redis)


async def test_a_node_registers_reports_and_posts(scene: Scene) -> None:
    """The service knows the node, what it holds and, window by window, what it recorded."""
    scene.hold(3)
    async with running(scene.agent):
        await scene.until(lambda: scene.agent.registrations == 1)
        scene.record(100)
        await scene.until(scene.windows)
        await scene.until(scene.held)
        scene.hold(5)
        await scene.until(lambda: _equals(scene.held(), {"m/0/3", "m/0/5"}))
        status = await scene.status()
        assert status["state"] == "APPLIED"
        assert scene.agent.registrations == 1


async def test_a_window_whose_answer_was_lost_counts_once(scene: Scene) -> None:
    """The service took the window and its answer got lost, twice: it is sent again under the same sequence
    number, and lies in the stream once."""
    async with running(scene.agent):
        await scene.until(lambda: scene.agent.registrations == 1)
        scene.proxy.losing, scene.proxy.lose = "/telemetry", 2
        scene.record(50)
        await scene.until(lambda: scene.proxy.lost == 2)
        await scene.until(lambda: sum("/telemetry" in line for line in scene.proxy.requests) >= 3)
        scene.record(50)
        await scene.until(lambda: _equals(scene.windows(), 2))
        await asyncio.sleep(0.3)
        assert await scene.windows() == 2
        assert scene.agent.outbox.dropped == 0
        assert scene.client.retries >= 2


async def test_a_lost_heartbeat_is_made_good_by_the_full_state(scene: Scene) -> None:
    """A heartbeat with a change is lost on its way back: what the node holds arrives all the same."""
    async with running(scene.agent):
        await scene.until(scene.status)
        scene.proxy.losing, scene.proxy.lose = "/status", 2
        scene.hold(1)
        await scene.until(lambda: scene.proxy.lost == 2)
        scene.hold(2)
        await scene.until(lambda: _equals(scene.held(), {"m/0/1", "m/0/2"}))


async def test_an_assignment_is_applied_and_reported(scene: Scene) -> None:
    """A new routing table reaches the node by its long poll, is used, and is reported as in use."""
    async with running(scene.agent):
        await scene.until(scene.status)
        target = {"kind": "NODE", "node_id": "n2", "base_url": None, "latency_seconds": 0.004}
        routes = [{"model_id": "m", "layer": 0, "experts": [1], "targets": [[0]]}]
        body = {"node_id": "n1", "devices": [], "targets": [target], "routes": routes}
        version = await scene.assign(body, 4)
        await scene.until(lambda: _reports(scene, assignment_version=version, generation=4, state="APPLIED"))
        assert scene.agent.routes is not None
        assert scene.agent.routes.where(scene.agent.holdings, "m", 0, 1)[0].latency_seconds == 0.004  # type: ignore[union-attr]


async def test_an_assignment_that_cannot_be_applied_leaves_the_old_in_use(scene: Scene) -> None:
    """A routing table to nowhere: the state is FAILED with the reason, the routes stay those of before; the
    next good one repairs it."""
    async with running(scene.agent):
        await scene.until(scene.status)
        good: dict[str, Any] = {"node_id": "n1", "devices": [], "targets": [], "routes": []}
        first = await scene.assign(dict(good), 1)
        await scene.until(lambda: _reports(scene, assignment_version=first))
        routes = [{"model_id": "m", "layer": 0, "experts": [1], "targets": [[9]]}]
        await scene.assign({**good, "routes": routes}, 2)
        await scene.until(lambda: _reports(scene, state="FAILED", assignment_version=first, generation=2))
        assert "target outside" in (await scene.status())["reason"]
        third = await scene.assign(dict(good), 3)
        await scene.until(lambda: _reports(scene, state="APPLIED", assignment_version=third))


async def test_what_an_assignment_says_to_evict_goes_and_is_reported(scene: Scene) -> None:
    """A model was deleted: its experts go with the assignment that names them, without an order."""
    scene.hold(4)
    scene.hold(5)
    async with running(scene.agent):
        await scene.until(lambda: _equals(scene.held(), {"m/0/4", "m/0/5"}))
        evict = [{"model_id": "m", "layer": 0, "experts": [5, 6]}]
        await scene.assign({"node_id": "n1", "devices": [], "targets": [], "routes": [], "evict": evict}, 2)
        await scene.until(lambda: _equals(scene.held(), {"m/0/4"}))


async def test_another_instance_under_the_same_name_is_told_apart(scene: Scene) -> None:
    """Somebody registers the node anew and is silent from then on: the agent is answered 409, has its node
    back once the other has been silent long enough, and says all it holds."""
    scene.hold(4)
    async with running(scene.agent):
        await scene.until(scene.held)
        await scene.client.register("n1", NodeConfig("n1", {"gpu-0": 1000}, instance_uid="other").spec())
        await scene.redis.zadd(scene.keys.node_leases, {"n1": (time.time() + 1.0) * 1000})
        await scene.until(lambda: scene.agent.registrations == 2)
        await scene.until(lambda: _equals(scene.held(), {"m/0/4"}))
        record = await scene.client.get("/nodes/n1")
        assert record["spec"]["instance_uid"] != "other"


async def test_a_cluster_created_anew_is_resynchronised(scene: Scene) -> None:
    """The cluster is lost with all its state and made again: the node registers and reports in full, and its
    windows are taken again."""
    scene.hold(6)
    async with running(scene.agent):
        await scene.until(scene.held)
        await scene.redis.flushall()
        await scene.client.put("", {})
        blocks = [{"layer": layer, "experts": 8, "expert_bytes": 10, "top_k": 2} for layer in LAYERS]
        await scene.client.put("/models/m", {"blocks": blocks})
        await scene.until(lambda: _equals(scene.held(), {"m/0/6"}))
        scene.record(10)
        await scene.until(scene.windows)
        assert scene.agent.registrations >= 2


async def test_an_agent_started_before_the_service_waits_for_it(api_url: str, scene: Scene) -> None:
    """Every answer is lost until the client gives up its first registration: the agent goes on trying."""
    impatient = RetryPolicy(first_seconds=0.01, longest_seconds=0.05, attempts=2)
    async with ServiceClient(
        scene.proxy.base_url, scene.cluster_id, retry=impatient, use_environment=False
    ) as client:
        agent = NodeAgent(NodeConfig("n2", {"gpu-0": 10}), client, Memory(), retry=impatient)
        scene.proxy.losing, scene.proxy.lose = "/nodes/n2", 5
        async with running(agent):
            await scene.until(lambda: agent.registrations == 1)
    assert scene.proxy.lost == 5


async def test_a_refused_registration_ends_the_agent_in_words(scene: Scene) -> None:
    """A node whose description is invalid cannot run; the error names the field."""
    agent = NodeAgent(NodeConfig("n1", {"gpu 0": 1}), scene.client, Memory(), retry=QUICK)
    with pytest.raises(ServiceProblem, match="device_id"):
        await agent.run()


async def test_an_agent_whose_node_id_another_has_says_so_and_waits(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """Two agents under one node_id: the second names the first by its URL, does not take the node over, and
    has it once the first is gone for long enough."""
    one = NodeConfig("n1", {"gpu-0": 1000}, base_url="http://10.0.0.4:9000")
    two = NodeConfig("n1", {"gpu-0": 1000}, base_url="http://10.0.0.5:9000")
    first = NodeAgent(one, scene.client, Memory(), retry=QUICK)
    second = NodeAgent(two, scene.client, Memory(), retry=QUICK)
    async with running(first):
        await scene.until(lambda: first.heartbeats)
        async with running(second):
            await scene.until(lambda: "http://10.0.0.4:9000" in caplog.text)
            beats = first.heartbeats
            await scene.until(lambda: first.heartbeats >= beats + 3)
            assert (first.registrations, second.registrations) == (1, 0)
    assert caplog.text.count("registration failed") == 1


async def test_an_agent_whose_service_was_away_goes_on_as_the_same_instance(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """The lease of the node ran out meanwhile: its next heartbeat brings it back with all it holds. The log
    has one line for all heartbeats that failed alike."""
    caplog.set_level("INFO")
    scene.hold(4)
    async with running(scene.agent):
        await scene.until(scene.held)
        scene.proxy.losing, scene.proxy.lose = "/nodes/n1", 10
        await scene.redis.zadd(scene.keys.node_leases, {"n1": (time.time() - 60.0) * 1000})
        await scene.until(lambda: scene.proxy.lost == 10)
        beats = scene.agent.heartbeats
        await scene.until(lambda: scene.agent.heartbeats >= beats + 2)
        record = await scene.client.get("/nodes/n1")
        assert record["condition"] == "LIVE"
        assert await scene.held() == {"m/0/4"}
    assert scene.agent.registrations == 1
    assert caplog.text.count("heartbeat failed") == caplog.text.count("heartbeat works again") == 1


async def test_the_agent_of_a_drained_node_says_so(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Registering again does not end a drain: the agent names it and how it ends, once, and says when an
    operator let the node in."""
    caplog.set_level("INFO", logger="moeplace_agent")
    await scene.redis.zadd(scene.keys.drained_nodes, {"n1": 1.0})
    async with running(scene.agent):
        await scene.until(lambda: "an operator drained node n1" in caplog.text)
        assert "nodes/n1:undrain" in caplog.text
        assert (await scene.client.get("/nodes/n1"))["condition"] == "DRAINED"
        await scene.client.ask("POST", f"/v1/clusters/{scene.cluster_id}/nodes/n1:undrain")
        body = {"node_id": "n1", "devices": [], "targets": [], "routes": [], "evict": []}
        await scene.assign(body, 1)  # which the agent reports at once
        await scene.until(lambda: "let node n1 in again" in caplog.text)
    assert caplog.text.count("an operator drained node n1") == 1


async def _equals(found: Any, expected: object) -> bool:
    return bool(await found == expected)


async def _reports(scene: Scene, **expected: object) -> bool:
    status = await scene.status()
    return all(status.get(name) == value for name, value in expected.items())
