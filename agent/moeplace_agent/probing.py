"""Measuring the round trips to everybody a node may call."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import httpx

from moeplace_agent.client import ServiceClient, ServiceError
from moeplace_agent.connecting import fault_of
from moeplace_agent.experts.address import HEALTH_PATH
from moeplace_agent.experts.fetching import ORIGIN
from moeplace_agent.latency import LatencyMeter

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 2.0
"""All of a visit. A place that does not answer so long, several times in a row, is reported to take so
long."""

_FAILURES = 3
_ROUND_TRIPS = 3
"""Per visit; the shortest counts, since only delays of the way, never of this process, are in all of them."""

_ANSWER_BYTES = 4096
"""Of a body; where more comes the connection is closed."""

_AT_ONCE = 8
_PLACES_PER_ROUND = 64
_FAILING_PER_ROUND = 16
"""Places that did not answer last time are visited beside the others, which never wait for them."""

_PAGE = 500


CALLS_FIRST = ("base_url", "experts_url")
EXPERTS_FIRST = ("experts_url", "base_url")


async def places_of_cluster(
    client: ServiceClient, node_id: str, urls: Sequence[str] = CALLS_FIRST
) -> dict[str, str]:
    """Name -> URL of every other node that says where it is reached, and of the origin. `urls`: which of a
    node's URLs are wanted, in order of preference. Raises `ServiceError`."""
    places: dict[str, str] = {}
    settings = (await client.get(""))["settings"]
    origin = (settings.get("origin") or {}).get("base_url")
    if origin:
        places[ORIGIN] = origin
    after = ""
    while True:
        page = await client.get(f"/nodes?limit={_PAGE}{after}")
        for node in page["nodes"]:
            spec = node["spec"]
            url = next((spec[name] for name in urls if spec.get(name)), None)
            if url and node["node_id"] not in (node_id, ORIGIN) and node["condition"] != "LOST":
                places[node["node_id"]] = url
        if page["next_after"] is None:
            return places
        after = f"&after={page['next_after']}"


class Prober:
    """Visits those longest not visited, some in each round."""

    def __init__(
        self,
        meter: LatencyMeter,
        places: Callable[[], Awaitable[Mapping[str, str]]],
        *,
        interval_seconds: float = 15.0,
        use_environment: bool = True,
    ) -> None:
        self._meter = meter
        self._places = places
        self._interval = interval_seconds
        self._use_environment = use_environment
        self._known: Mapping[str, str] = {}
        self._visited: dict[str, float] = {}
        self._failures: dict[str, int] = {}

    async def run(self) -> None:
        """For ever."""
        async with httpx.AsyncClient(
            timeout=TIMEOUT_SECONDS, limits=httpx.Limits(), trust_env=self._use_environment
        ) as http:
            while True:
                await self._refresh()
                await self._round(http)
                # Nodes started together must not probe together. Asking for the nodes costs the service
                # something per node.
                wait = self._interval + 0.01 * len(self._known)
                await asyncio.sleep(wait * random.uniform(0.75, 1.25))

    async def _refresh(self) -> None:
        try:
            known = await self._places()
        except (ServiceError, KeyError, TypeError) as error:
            logger.info("whom to measure is not known: %s", error)
            return
        for name in self._meter.names() | self._known.keys():
            if name in self._known and known.get(name) != self._known[name]:
                self._meter.forget(name)
                self._failures.pop(name, None)
                self._visited.pop(name, None)
        self._known = known

    async def _round(self, http: httpx.AsyncClient) -> None:
        due = sorted(self._known, key=lambda name: (self._visited.get(name, 0.0), random.random()))
        failing = [name for name in due if name in self._failures][:_FAILING_PER_ROUND]
        answering = [name for name in due if name not in self._failures][:_PLACES_PER_ROUND]

        async def visit_all(names: Sequence[str]) -> None:
            places = asyncio.Semaphore(_AT_ONCE)

            async def visit(name: str) -> None:
                async with places:
                    await self._visit(http, name)

            await asyncio.gather(*map(visit, names))

        await asyncio.gather(visit_all(answering), visit_all(failing))

    async def _visit(self, http: httpx.AsyncClient, name: str) -> None:
        self._visited[name] = time.monotonic()
        url = self._known[name].rstrip("/") + HEALTH_PATH
        trips: list[float] = []
        words = f"not within {TIMEOUT_SECONDS:.0f} s"
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while len(trips) < _ROUND_TRIPS:
                    trips.append(await _round_trip(http, url))
        except TimeoutError:
            pass
        except httpx.HTTPStatusError as error:
            trips, words = [], f"it answers {error.response.status_code}"
        except httpx.InvalidURL as error:
            words = str(error)
        except httpx.HTTPError as error:
            trips, words = [], fault_of(error, httpx.URL(url)).words
        if trips:
            if self._failures.pop(name, 0) >= _FAILURES:
                logger.info("%s answers again", name)
                self._meter.forget(name)
            self._meter.probed(name, min(trips))
            return
        self._failures[name] = self._failures.get(name, 0) + 1
        level = logging.WARNING if self._failures[name] == _FAILURES else logging.DEBUG
        logger.log(level, "%s does not answer at %s: %s", name, url, words)
        if self._failures[name] >= _FAILURES:
            self._meter.probed(name, TIMEOUT_SECONDS)


async def _round_trip(http: httpx.AsyncClient, url: str) -> float:
    """Seconds from sending the request to having the head of the answer: connecting, and waiting for a free
    connection, are no part of it."""
    moments: dict[str, float] = {}

    async def trace(event: str, _: Mapping[str, Any]) -> None:
        moments[event] = time.perf_counter()

    begun = time.perf_counter()
    async with http.stream("GET", url, extensions={"trace": trace}) as response:
        ended = moments.get("http11.receive_response_headers.complete", time.perf_counter())
        if response.is_server_error:
            response.raise_for_status()
        # Any other answer, if only that there is no such page, has made the round trip. A short body is read
        # so that the connection can be used again.
        size = 0
        async for chunk in response.aiter_raw():
            size += len(chunk)
            if size > _ANSWER_BYTES:
                break
    return ended - moments.get("http11.send_request_headers.started", begun)
