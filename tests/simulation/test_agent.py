"""What an agent keeps to whatever the network does, one case at a time."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from moeplace_agent.client import ServiceUnreachable
from moeplace_agent.messages import (
    Assignment,
    Intervals,
    Metadata,
    MoveKind,
    MoveOrder,
    NodeLease,
    Orders,
    Registration,
    ReportAnswer,
    StatusAnswer,
)
from moeplace_agent.node import NodeAgent, NodeConfig
from tests.simulation.clock import VirtualLoop, virtual_time
from tests.simulation.transport import SimulatedClient

INTERVALS = Intervals(5.0, 5.0)


class _Memory:
    async def fetch(self, order: MoveOrder, device_id: str, progress: object) -> str | None:
        return None

    async def evict(self, key: object, device_id: str) -> None:
        return


class _Service(SimulatedClient):
    """Answers the first heartbeat, loses the next ones for a while, and writes down what it gets."""

    def __init__(self, lost: int) -> None:
        self.said: list[str] = []
        self._lost = lost

    async def register(self, node_id: str, spec: Mapping[str, Any]) -> Registration:
        return Registration(node_id, "n", "u", INTERVALS)

    async def report_status(self, node_id: str, status: Mapping[str, Any]) -> StatusAnswer:
        if "heartbeat" in self.said and self._lost:
            self._lost -= 1
            self.said.append("lost")
            raise ServiceUnreachable("lost")
        self.said.append("heartbeat")
        return StatusAnswer("u", 1, NodeLease(datetime(2026, 1, 1, tzinfo=UTC), 30.0), INTERVALS, [])

    async def report_moves(self, node_id: str, reports: Sequence[Mapping[str, Any]]) -> ReportAnswer:
        self.said.append("report")
        return ReportAnswer(len(reports), [])

    async def wait_for_assignment(self, *_: object) -> Assignment | None:
        await asyncio.sleep(3600.0)
        return None

    async def wait_for_moves(self, node_id: str, known_version: str | None, seconds: int) -> Orders | None:
        await asyncio.sleep(3600.0 if known_version else 7.0)
        order = MoveOrder("m1", "p1", MoveKind.COPY, "m", 0, 0, 4, None, None, None, None, 1)
        return None if known_version else Orders(Metadata("u", 1, "d"), node_id, [order])


def test_no_move_is_reported_while_the_last_heartbeat_may_be_under_way() -> None:
    """A heartbeat given up may arrive later, and would take back what a report said. So after one no move is
    reported until a newer heartbeat was answered, which makes the service refuse the old one."""

    async def run(client: _Service) -> None:
        agent = NodeAgent(NodeConfig("n1", {"gpu0": 100}), client, _Memory(), wait_seconds=10)
        running = asyncio.get_running_loop().create_task(agent.run())
        await asyncio.sleep(120.0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    loop = VirtualLoop(random.Random(0))
    client = _Service(lost=6)
    try:
        with virtual_time(loop, 0):
            loop.run_until_complete(run(client))
    finally:
        loop.close()
    assert "lost" in client.said
    assert "report" in client.said
    for index, said in enumerate(client.said):
        if said == "report":
            heartbeats = [entry for entry in client.said[:index] if entry != "report"]
            assert heartbeats[-1] == "heartbeat"
