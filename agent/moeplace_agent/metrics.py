"""Every metric of an agent or an origin, defined once; `docs/metrics.md` is made from here.

No label names a node or an expert: their numbers are unbounded.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from types import MappingProxyType
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from moeplace_agent.experts.fetching import ORIGIN

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_SECONDS: Sequence[float] = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


WATCHED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "moeplace_agent_held_experts": "Experts that the node holds.",
        "moeplace_agent_used_bytes": "Memory of experts that are held or arriving.",
        "moeplace_agent_capacity_bytes": "Memory that experts may use.",
        "moeplace_agent_sends_in_progress": "Experts being sent now.",
        "moeplace_agent_windows_waiting": "Telemetry windows not sent yet.",
        "moeplace_agent_windows_dropped_total": "Telemetry windows dropped, to make room for newer "
        "ones or because the service refused them.",
        "moeplace_agent_registrations_total": "Registrations of the node.",
        "moeplace_agent_heartbeats_total": "Heartbeats answered.",
        "moeplace_agent_generation": "Placement generation last seen; 0 before the first.",
        "moeplace_agent_assignment_failed": "1 while the newest assignment cannot be applied, else 0.",
    }
)
"""What is asked for at every scrape: a counter where its name ends so, else a gauge."""


class _Watched(Collector):
    def __init__(self, name: str, words: str, value: Callable[[], float]) -> None:
        self._name, self._words, self._value = name, words, value

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily if self._name.endswith("_total") else GaugeMetricFamily
        yield family(self._name, self._words, value=self._value())


class SendingMetrics:
    """Of whoever serves experts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.sent_bytes = Counter(
            "moeplace_agent_sent_bytes_total", "Bytes of experts sent to others.", registry=registry
        )
        self.sends_refused = Counter(
            "moeplace_agent_sends_refused_total",
            "Requests answered with 503 because the limit of experts sent at once was reached.",
            registry=registry,
        )
        Gauge(
            "moeplace_agent_build_info", "1, with the version in its labels.", ["version", "python"],
            registry=registry,
        ).labels(version("moeplace-agent"), platform.python_version()).set(1)  # fmt: skip


class AgentMetrics(SendingMetrics):
    """Of a node. In a registry of its own, so that several nodes may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        super().__init__(self.registry)
        self.fetched_bytes = self._counter(
            "fetched_bytes_total", "Bytes of experts received, by kind of source: origin or peer.", ["source"]
        )
        self.moves = self._counter(
            "moves_total", "Moves carried out, by kind (copy, drop) and outcome.", ["kind", "outcome"]
        )
        self.fetch_seconds = Histogram(
            "moeplace_agent_fetch_duration_seconds",
            "Duration of successful copies: fetch, verify and load.",
            buckets=_SECONDS,
            registry=self.registry,
        )

    def _counter(self, name: str, words: str, labels: Sequence[str]) -> Counter:
        return Counter(f"moeplace_agent_{name}", words, labels, registry=self.registry)

    def watch(self, values: Mapping[str, Callable[[], float]]) -> None:
        """Where to ask for each of `WATCHED`, and for nothing else."""
        for name, words in WATCHED.items():
            self.registry.register(_Watched(name, words, values[name.removeprefix("moeplace_agent_")]))

    def fetched(self, source: str, count: int) -> None:
        self.fetched_bytes.labels("origin" if source == ORIGIN else "peer").inc(count)

    def exposition(self) -> bytes:
        return generate_latest(self.registry)
