"""What a node asks of the serving engine that uses its experts."""

from __future__ import annotations

from pathlib import Path

from moeplace_agent.holdings import ExpertKey
from moeplace_agent.routing import RoutingTable


class EngineFailed(Exception):
    """The engine could not do what it was asked; in words."""


class Engine:
    """Override what the engine wants to know; each may raise, which fails the move and nothing else.

    All run on the agent's event loop: what takes long belongs in a thread (`asyncio.to_thread`).
    """

    async def on_expert_ready(self, key: ExpertKey, file: Path, device_id: str) -> None:
        """`file` is the expert, whole and verified, in safetensors: load it onto the device. The node says
        that it holds the expert, and others may call for it, once this has returned."""

    async def before_evict(self, key: ExpertKey, device_id: str) -> None:
        """Nobody is sent to this node for the expert any more: finish the calls under way and free its
        memory. The file is deleted once this has returned."""

    async def on_routes(self, routes: RoutingTable) -> None:
        """Route by this table from now on. The node says that it does once this has returned, and others wait
        for it before they drop a copy."""
