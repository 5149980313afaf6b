"""Where the experts of a node's tokens are computed: here, or wherever the routing table sends them.

All pairs of a token and an expert that go to one place travel in one call, and the calls of a layer go out
together. What a place does not have, or does not answer, is asked of the next best; the origin, which has
everything, comes last.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lab.fleet.experts import LoadedExperts
from lab.fleet.frames import Float32
from lab.fleet.peers import CallFailed, Peers
from lab.tiny_moe.model import Ids
from lab.tiny_moe.shape import WIDTH
from moeplace_agent.holdings import Holdings
from moeplace_agent.messages import TargetKind
from moeplace_agent.routing import Local, RoutingTable

ORIGIN = "origin"

Measured = Callable[[str, float], None]


class ExpertUnavailable(Exception):
    """Nobody has computed an expert for a token; in words."""


class Place(NamedTuple):
    """Where a call goes: `url` is None for the node itself."""

    name: str
    url: str | None


@dataclass
class Spent:
    """What expert calls of some tokens have taken. `seconds`: waiting for experts, all layers; activations by
    who served them; `again`: pairs that had to be asked of a further place; `bytes_exchanged` both ways."""

    seconds: float = 0.0
    local: int = 0
    remote: int = 0
    origin: int = 0
    again: int = 0
    bytes_exchanged: int = 0


class _Pair:
    """One expert of one token on its way: the places still to be asked."""

    __slots__ = ("expert", "places", "row", "slot")

    def __init__(self, row: int, slot: int, expert: int, places: list[Place]) -> None:
        self.row, self.slot, self.expert, self.places = row, slot, expert, places


class Dispatcher:
    """What the requests of one node share."""

    def __init__(
        self,
        node_id: str,
        model_id: str,
        loaded: LoadedExperts,
        peers: Peers,
        *,
        routes: Callable[[], RoutingTable | None],
        holdings: Callable[[], Holdings],
        origin_url: str,
        measured: Measured = lambda _name, _seconds: None,
    ) -> None:
        """`origin_url`: asked for everything before there is a routing table, and last afterwards. `measured`
        is told what each call of a single token took, by the name of the place."""
        self.node_id = node_id
        self.model_id = model_id
        self.loaded = loaded
        self.peers = peers
        self.measured = measured
        self._here = Place(node_id, None)
        self._origin = Place(ORIGIN, origin_url)
        self._routes = routes
        self._holdings = holdings

    def places(self, layer: int, expert: int) -> list[Place]:
        """Whom to ask, best first; those that failed a moment ago come after the others."""
        table = self._routes()
        found: list[Place] = []
        if table is not None:
            for target in table.where(self._holdings(), self.model_id, layer, expert):
                if isinstance(target, Local):
                    found.append(self._here)
                elif target.kind is TargetKind.ORIGIN:
                    found.append(self._origin)
                elif target.base_url is not None and target.node_id is not None:
                    found.append(Place(target.node_id, target.base_url.rstrip("/")))
        if self._here in found and (layer, expert) not in self.loaded:
            found.remove(self._here)
        if self._origin not in found:
            found.append(self._origin)
        if len(found) > 1:
            found.sort(key=lambda place: place.url is not None and self.peers.shunned(place.url))
        return found


class RequestCalls:
    """The expert calls of one request, and what they have taken."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.spent = Spent()

    async def outputs(self, layer: int, hidden: Float32, experts: Ids) -> Float32:
        """See `ExpertCalls`. Raises `ExpertUnavailable`."""
        begun = time.perf_counter()
        made = np.empty((*experts.shape, WIDTH), np.float32)
        waiting = [
            _Pair(row, slot, expert, self._dispatcher.places(layer, expert))
            for row, chosen in enumerate(experts.tolist())
            for slot, expert in enumerate(chosen)
        ]
        while waiting:
            waiting = await self._round(layer, hidden, waiting, made)
            self.spent.again += len(waiting)
        self.spent.seconds += time.perf_counter() - begun
        return made

    async def _round(self, layer: int, hidden: Float32, pairs: list[_Pair], made: Float32) -> list[_Pair]:
        """Ask each pair's next place; the pairs that came back empty-handed."""
        groups: dict[Place, list[_Pair]] = defaultdict(list)
        for pair in pairs:
            if not pair.places:
                raise ExpertUnavailable(f"expert {pair.expert} of layer {layer}: no known place answers")
            groups[pair.places.pop(0)].append(pair)
        own = next((place for place in groups if place.url is None), None)
        asked = [
            (group, asyncio.ensure_future(self._ask(place, place.url, layer, hidden, group)))
            for place, group in groups.items()
            if place.url is not None
        ]
        left: list[_Pair] = []
        try:
            if own is not None:
                if asked:
                    await asyncio.sleep(0)  # so that the calls are on their way while we compute
                left += self._compute(layer, hidden, groups[own], made)
            for group, asking in asked:
                try:
                    outputs, missing = await asking
                except CallFailed:
                    left += group
                    continue
                for index, pair in enumerate(group):
                    made[pair.row, pair.slot] = outputs[index]
                left += [group[index] for index in missing]
        finally:
            for _, asking in asked:
                asking.cancel()
        return left

    def _compute(self, layer: int, hidden: Float32, group: list[_Pair], made: Float32) -> list[_Pair]:
        left = []
        for pair in group:
            if (layer, pair.expert) not in self._dispatcher.loaded:
                left.append(pair)  # evicted since the places were looked up
                continue
            begun = time.perf_counter()
            made[pair.row, pair.slot] = self._dispatcher.loaded.compute(layer, pair.expert, hidden[pair.row])
            self._dispatcher.measured(self._dispatcher.node_id, time.perf_counter() - begun)
            self.spent.local += 1
        return left

    async def _ask(
        self, place: Place, url: str, layer: int, hidden: Float32, group: list[_Pair]
    ) -> tuple[Float32, list[int]]:
        rows = sorted({pair.row for pair in group})
        index = {row: i for i, row in enumerate(rows)}
        begun = time.perf_counter()
        outputs, missing = await self._dispatcher.peers.call(
            place.name,
            url,
            self._dispatcher.model_id,
            layer,
            hidden[rows] if len(rows) < len(hidden) else hidden,
            [index[pair.row] for pair in group],
            [pair.expert for pair in group],
            self._exchanged,
        )
        if len(hidden) == 1:
            self._dispatcher.measured(place.name, time.perf_counter() - begun)
        served = len(group) - len(missing)
        if place.name == ORIGIN:
            self.spent.origin += served
        else:
            self.spent.remote += served
        return outputs, missing

    def _exchanged(self, count: int) -> None:
        self.spent.bytes_exchanged += count
