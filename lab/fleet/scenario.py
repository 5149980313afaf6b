"""The fleet in a box: unequal nodes on an unequal network, a text domain each, and an origin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from lab.fleet.dispatch import ORIGIN
from lab.fleet.links import LinkSpec
from lab.tiny_moe.shape import EXPERT_BYTES
from lab.tiny_moe.texts import DOMAINS
from solvers.problem import Coupling

CLUSTER_ID = "fleet"
MODEL_ID = "tiny-moe"
COUPLING = Coupling.SLOWEST

_MEMORY = (104, 84, 60, 40)
"""Experts that nodes have room for, in turn: four together for one and a half copies of the model's 192."""

_DOMAINS = ("python", "novels", "man_de", "man_ja", *(d for d in DOMAINS if d in ("c", "man_en")))
_FARTHER = 0.5
"""Part of the delay between neighbours that every further step adds."""

ORIGIN_COPIES_AT_ONCE = 4


class FleetNode(msgspec.Struct, frozen=True):
    node_id: str
    domain: str
    experts: int

    @property
    def memory_bytes(self) -> int:
        return self.experts * EXPERT_BYTES


class Scenario(msgspec.Struct, frozen=True):
    """What is imposed: `delay_seconds` is the round trip between neighbours, `origin_delay_seconds` that to
    the origin; `bytes_per_second` every link's bandwidth, each way. `requests_per_second`: at each node."""

    nodes: tuple[FleetNode, ...]
    delay_seconds: float
    origin_delay_seconds: float
    bytes_per_second: float
    requests_per_second: float
    seed: int

    @property
    def domains(self) -> dict[str, str]:
        return {node.node_id: node.domain for node in self.nodes}

    @property
    def swapped(self) -> dict[str, str]:
        """The domains of two nodes after they have exchanged them: of the second and the last."""
        one, other = self.nodes[1 % len(self.nodes)], self.nodes[-1]
        return {one.node_id: other.domain, other.node_id: one.domain}

    def round_trip_seconds(self, one: int, other: int) -> float:
        """Imposed between nodes `one` and `other`."""
        return 0.0 if one == other else self.delay_seconds * (1 + _FARTHER * (abs(one - other) - 1))

    def links(self, node_id: str) -> dict[str, LinkSpec]:
        """The ways from a node, or from the origin, to everybody else; half of the round trip each."""
        ids = [node.node_id for node in self.nodes]
        far = LinkSpec(self.origin_delay_seconds / 2, self.bytes_per_second)
        if node_id == ORIGIN:
            return dict.fromkeys(ids, far)
        own = ids.index(node_id)
        near = {
            other: LinkSpec(self.round_trip_seconds(own, index) / 2, self.bytes_per_second)
            for index, other in enumerate(ids)
            if index != own
        }
        return {**near, ORIGIN: far}


def scenario(
    nodes: int,
    *,
    delay_seconds: float,
    origin_delay_seconds: float,
    bytes_per_second: float,
    requests_per_second: float,
    seed: int,
) -> Scenario:
    return Scenario(
        tuple(
            FleetNode(
                f"edge-{index + 1}" if nodes > 26 else f"edge-{chr(ord('a') + index)}",
                _DOMAINS[index % len(_DOMAINS)],
                _MEMORY[index % len(_MEMORY)],
            )
            for index in range(nodes)
        ),
        delay_seconds,
        origin_delay_seconds,
        bytes_per_second,
        requests_per_second,
        seed,
    )


def cluster_settings(scenario: Scenario, origin_calls_url: str, *, automatic: bool) -> dict[str, Any]:
    """`automatic`: the service places by itself, from telemetry of the last seconds."""
    return {
        "automatic": automatic,
        "algorithm": "certified",
        "coupling": COUPLING.value,
        "origin": {
            "base_url": origin_calls_url,
            "latency_seconds": scenario.origin_delay_seconds,
            "egress_bytes_per_second": scenario.bytes_per_second * ORIGIN_COPIES_AT_ONCE,
        },
        "default_latency_seconds": scenario.delay_seconds,
        "optimization_interval_seconds": 12.0,
        "time_limit_seconds": 1.0,
        "horizon_seconds": 30.0,
        "min_improvement": 0.1,
        "statistics_window_seconds": 40.0,
        "statistics_half_life_seconds": 8.0,
        "max_copies_per_node": 16,
    }


SERVICE_ENVIRONMENT = {
    "MOEPLACE_LOG_LEVEL": "warning",
    "MOEPLACE_HEARTBEAT_INTERVAL_SECONDS": "1",
    "MOEPLACE_TELEMETRY_INTERVAL_SECONDS": "1",
    "MOEPLACE_NODE_LEASE_SECONDS": "5",
    "MOEPLACE_WORKER_TICK_SECONDS": "0.25",
}
"""Fit for minutes rather than for production; an embedded server of its own, whatever the caller uses."""


def imposed_words(scenario: Scenario) -> list[str]:
    """What is emulated, and how."""
    last = len(scenario.nodes) - 1
    farthest = scenario.round_trip_seconds(0, last)
    return [
        f"Round trips between nodes take {1e3 * scenario.delay_seconds:.0f} ms between neighbours"
        + (f" and up to {1e3 * farthest:.0f} ms" if last > 1 else "")
        + f", to the origin {1e3 * scenario.origin_delay_seconds:.0f} ms; every link carries "
        f"{scenario.bytes_per_second / 1e6:g} MB/s each way.",
        "Both are imposed where bytes are sent: frames of expert calls are kept back for as long, and copies "
        "of experts are limited in bandwidth.",
    ]


def node_ids(nodes: Sequence[FleetNode]) -> list[str]:
    return [node.node_id for node in nodes]
