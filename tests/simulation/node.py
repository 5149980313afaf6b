"""A node: the agent's own code, on memory and links that are simulated."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from moeplace_agent.holdings import ExpertKey
from moeplace_agent.messages import MoveOrder
from moeplace_agent.node import NodeAgent, NodeConfig
from moeplace_agent.retrying import RetryPolicy
from moeplace_agent.routing import RoutingTable
from moeplace_agent.storage import FetchFailed
from tests.simulation.clock import process
from tests.simulation.faults import Faults
from tests.simulation.invariants import Watch
from tests.simulation.transport import Service, SimulatedClient

DEVICE = "gpu0"
POLL_SECONDS = 10
STALL_SECONDS = 120.0


@dataclass
class Shape:
    """What of a node stays the same over its starts."""

    node_id: str
    memory_bytes: int
    ingress_bytes_per_second: float
    egress_bytes_per_second: float
    peers_seconds: dict[str, float]
    origin_seconds: float | None
    expert_bytes: int
    says_moves_version: bool


@dataclass
class Node:
    """One machine. `memory` is what lies in it, kept over a restart of the agent unless it is wiped."""

    shape: Shape
    service: Service
    faults: Faults
    watch: Watch
    ahead: Callable[[], float]
    """Seconds by which the clocks of its host and of the API process it talks to are ahead, at each start."""
    memory: set[ExpertKey] = field(default_factory=set)
    starts: int = 0
    agent: NodeAgent | None = None
    client: SimulatedClient | None = None
    slowness: float = 1.0
    """Copies into this node take so many times longer."""
    peers: "Callable[[], dict[str, Node]]" = dict
    _task: "asyncio.Task[None] | None" = None

    @property
    def node_id(self) -> str:
        return self.shape.node_id

    @property
    def up(self) -> bool:
        return self.agent is not None

    @property
    def routes(self) -> RoutingTable | None:
        return None if self.agent is None else self.agent.routes

    def serves(self, key: ExpertKey) -> bool:
        return self.agent is not None and key in self.memory

    def start(self) -> None:
        assert self.agent is None
        self.starts += 1
        shape = self.shape
        config = NodeConfig(
            shape.node_id,
            {DEVICE: shape.memory_bytes},
            ingress_bytes_per_second=shape.ingress_bytes_per_second,
            egress_bytes_per_second=shape.egress_bytes_per_second,
            base_url=f"http://{shape.node_id}",
            peers_seconds=shape.peers_seconds,
            origin_seconds=shape.origin_seconds,
            instance_uid=f"{shape.node_id}-{self.starts}",
        )
        self.client = SimulatedClient(self.service, self.faults, says_moves_version=shape.says_moves_version)
        agent = NodeAgent(
            config,
            self.client,
            self,
            wait_seconds=POLL_SECONDS,
            retry=RetryPolicy(longest_seconds=5.0),
            on_routes=self._route,
        )
        for key in sorted(self.memory):
            agent.holdings.reserve(key, shape.expert_bytes, DEVICE)
            agent.holdings.complete(key)
        self.agent = agent
        self._task = process(agent.run(), self.ahead())

    async def stop(self, *, wipe: bool) -> None:
        """The agent dies in the middle of whatever it does."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.agent = self._task = None
        if wipe:
            self.memory.clear()
        self.watch.crashed(self)

    async def _route(self, table: RoutingTable) -> None:
        self.watch.routes(self, table)

    def failed(self) -> BaseException | None:
        """What ended the agent, which should run for ever."""
        if self._task is None or not self._task.done() or self._task.cancelled():
            return None
        return self._task.exception()

    # --- its memory, as the agent's storage
    async def fetch(self, order: MoveOrder, device_id: str, progress: Callable[[int], None]) -> str | None:
        key = ExpertKey(order.model_id, order.layer, order.expert)
        self.watch.begins(self, order)
        self.watch.memory(self, arriving=key)
        peers = self.peers()
        source = None if order.source_node_id is None else peers[order.source_node_id]
        rate = self.shape.ingress_bytes_per_second
        if source is not None:
            rate = min(rate, source.shape.egress_bytes_per_second)
        seconds = order.bytes / rate * self.slowness
        breaks_at = self.faults.rng.random() if self.faults.happens(self.faults.fetch_fails) else 2.0
        stalls_at = self.faults.rng.random() if self.faults.happens(self.faults.fetch_stalls) else 2.0
        steps = max(1, min(20, int(seconds)))
        for step in range(steps):
            done = step / steps
            if source is not None and not source.serves(key):
                raise FetchFailed(f"{order.source_node_id} does not serve {key}")
            if done >= breaks_at:
                raise FetchFailed("the connection broke")
            if done >= stalls_at:
                stalls_at = 2.0
                await asyncio.sleep(self.faults.rng.uniform(0.0, STALL_SECONDS))
            await asyncio.sleep(seconds / steps)
            progress(int(order.bytes * (step + 1) / steps))
        if source is not None and not source.serves(key):
            raise FetchFailed(f"{order.source_node_id} does not serve {key} any more")
        self.memory.add(key)
        self.watch.memory(self)
        self.watch.copied(self, key)
        return None

    async def evict(self, key: ExpertKey, device_id: str) -> None:
        self.memory.remove(key)
        self.watch.dropped(self, key)
