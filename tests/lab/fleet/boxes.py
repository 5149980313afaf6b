"""Nodes of a fleet within one process: their servers are real, on the loopback interface."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

import numpy as np

from lab.fleet.dispatch import Dispatcher
from lab.fleet.experts import LoadedExperts
from lab.fleet.links import LinkSpec
from lab.fleet.peers import Peers
from lab.fleet.server import serving_calls
from lab.tiny_moe.shape import EXPERTS, LAYERS
from lab.tiny_moe.weights import expert, tensors
from moeplace_agent.holdings import ExpertKey, Holdings
from moeplace_agent.messages import Assignment, LayerRoutes, Metadata, RouteTarget, TargetKind
from moeplace_agent.routing import RoutingTable

MODEL = "tiny-moe"
NEAR = LinkSpec(0.002, 1e8)

Address = tuple[int, int]
ALL: tuple[Address, ...] = tuple((layer, number) for layer in range(LAYERS) for number in range(EXPERTS))


def loaded(addresses: Iterable[Address]) -> LoadedExperts:
    experts = LoadedExperts(MODEL)
    named = tensors()
    for layer, number in addresses:
        experts.load(layer, number, expert(named, layer, number))
    return experts


def holdings_of(addresses: Iterable[Address]) -> Holdings:
    """As an agent has them that holds these experts."""
    holdings = Holdings({"gpu-0": 1 << 30})
    for layer, number in addresses:
        key = ExpertKey(MODEL, layer, number)
        holdings.reserve(key, 1, None)
        holdings.complete(key)
    return holdings


def table(urls: Mapping[str, str], routes: Mapping[Address, Sequence[str]]) -> RoutingTable:
    """`urls`: node_id -> where it is called; `routes`: expert -> node_ids, best first, or "origin"."""
    names = list(urls)
    targets = [
        RouteTarget(
            TargetKind.ORIGIN if name == "origin" else TargetKind.NODE,
            None if name == "origin" else name,
            urls[name],
            0.01,
        )
        for name in names
    ]
    layers = []
    for layer in range(LAYERS):
        own = {number: ids for (la, number), ids in routes.items() if la == layer}
        layers.append(
            LayerRoutes(MODEL, layer, list(own), [[names.index(n) for n in ids] for ids in own.values()])
        )
    return RoutingTable(Assignment(Metadata("uid", 1, "digest"), "here", [], targets, layers))


class Box:
    """The node `here`, which routes by `table` and holds `own`."""

    def __init__(self, own: Iterable[Address], origin_url: str, *, timeout_seconds: float = 5.0) -> None:
        addresses = list(own)
        self.experts = loaded(addresses)
        self.holdings = holdings_of(addresses)
        self.table: RoutingTable | None = None
        self.peers = Peers("here", {}, timeout_seconds=timeout_seconds)
        self.dispatcher = Dispatcher(
            "here",
            MODEL,
            self.experts,
            self.peers,
            routes=lambda: self.table,
            holdings=lambda: self.holdings,
            origin_url=origin_url,
        )


@contextlib.asynccontextmanager
async def served(experts: LoadedExperts) -> AsyncIterator[str]:
    """Another node's server; its URL."""
    async with serving_calls(experts, {"here": NEAR}) as url:
        yield url


def random_placement(random: np.random.Generator, nodes: int, share: float) -> list[list[Address]]:
    """Each expert at each node with probability `share`."""
    return [[address for address in ALL if random.random() < share] for _ in range(nodes)]
