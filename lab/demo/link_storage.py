"""A storage for nodes that hold no weights: a copy takes the time the link would take, nothing more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from moeplace_agent.holdings import ExpertKey
from moeplace_agent.messages import MoveOrder
from moeplace_agent.storage import FetchFailed


class LinkStorage:
    def __init__(self, ingress: float, egress: Mapping[str, float], origin_egress: float) -> None:
        """Bytes per second: into this node, out of each peer, and what the origin gives to one copy."""
        self._ingress = ingress
        self._egress = dict(egress)
        self._origin_egress = origin_egress

    def seconds(self, order: MoveOrder) -> float:
        """How long the copy takes: the slower end of the link decides."""
        if order.source_node_id is None:
            source = self._origin_egress
        elif order.source_node_id in self._egress:
            source = self._egress[order.source_node_id]
        else:
            raise FetchFailed(f"no link to {order.source_node_id}")
        return order.bytes / min(self._ingress, source)

    async def fetch(self, order: MoveOrder, device_id: str, progress: Callable[[int], None]) -> None:
        seconds = self.seconds(order)
        await asyncio.sleep(seconds / 2)
        progress(order.bytes // 2)
        await asyncio.sleep(seconds / 2)

    async def evict(self, key: ExpertKey, device_id: str) -> None:
        """Nothing lies anywhere, so nothing has to go."""
