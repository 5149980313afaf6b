"""Which server of a Redis Cluster has which slot, as far as is known."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import structlog
from redis.asyncio import Redis
from redis.cluster import parse_cluster_slots
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from app.storage.slots import SLOTS

SUSPICION_SECONDS = 0.25
"""Between two looks at the topology because a server did not answer."""

log = structlog.stdlib.get_logger(__name__)


class Address(NamedTuple):
    host: str
    port: int


class NoCluster(ResponseError):
    """The servers given are no Redis Cluster."""


class Topology:
    """The cluster's servers, each with a client of its own; belongs to one event loop.

    `open_server` makes a client of one server. `seeds` are asked first, later whoever was found.
    """

    def __init__(self, seeds: Sequence[Address], open_server: Callable[[Address], Redis]) -> None:
        self._seeds = tuple(seeds)
        self._open_server = open_server
        self._servers: dict[Address, Redis] = {}
        self._owners: list[Address | None] = []
        self._found: set[Address] = set()
        self._refreshing: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")

    def at(self, address: Address) -> Redis:
        """The client of one server."""
        server = self._servers.get(address)
        if server is None:
            server = self._servers[address] = self._open_server(address)
        return server

    def anyone(self) -> Redis:
        """A client of a server picked at random, known to be a primary if any is known."""
        primaries = [owner for owner in set(self._owners) if owner is not None]
        return self.at(random.choice(primaries or self._seeds))

    async def server(self, slot: int | None) -> Redis:
        """The client of the slot's primary; without a slot, of any primary."""
        if not self._owners:
            await self.refresh()
        if slot is None:
            return self.anyone()
        owner = self._owners[slot]
        if owner is None:
            await self.refresh()
            owner = self._owners[slot]
        if owner is None:
            raise RedisConnectionError(f"no server of the cluster has slot {slot}")
        return self.at(owner)

    async def primaries(self) -> list[Redis]:
        if not self._owners:
            await self.refresh()
        return [self.at(owner) for owner in sorted({owner for owner in self._owners if owner is not None})]

    def moved(self, slot: int, address: Address) -> bool:
        """A server said that another one has the slot. False where that is no news: servers that send us from
        one to the other are not to be asked without a pause."""
        news = bool(self._owners) and self._owners[slot] != address
        if news:
            self._owners[slot] = address
        return news

    def suspect(self) -> None:
        """A server did not answer: look, beside the caller, whether another has taken its place."""
        if time.monotonic() - self._looked_at >= SUSPICION_SECONDS:
            self._begin()

    async def refresh(self) -> None:
        """Ask the servers, one after another, until one says who has what; all callers share one look."""
        await asyncio.shield(self._begin())

    async def close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        for server in self._servers.values():
            await server.aclose()

    def _begin(self) -> asyncio.Task[None]:
        if self._refreshing is None:
            self._looked_at = time.monotonic()
            self._refreshing = asyncio.create_task(self._refresh())
            self._refreshing.add_done_callback(self._ended)
        return self._refreshing

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("the cluster's topology is not known", reason=str(error))

    async def _refresh(self) -> None:
        candidates = [*self._found.union(self._seeds)]
        random.shuffle(candidates)
        reasons: list[Exception] = []
        for address in candidates:
            try:
                ranges = await self.at(address).execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
            except ResponseError as error:
                reasons.append(NoCluster(f"{address.host}:{address.port} answers {error}"))
            except (RedisError, OSError) as error:
                reasons.append(error)
            else:
                if ranges:
                    await self._take_over(parse_cluster_slots(ranges, current_host=address.host))
                    return
                reasons.append(NoCluster(f"{address.host}:{address.port}: no slot has a server"))
        raise reasons[-1]

    async def _take_over(self, ranges: dict[tuple[int, int], dict[str, Any]]) -> None:
        owners: list[Address | None] = [None] * SLOTS
        found: set[Address] = set()
        for (first, last), servers in ranges.items():
            primary, *replicas = (
                Address(host, int(port)) for host, port in (servers["primary"], *servers["replicas"])
            )
            owners[first : last + 1] = [primary] * (last + 1 - first)
            found.update((primary, *replicas))
        self._owners, self._found = owners, found
        for address in self._servers.keys() - found.union(self._seeds):
            await self._servers.pop(address).aclose()
