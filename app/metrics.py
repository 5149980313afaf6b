"""Every metric of the service, defined once.

Several processes may share one set of values: the supervisor sets PROMETHEUS_MULTIPROC_DIR before it starts
them, so every gauge says how the values of its processes combine. Labels are bounded: a route's template,
never its path; a cluster's id (at most `max_clusters`), never that of an expert, a node, a plan or a move.
"""

import asyncio
import os
import platform
from bisect import bisect_left
from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

MULTIPROCESS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
FLUSH_SECONDS = 0.2
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

# A second series for each one, saying when it began: process start times tell the same.
disable_created_metrics()  # type: ignore[no-untyped-call]

_FAST: Sequence[float] = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SLOW: Sequence[float] = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

# --- the HTTP edge
HTTP_REQUESTS = Counter(
    "moeplace_http_requests_total",
    "Requests answered, by route template and class of status (2xx).",
    ["method", "route", "status"],
)
HTTP_DURATION = Histogram(
    "moeplace_http_request_duration_seconds",
    "Time from a request's head to the end of its answer; long polls not included.",
    ["method", "route"],
    buckets=_FAST,
)
HTTP_LONG_POLL_DURATION = Histogram(
    "moeplace_http_long_poll_duration_seconds",
    "Time a request with `Prefer: wait` took, waiting included.",
    ["route"],
    buckets=_SLOW,
)
HTTP_IN_FLIGHT = Gauge(
    "moeplace_http_requests_in_flight", "Requests being answered.", multiprocess_mode="livesum"
)
REFUSED = Counter(
    "moeplace_refused_total",
    "Requests and connections refused because of what is waiting already, by what there is too much of: "
    "requests, bytes, connections, waiters, commits (windows that wait for Redis) or unfolded (windows that "
    "wait for the worker).",
    ["reason"],
)
WAITERS = Gauge("moeplace_waiters", "Long polls being held.", multiprocess_mode="livesum")

# --- who may ask
AUTHENTICATION_FAILURES = Counter(
    "moeplace_authentication_failures_total",
    "Requests refused for their token, by reason: missing, malformed, unknown, expired.",
    ["reason"],
)
AUTHORIZATION_FAILURES = Counter(
    "moeplace_authorization_failures_total",
    "Requests refused since their token, which is valid, is not for them, by role.",
    ["role"],
)

# --- telemetry
TELEMETRY_WINDOWS = Counter(
    "moeplace_telemetry_windows_total",
    "Windows received, by outcome: accepted, duplicate or rejected.",
    ["outcome"],
)
TELEMETRY_BYTES = Counter("moeplace_telemetry_received_bytes_total", "Bytes of telemetry bodies, as sent.")
TELEMETRY_FOLDED = Counter("moeplace_telemetry_folded_windows_total", "Windows folded into the statistics.")
TELEMETRY_FOLD_LAG = Gauge(
    "moeplace_telemetry_fold_lag_seconds",
    "Age of the oldest window of a cluster that is not folded yet; 0 when all are.",
    ["cluster"],
    multiprocess_mode="livemostrecent",
)
TELEMETRY_STREAM_BYTES = Gauge(
    "moeplace_telemetry_stream_bytes",
    "Bytes of a cluster's windows that are not folded yet.",
    ["cluster"],
    multiprocess_mode="livemostrecent",
)

# --- solving
SOLVER_RUNS = Counter(
    "moeplace_solver_runs_total", "Solver runs, by algorithm and status.", ["algorithm", "status"]
)
SOLVER_DURATION = Histogram(
    "moeplace_solver_duration_seconds", "Duration of solver runs.", ["algorithm"], buckets=_SLOW
)
PLACEMENT_GENERATION = Gauge(
    "moeplace_placement_generation",
    "Generation of the placement in force.",
    ["cluster"],
    multiprocess_mode="livemostrecent",
)
PLACEMENT_OBJECTIVE = Gauge(
    "moeplace_placement_objective_ratio",
    "Objective of the placement in force: seconds of expert latency incurred per second.",
    ["cluster"],
    multiprocess_mode="livemostrecent",
)
PLACEMENT_GAP = Gauge(
    "moeplace_placement_gap_ratio",
    "Proven distance of the placement in force from the optimum, (objective - bound) / objective.",
    ["cluster"],
    multiprocess_mode="livemostrecent",
)
PLACEMENT_MEAN_LATENCY = Gauge(
    "moeplace_placement_mean_latency_seconds",
    "Expected expert latency of a token under the placement in force.",
    ["cluster"],
    multiprocess_mode="livemostrecent",
)

