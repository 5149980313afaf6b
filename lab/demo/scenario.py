"""The fleet of the demo: four unequal nodes on an unequal network, one text domain each, and an origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from lab.tiny_moe.shape import EXPERT_BYTES, EXPERTS, LAYERS, TOP_K
from solvers.problem import Coupling, Float64, Int64

MODEL_ID = "tiny-moe"
CLUSTER_ID = "demo"
COUPLING = Coupling.SLOWEST
DEVICE_ID = "gpu-0"


class DemoNode(msgspec.Struct, frozen=True):
    """A node, and what reaches it: bandwidths in bytes per second."""

    node_id: str
    domain: str
    experts: int
    ingress_bytes_per_second: float
    egress_bytes_per_second: float

    @property
    def memory_bytes(self) -> int:
        return self.experts * EXPERT_BYTES


NODES = (
    DemoNode("edge-a", "python", 104, 6e6, 6e6),
    DemoNode("edge-b", "novels", 84, 5e6, 5e6),
    DemoNode("edge-c", "man_de", 60, 4e6, 4e6),
    DemoNode("edge-d", "man_ja", 40, 4e6, 4e6),
)
"""Together 288 experts: one and a half copies of the model's 192."""

SWAPPED = ("edge-b", "edge-d")
"""The nodes that exchange their domains halfway."""

LOCAL_SECONDS = 0.2e-3
PEER_SECONDS = (
    (LOCAL_SECONDS, 3e-3, 6e-3, 9e-3),
    (3e-3, LOCAL_SECONDS, 4e-3, 7e-3),
    (6e-3, 4e-3, LOCAL_SECONDS, 5e-3),
    (9e-3, 7e-3, 5e-3, LOCAL_SECONDS),
)
ORIGIN_SECONDS = 30e-3
ORIGIN_EGRESS_BYTES_PER_SECOND = 24e6
ORIGIN_COPIES_AT_ONCE = 4
"""The origin serves each of them at this part of its bandwidth."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often things happen, fit for a demo of a minute rather than for production."""

    tokens_per_second: int = 4096
    slice_seconds: float = 0.25
    telemetry_seconds: float = 1.0
    heartbeat_seconds: float = 1.0
    optimization_seconds: float = 3.0
    statistics_half_life_seconds: float = 2.0
    statistics_window_seconds: float = 9.0
    quiet_seconds: float = 8.0
    """Converged and without a newer generation for this long: the fleet has settled."""


PACE = Pace()


def latency_seconds() -> Float64:
    """float64[4, 4] in the order of `NODES`."""
    return np.array(PEER_SECONDS)


def capacity_bytes() -> Int64:
    return np.array([node.memory_bytes for node in NODES], np.int64)


def cluster_settings(pace: Pace) -> dict[str, Any]:
    return {
        "coupling": COUPLING.value,
        "origin": {
            "latency_seconds": ORIGIN_SECONDS,
            "egress_bytes_per_second": ORIGIN_EGRESS_BYTES_PER_SECOND,
        },
        "optimization_interval_seconds": pace.optimization_seconds,
        "time_limit_seconds": 2.0,
        "horizon_seconds": 60.0,
        "min_improvement": 0.03,
        "statistics_window_seconds": pace.statistics_window_seconds,
        "statistics_half_life_seconds": pace.statistics_half_life_seconds,
        "max_copies_per_node": 16,
    }


def model_spec() -> dict[str, Any]:
    return {
        "blocks": [
            {"layer": layer, "experts": EXPERTS, "expert_bytes": EXPERT_BYTES, "top_k": TOP_K}
            for layer in range(LAYERS)
        ]
    }


def service_environment(pace: Pace) -> dict[str, str]:
    """Settings of the service for this demo; an embedded server of its own, whatever the caller uses."""
    return {
        "MOEPLACE_LOG_LEVEL": "warning",
        "MOEPLACE_HEARTBEAT_INTERVAL_SECONDS": str(pace.heartbeat_seconds),
        "MOEPLACE_TELEMETRY_INTERVAL_SECONDS": str(pace.telemetry_seconds),
        "MOEPLACE_WORKER_TICK_SECONDS": "0.25",
    }
