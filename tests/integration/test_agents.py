"""Agents of two nodes against the whole service, while parts of it die."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from moeplace_agent.client import ServiceClient, ServiceError
from moeplace_agent.holdings import ExpertKey
from moeplace_agent.messages import MoveKind, MoveOrder
from moeplace_agent.node import NodeAgent, NodeConfig
from moeplace_agent.retrying import RetryPolicy
from moeplace_agent.telemetry import LayerShape, Recorder
from tests.service import Service

pytestmark = pytest.mark.anyio

CLUSTER = "pair"
EXPERTS = 12
EXPERT_BYTES = 1000
LAYERS = {0: LayerShape(EXPERTS, 2), 1: LayerShape(EXPERTS, 2)}
RETRY = RetryPolicy(first_seconds=0.05, longest_seconds=0.5)
ENVIRONMENT = {
    "MOEPLACE_HEARTBEAT_INTERVAL_SECONDS": "0.3",
    "MOEPLACE_TELEMETRY_INTERVAL_SECONDS": "0.3",
    "MOEPLACE_WORKER_TICK_SECONDS": "0.2",
}
SETTINGS = {
    # Without an origin there would be nowhere to copy the first experts from.
    "origin": {"latency_seconds": 0.05},
    # The default with an origin is 0, and the origin would do for what is not held.
    "min_replicas": 1,
    "optimization_interval_seconds": 1.0,
    "time_limit_seconds": 1.0,
    "statistics_window_seconds": 4.0,
    "statistics_half_life_seconds": 1.0,
    "min_improvement": 0.05,
}


class Memory:
    """Holds experts by name and knows the most it ever held at once."""

    def __init__(self) -> None:
        self.experts: set[ExpertKey] = set()
        self.most = 0
        self.orders: list[MoveKind] = []

    async def fetch(self, order: MoveOrder, device_id: str, progress: Callable[[int], None]) -> str | None:
        await asyncio.sleep(0.005)
        self.experts.add(ExpertKey(order.model_id, order.layer, order.expert))
        self.most = max(self.most, len(self.experts))
        self.orders.append(order.kind)
        return None

    async def evict(self, key: ExpertKey, device_id: str) -> None:
        self.experts.remove(key)
        self.orders.append(MoveKind.DROP)


class Node:
    """An agent whose tokens favour one half of the experts, fed as long as it runs."""

    def __init__(self, client: ServiceClient, node_id: str, peer: str, slots: int, favourites: range) -> None:
        self.memory = Memory()
        self.slots = slots
        self.favourites = favourites
        self.recorder = Recorder("m", LAYERS, seed=0)
        config = NodeConfig(
            node_id,
            {"gpu-0": slots * EXPERT_BYTES},
            local_seconds=0.001,
            peers_seconds={peer: 0.01},
        )
        self.agent = NodeAgent(config, client, self.memory, [self.recorder], wait_seconds=5, retry=RETRY)
        self._random = np.random.default_rng(slots)

    async def feed(self) -> None:
        while True:
            pairs = np.argsort(self._random.random((200, len(self.favourites))), axis=1)[:, :2]
            self.recorder.add_tokens(200)
            for layer in LAYERS:
                self.recorder.record(layer, pairs + self.favourites.start)
            await asyncio.sleep(0.05)

    def home_share(self) -> float:
        """Part of its favourites that the node holds."""
        wanted = {ExpertKey("m", layer, expert) for layer in LAYERS for expert in self.favourites}
        return len(wanted & self.agent.holdings.keys) / len(wanted)


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(work) for node in nodes for work in (node.agent.run(), node.feed())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes), outcomes


async def converged(client: ServiceClient) -> bool:
    try:
        status: dict[str, Any] = await client.get("/placement/status")
    except ServiceError:
        return False
    return any(c["type"] == "Converged" and c["status"] for c in status["conditions"])


async def until(met: Callable[[], Any], seconds: float = 70.0) -> None:
    async with asyncio.timeout(seconds):
        while True:
            value = met()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return
            await asyncio.sleep(0.1)


async def test_nodes_follow_their_traffic_while_api_and_worker_die(serve: Callable[..., Service]) -> None:
    """Two agents end up holding what their own tokens use. Then the API and the worker are killed and the
    nodes' traffic is exchanged: the agents go on by themselves, the experts follow, memory is never
    exceeded, every expert stays held by somebody, and no window is dropped."""
    service = serve(env=ENVIRONMENT)
    async with ServiceClient(service.base_url, CLUSTER, retry=RETRY, use_environment=False) as client:
        await client.put("", SETTINGS)
        blocks = [{"layer": n, "experts": EXPERTS, "expert_bytes": EXPERT_BYTES, "top_k": 2} for n in LAYERS]
        await client.put("/models/m", {"blocks": blocks})
        low, high = range(EXPERTS // 2), range(EXPERTS // 2, EXPERTS)
        one, two = Node(client, "n1", "n2", 16, low), Node(client, "n2", "n1", 14, high)
        async with running(one, two):
            await until(lambda: one.home_share() == two.home_share() == 1.0)
            await until(lambda: converged(client))
            service.kill_child("api")
            service.kill_child("worker")
            one.favourites, two.favourites = high, low

            def moved_and_covered() -> bool:
                held = one.agent.holdings.keys | two.agent.holdings.keys
                assert len(held) == len(LAYERS) * EXPERTS
                return one.home_share() == two.home_share() == 1.0

            await until(moved_and_covered)
            await until(lambda: converged(client))
        for node in (one, two):
            assert node.memory.experts == node.agent.holdings.keys
            assert node.memory.most <= node.slots
            assert {MoveKind.COPY, MoveKind.DROP} <= set(node.memory.orders)
            assert node.agent.outbox.dropped == 0
            assert node.agent.registrations == 1