PLACEMENT_PREDICTED_IMPROVEMENT = Gauge(
    "moeplace_placement_predicted_improvement_ratio",
    "Latency that the placement in force was expected to save against the one before; NaN: not known.",
    ["cluster"],
    multiprocess_mode="livemostrecent",
)
PLACEMENT_ACHIEVED_IMPROVEMENT = Gauge(
    "moeplace_placement_achieved_improvement_ratio",
    "Latency that the placement in force saves against the one before, on traffic from after its "
    "convergence; NaN: not measured yet.",
    ["cluster"],
    multiprocess_mode="livemostrecent",
)

# --- migrations
COPIES_AVOIDED = Counter(
    "moeplace_copies_avoided_total",
    "Copies that rebalances as EPLB does them would have asked for, beyond those of the placements adopted.",
)
MOVES = Counter(
    "moeplace_moves_total",
    "Moves that ended, by kind (copy, drop) and outcome (succeeded, failed, cancelled).",
    ["kind", "outcome"],
)
MOVED_BYTES = Counter("moeplace_moved_bytes_total", "Bytes of experts that nodes report as copied.")

# --- who works
LEASE_CHANGES = Counter(
    "moeplace_lease_changes_total", "Leases of clusters acquired, lost or released.", ["event"]
)
WORKER_CLUSTERS = Gauge(
    "moeplace_worker_clusters", "Clusters whose lease a live worker holds.", multiprocess_mode="livesum"
)
WORKER_TICK = Histogram(
    "moeplace_worker_tick_duration_seconds", "Duration of a worker's tick over one cluster.", buckets=_SLOW
)
BUILD_INFO = Gauge(
    "moeplace_build_info",
    "1, with the version in its labels.",
    ["version", "python"],
    multiprocess_mode="max",
)


class Tally:
    """What the busiest code counts, in numbers of its own that reach the values above a few times a second
    and before they are shown: to raise a value that processes share costs more than what is counted."""

    def __init__(self) -> None:
        self._counted: defaultdict[Counter | Gauge, float] = defaultdict(float)
        self._observed: defaultdict[Histogram, list[float]] = defaultdict(list)
        self._flush: asyncio.TimerHandle | None = None

    def count(self, counter: Counter | Gauge, number: float = 1.0) -> None:
        self._counted[counter] += number
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def observe(self, histogram: Histogram, value: float) -> None:
        self._observed[histogram].append(value)
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        for counter, number in self._counted.items():
            counter.inc(number)
        self._counted.clear()
        for histogram, values in self._observed.items():
            _observe_all(histogram, values)
        self._observed.clear()


def _observe_all(histogram: Histogram, values: Sequence[float]) -> None:
    """As `observe` for each, which raises two shared values every time."""
    buckets = Counts(bisect_left(histogram._upper_bounds, value) for value in values)
    for index, number in buckets.items():
        histogram._buckets[index].inc(number)
    histogram._sum.inc(sum(values))


TALLY = Tally()
"""Of this process."""


def announce_build() -> None:
    BUILD_INFO.labels(version("moeplace"), platform.python_version()).set(1)


def exposition() -> bytes:
    """All values in Prometheus' text format: of every process of this service, or of this one alone."""
    TALLY.flush()
    if MULTIPROCESS_DIRECTORY not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def forget_process(directory: str, pid: int) -> None:
    """Drop the gauges of a process that ended from the values shared in `directory`; its counters stay."""
    mark_process_dead(pid, directory)  # type: ignore[no-untyped-call]
