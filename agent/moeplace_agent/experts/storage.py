"""Experts on disk as the storage of a node: fetched, loaded into the engine, served to peers, evicted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from moeplace_agent.engine import Engine
from moeplace_agent.experts.content import Served
from moeplace_agent.experts.directory import ExpertDirectory, StoredExpert
from moeplace_agent.experts.fetching import ORIGIN, ExpertFetcher, Source
from moeplace_agent.holdings import ExpertKey, Holdings, NoRoom
from moeplace_agent.messages import MoveOrder
from moeplace_agent.storage import EvictFailed, FetchFailed

logger = logging.getLogger(__name__)


class ExpertStorage:
    """The node's storage, and the shelf its server sends from: what is loaded, and whole on disk."""

    def __init__(
        self,
        directory: ExpertDirectory,
        fetcher: ExpertFetcher,
        engine: Engine,
        *,
        others: Callable[[ExpertKey], Sequence[Source]] = lambda _: (),
        evicted: Callable[[ExpertKey], None] = lambda _: None,
    ) -> None:
        """`others`: who else serves an expert, tried after the source an order names. `evicted`: called with
        every expert that is gone."""
        self._directory = directory
        self._fetcher = fetcher
        self._engine = engine
        self._others = others
        self._evicted = evicted
        self._loaded: set[ExpertKey] = set()

    # --- at the start
    async def recover(self, holdings: Holdings) -> None:
        """Load into the engine what an earlier process has left whole on disk, and count it as held.

        What no longer fits, or belongs to a device that is no more, stays on disk and is not held: should it
        be ordered again, it needs no fetching.
        """
        for stored in await asyncio.to_thread(self._directory.recover):
            try:
                holdings.reserve(stored.key, stored.data_bytes, stored.device_id)
            except NoRoom as error:
                logger.warning("%s is on disk and not held: %s", stored.key, error)
                continue
            try:
                await self._load(stored)
            except FetchFailed as error:
                logger.warning("%s is on disk and not held: %s", stored.key, error)
                holdings.abandon(stored.key)
            else:
                holdings.complete(stored.key)

    # --- Storage
    async def fetch(self, order: MoveOrder, device_id: str, progress: Callable[[int], None]) -> str | None:
        key = ExpertKey(order.model_id, order.layer, order.expert)
        stored = await self._on_disk(key, order.expert_digest)
        if stored is None:
            stored = await self._fetcher.fetch(
                key,
                order.expert_digest,
                device_id,
                lambda: self._sources(order, key),
                data_bytes=order.bytes,
                bytes_per_second=order.rate_limit_bytes_per_second,
                progress=lambda done: progress(min(done, order.bytes)),
            )
        else:
            stored = await asyncio.to_thread(self._directory.rehome, stored, device_id)
        if stored.data_bytes > order.bytes:
            await asyncio.to_thread(self._directory.remove, key)
            raise FetchFailed(
                f"{key}: its tensors take {stored.data_bytes} bytes, {order.bytes} are registered"
            )
        await self._load(stored)
        return stored.digest

    async def evict(self, key: ExpertKey, device_id: str) -> None:
        self._loaded.discard(key)
        try:
            await self._engine.before_evict(key, device_id)
        except Exception as error:
            self._loaded.add(key)
            raise EvictFailed(f"{key}: the engine does not let go of it: {_words(error)}") from error
        await asyncio.to_thread(self._directory.remove, key)
        self._evicted(key)

    async def _on_disk(self, key: ExpertKey, digest: str | None) -> StoredExpert | None:
        stored = self._directory.find(key)
        if stored is None or (digest is not None and stored.digest != digest):
            return None
        return stored if stored.unchanged() else await asyncio.to_thread(self._directory.reverify, stored)

    async def _load(self, stored: StoredExpert) -> None:
        try:
            await self._engine.on_expert_ready(stored.key, stored.path, stored.device_id)
        except Exception as error:
            raise FetchFailed(f"{stored.key}: the engine cannot load it: {_words(error)}") from error
        self._loaded.add(stored.key)

    def _sources(self, order: MoveOrder, key: ExpertKey) -> list[Source]:
        ordered = []
        if order.source_url is not None:
            ordered.append(Source(order.source_node_id or ORIGIN, order.source_url))
        return list(dict.fromkeys([*ordered, *self._others(key)]))

    # --- Shelf
    async def find(self, key: ExpertKey) -> Served | None:
        stored = self._directory.find(key) if key in self._loaded else None
        if stored is not None and not stored.unchanged():
            stored = await asyncio.to_thread(self._directory.reverify, stored)
        return None if stored is None else Served(stored.content, stored.digest)

    def manifest(self) -> Any:
        return {
            "experts": [
                {
                    **stored.key._asdict(),
                    "file_bytes": stored.size,
                    "data_bytes": stored.data_bytes,
                    "sha256": stored.digest,
                }
                for stored in self._held()
            ]
        }

    # --- for programs on this host
    def files(self) -> Any:
        """As JSON can say it: what is held, and where."""
        return {
            "experts": [
                {**stored.key._asdict(), "device_id": stored.device_id, "path": str(stored.path)}
                for stored in self._held()
            ]
        }

    def _held(self) -> list[StoredExpert]:
        entries = (stored for stored in self._directory.entries() if stored.key in self._loaded)
        return sorted(entries, key=lambda stored: stored.key)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
