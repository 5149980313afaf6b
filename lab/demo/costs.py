"""What tokens cost under a routing table: the latency of each, and what was served at home."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lab.demo.scenario import LOCAL_SECONDS, MODEL_ID, ORIGIN_SECONDS
from lab.tiny_moe.shape import EXPERTS, LAYERS
from lab.tiny_moe.traces import UInt8
from moeplace_agent.holdings import Holdings
from moeplace_agent.routing import RoutingTable
from solvers.problem import Float64


class CallCost(NamedTuple):
    """latency_seconds: sum over the tokens, all layers; local of activations were served by the node."""

    latency_seconds: float
    local: int
    activations: int


def call_cost(routes: UInt8, table: RoutingTable | None, holdings: Holdings) -> CallCost:
    """`routes` uint8[..., layers, k]. In each layer a token waits for the slowest of its experts.

    Without a routing table every expert that the node does not hold is called at the origin.
    """
    tokens = routes.reshape(-1, *routes.shape[-2:])
    total, local_calls = 0.0, 0
    for layer in range(LAYERS):
        seconds, local = calls(layer, table, holdings)
        ids = tokens[:, layer]
        total += float(seconds[ids].max(axis=1).sum())
        local_calls += int(local[ids].sum())
    return CallCost(total, local_calls, int(tokens.size))


def calls(layer: int, table: RoutingTable | None, holdings: Holdings) -> tuple[Float64, UInt8]:
    """float64[experts] seconds of a call, and uint8[experts] 1 where the node serves itself."""
    if table is None:
        return np.full(EXPERTS, ORIGIN_SECONDS), np.zeros(EXPERTS, np.uint8)
    seconds, local = table.calls_of_layer(holdings, MODEL_ID, layer, EXPERTS, LOCAL_SECONDS)
    return seconds, local.astype(np.uint8)
