"""What an agent needs of the place where a node keeps its experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from moeplace_agent.holdings import ExpertKey
from moeplace_agent.messages import MoveOrder


class FetchFailed(Exception):
    """The expert could not be had whole; in words."""


class EvictFailed(Exception):
    """The expert is still where it was; in words."""


class Storage(Protocol):
    """Brings experts into a node's memory and removes them. `fetch` returns only when the expert is whole,
    verified and loaded; when it fails or is cancelled no expert is there, though parts may be kept to resume
    from."""

    async def fetch(self, order: MoveOrder, device_id: str, progress: Callable[[int], None]) -> str | None:
        """Copy `order`'s expert onto the device; tells `progress` the bytes done so far. The SHA-256 of the
        bytes, in hex, or None where the storage moves none it could digest. Raises `FetchFailed`."""
        ...

    async def evict(self, key: ExpertKey, device_id: str) -> None:
        """Give the expert's memory back. Raises `EvictFailed`."""
        ...
