"""Every metric of the service, defined once; `docs/metrics.md` is made from here.

Several processes may share one set of values: the supervisor sets PROMETHEUS_MULTIPROC_DIR before it starts
them, so every gauge says how the values of its processes combine. Labels are bounded: a route's template,
never its path; a cluster's id (at most `max_clusters`), never that of an expert, a node, a plan or a move.
What differs from node to node is told as a statistic over the nodes.
"""

import asyncio
import math
import os
import platform
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import product
from types import MappingProxyType
from typing import Final

import numpy as np
from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

MULTIPROCESS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

MAX_CLUSTERS_SHOWN = 10_000
"""Clusters of which one process of several ever shows gauges: their common files only grow."""

FLUSH_SECONDS = 0.2

# A second series for each one, saying when it began: process start times tell the same.
disable_created_metrics()  # type: ignore[no-untyped-call]

STATISTICS: Final = MappingProxyType({"min": 0.0, "p50": 0.5, "p90": 0.9, "max": 1.0})
"""Of the values of all nodes: name, and the share of nodes that have no more."""

FAST: Final[Sequence[float]] = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
)  # fmt: skip
_SLOW: Sequence[float] = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_LONG: Sequence[float] = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)


class ClusterGauge:
    """A gauge with one series per cluster, or one per cluster and value of one more label, all given here.

    Set by whoever holds the cluster's lease. A value that is not known (None, or not finite) has no series.
    """

    def __init__(self, name: str, words: str, label: str | None = None, values: Sequence[str] = ()) -> None:
        labels = ["cluster"] if label is None else ["cluster", label]
        self.gauge = Gauge(name, words, labels, multiprocess_mode="livemostrecent")
        self.label, self.values = label, tuple(values)
        self._last: dict[tuple[str, ...], float] = {}
        CLUSTER_GAUGES.append(self)

    def set(self, cluster_id: str, value: float | None, of: str | None = None) -> None:
        """`of`: the value of the label besides the cluster's."""
        if (of is None) != (self.label is None) or (of is not None and of not in self.values):
            raise ValueError(f"{self.label}: is {of!r}, expected one of {', '.join(self.values) or 'none'}")
        if not _is_shown(cluster_id):
            return
        key = (cluster_id,) if of is None else (cluster_id, of)
        number = math.nan if value is None or not math.isfinite(value) else float(value)
        last = self._last.get(key)
        if last is None or (number != last and not (math.isnan(number) and math.isnan(last))):
            self.gauge.labels(*key).set(number)
            self._last[key] = number

    def set_statistics(self, cluster_id: str, values: Iterable[float]) -> None:
        """`STATISTICS` over the nodes' values; not known without any. Each is the value of some node."""
        ordered = sorted(values)
        for statistic, share in STATISTICS.items():
            rank = max(0, math.ceil(share * len(ordered)) - 1)
            self.set(cluster_id, ordered[rank] if ordered else None, statistic)

    def forget(self, cluster_id: str) -> None:
        for key in [(cluster_id,)] if self.label is None else [(cluster_id, value) for value in self.values]:
            if self._last.pop(key, None) is None:
                continue
            if MULTIPROCESS_DIRECTORY in os.environ:
                self.gauge.labels(*key).set(math.nan)  # nothing can be taken out of the common files
            else:
                self.gauge.remove(*key)


CLUSTER_GAUGES: list[ClusterGauge] = []
LABEL_VALUES: dict[Counter, Mapping[str, Sequence[str]]] = {}
"""Of counters whose labels have few values, known here."""


def _counter(name: str, words: str, **labels: Sequence[str]) -> Counter:
    """A counter that shows 0 for each value of its labels from the start: the first event is an increase."""
    counter = Counter(name, words, list(labels))
    for values in product(*labels.values()):
        counter.labels(*values)
    LABEL_VALUES[counter] = labels
    return counter


_shown: set[str] = set()


def _is_shown(cluster_id: str) -> bool:
    if cluster_id in _shown:
        return True
    if len(_shown) >= MAX_CLUSTERS_SHOWN:
        return False
    _shown.add(cluster_id)
    return True


def forget_cluster(cluster_id: str) -> None:
    """Its lease is lost, or it is gone: whatever its gauges say is no longer ours to say."""
    for gauge in CLUSTER_GAUGES:
        gauge.forget(cluster_id)
    if MULTIPROCESS_DIRECTORY not in os.environ:
        _shown.discard(cluster_id)


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
    buckets=FAST,
)
HTTP_LONG_POLL_DURATION = Histogram(
    "moeplace_http_long_poll_duration_seconds",
    "Duration of requests with `Prefer: wait`, including the wait.",
    ["route"],
    buckets=_SLOW,
)
HTTP_IN_FLIGHT = Gauge(
    "moeplace_http_requests_in_flight", "Requests being answered.", multiprocess_mode="livesum"
)
REFUSED = _counter(
    "moeplace_refused_total",
    "Requests and connections refused because of too many waiting requests, bytes, connections, "
    "waiters, commits (windows that wait for Redis) or unfolded windows (that wait for the worker).",
    reason=("requests", "bytes", "connections", "waiters", "commits", "unfolded"),
)
WAITERS = Gauge("moeplace_waiters", "Long polls being held.", multiprocess_mode="livesum")

# --- who may ask
AUTHENTICATION_FAILURES = _counter(
    "moeplace_authentication_failures_total",
    "Requests refused for their token, by reason: missing, malformed, unknown, expired.",
    reason=("missing", "malformed", "unknown", "expired"),
)
AUTHORIZATION_FAILURES = _counter(
    "moeplace_authorization_failures_total",
    "Requests refused because their valid token does not allow them, by role.",
    role=("OPERATOR", "READER", "NODE"),
)

# --- telemetry
TELEMETRY_WINDOWS = _counter(
    "moeplace_telemetry_windows_total",
    "Windows received, by outcome: accepted, duplicate or rejected.",
    outcome=("accepted", "duplicate", "rejected"),
)
TELEMETRY_BYTES = Counter("moeplace_telemetry_received_bytes_total", "Bytes of telemetry bodies, as sent.")
TELEMETRY_FOLDED = Counter("moeplace_telemetry_folded_windows_total", "Windows folded into the statistics.")
TELEMETRY_DISCARDED = Counter(
    "moeplace_telemetry_discarded_windows_total",
    "Accepted windows that were not folded because their node or model was deleted meanwhile.",
)
TELEMETRY_TOKENS = Counter("moeplace_telemetry_tokens_total", "Tokens of the windows folded.")
TELEMETRY_ACTIVATIONS = Counter(
    "moeplace_telemetry_activations_total", "Expert calls counted in the windows folded."
)
TELEMETRY_FOLD_LAG = ClusterGauge(
    "moeplace_telemetry_fold_lag_seconds",
    "Age of the oldest window of a cluster that is not folded yet; 0 when all are.",
)
TELEMETRY_STREAM_BYTES = ClusterGauge(
    "moeplace_telemetry_stream_bytes", "Bytes of a cluster's windows that are not folded yet."
)
TELEMETRY_NEWEST = ClusterGauge(
    "moeplace_telemetry_newest_window_timestamp_seconds",
    "End of the newest window folded. Telemetry is stale if this stops rising.",
)

# --- clusters
CLUSTER_COUNT = Gauge("moeplace_clusters", "Number of clusters.", multiprocess_mode="livemostrecent")
CLUSTER_CONDITION = ClusterGauge(
    "moeplace_cluster_condition",
    "1 where the condition of `placement/status` is true, else 0.",
    "condition",
    (
        "Available",
        "Converged",
        "Migrating",
        "TelemetryFresh",
        "Intact",
        "TelemetryPlausible",
        "ClocksAgree",
        "NodesDistinct",
    ),
)
CLUSTER_CONDITION_SINCE = ClusterGauge(
    "moeplace_cluster_condition_since_timestamp_seconds",
    "When the condition last changed.",
    "condition",
    CLUSTER_CONDITION.values,
)
CLUSTER_PAUSED = ClusterGauge("moeplace_cluster_paused", "1 while an operator has paused the cluster.")
CLUSTER_NODES = ClusterGauge(
    "moeplace_cluster_nodes",
    "Registered nodes: live (lease held), draining (live, to be emptied) or lost (lease run out).",
    "condition",
    ("live", "draining", "lost"),
)
CLUSTER_NODES_FAILED = ClusterGauge(
    "moeplace_cluster_nodes_failed", "Live nodes that report they could not apply their assignment."
)
CLUSTER_NODES_IMPLAUSIBLE = ClusterGauge(
    "moeplace_cluster_nodes_implausible",
    "Live nodes whose counts are doubted, because they disagree with the node's tokens or with what "
    "it showed before.",
)
CLUSTER_NODES_FLAPPING = ClusterGauge(
    "moeplace_cluster_nodes_flapping",
    "Nodes that were lost at least three times in the last 15 minutes.",
)
CLUSTER_NODES_BEHIND = ClusterGauge(
    "moeplace_cluster_nodes_behind",
    "Live nodes that do not yet hold what the placement in force gives them, or do not yet route by it.",
)
CLUSTER_EXPERTS = ClusterGauge(
    "moeplace_cluster_experts",
    "Experts of all models: held by a live node, or unheld.",
    "state",
    ("held", "unheld"),
)
CLUSTER_COPIES = ClusterGauge(
    "moeplace_cluster_copies",
    "Copies of experts at live nodes: held, missing (the placement wants them) or excess (it does not).",
    "state",
    ("held", "missing", "excess"),
)
CLUSTER_MEMORY = ClusterGauge(
    "moeplace_cluster_memory_bytes",
    "Memory for experts: capacity of the nodes that may hold any, used of it, required for min_replicas "
    "copies of every expert, and what the largest node contributes to the capacity.",
    "kind",
    ("capacity", "used", "required", "largest_node"),
)
CLUSTER_TOKENS = ClusterGauge(
    "moeplace_cluster_tokens_per_second", "Tokens per second of all nodes, over the statistics window."
)

# --- over the nodes of a cluster
NODE_FREE_MEMORY = ClusterGauge(
    "moeplace_node_free_memory_ratio",
    "Free share of a live node's memory for experts.",
    "statistic",
    tuple(STATISTICS),
)
NODE_TELEMETRY_AGE = ClusterGauge(
    "moeplace_node_telemetry_age_seconds",
    "Time since the end of a live node's newest window folded.",
    "statistic",
    tuple(STATISTICS),
)
NODE_LOCAL_HITS = ClusterGauge(
    "moeplace_node_local_hit_ratio",
    "Share of the expert calls of a live node's tokens that it serves itself.",
    "statistic",
    tuple(STATISTICS),
)
NODE_LATENCY = ClusterGauge(
    "moeplace_node_mean_latency_seconds",
    "Expected expert latency of a token at a live node, over all layers.",
    "statistic",
    tuple(STATISTICS),
)
NODE_SERVED = ClusterGauge(
    "moeplace_node_served_calls_per_second",
    "Expert calls that a live node serves, for itself and for others.",
    "statistic",
    tuple(STATISTICS),
)
NODE_TRANSITIONS = _counter(
    "moeplace_node_transitions_total",
    "Changes of registered nodes to live, or to lost when the lease ran out.",
    to=("live", "lost"),
)

CLOCK_AHEAD = Gauge(
    "moeplace_clock_ahead_seconds",
    "Seconds by which the clock of this host is ahead of the clock of Redis; negative: behind.",
    multiprocess_mode="livemostrecent",
)
CLOCK_ERROR = Gauge(
    "moeplace_clock_error_seconds",
    "Largest error of this process's estimate of the clock of Redis.",
    multiprocess_mode="livemostrecent",
)
NODE_CLOCK_AHEAD = ClusterGauge(
    "moeplace_node_clock_ahead_seconds",
    "Seconds by which a live node's clock is ahead of the clock of Redis, from its heartbeats; "
    "negative: behind.",
    "statistic",
    tuple(STATISTICS),
)
NODE_REGISTRATIONS = _counter(
    "moeplace_node_registrations_total",
    "Registrations of nodes, by outcome: new, unchanged, changed (the same instance), restarted (a "
    "new instance after the previous one ended), taken_over (from a live agent, on request), refused "
    "(another agent uses the node id) or limited (too many registrations).",
    outcome=("new", "unchanged", "changed", "restarted", "taken_over", "refused", "limited"),
)

# --- solving
SOLVER_RUNS = Counter(
    "moeplace_solver_runs_total",
    "Solver runs with a result, by algorithm and status.",
    ["algorithm", "status"],
)
SOLVER_FAILURES = _counter(
    "moeplace_solver_failures_total",
    "Solver runs without a result: failed, crashed, or ended after their deadline (overran).",
    how=("failed", "crashed", "overran"),
)
SOLVER_DURATION = Histogram(
    "moeplace_solver_duration_seconds", "Duration of solver runs.", ["algorithm"], buckets=_SLOW
)
SOLVER_DECISIONS = _counter(
    "moeplace_solver_decisions_total",
    "Decisions after solver runs: adopted, or kept (the placement in force stays).",
    decision=("adopted", "kept"),
)

# --- the placement in force
PLACEMENT_GENERATION = ClusterGauge("moeplace_placement_generation", "Generation of the placement in force.")
PLACEMENT_CREATED = ClusterGauge(
    "moeplace_placement_created_timestamp_seconds", "When the placement in force came into force."
)
PLACEMENT_OBJECTIVE = ClusterGauge(
    "moeplace_placement_objective_ratio",
    "Predicted at adoption: seconds of expert latency per second, including migration.",
)
PLACEMENT_GAP = ClusterGauge(
    "moeplace_placement_gap_ratio",
    "Certified gap of the placement in force, (objective - lower bound) / objective, from the newest solve.",
)
PLACEMENT_TRUE_GAP = ClusterGauge(
    "moeplace_placement_true_gap_upper_ratio",
    "Upper 95 % confidence bound on the gap of the placement in force for the true traffic, from "
    "batches of traffic after its convergence.",
)
PLACEMENT_MEAN_LATENCY = ClusterGauge(
    "moeplace_placement_mean_latency_seconds",
    "Predicted at adoption: expected expert latency of a token.",
)
PLACEMENT_PREDICTED_IMPROVEMENT = ClusterGauge(
    "moeplace_placement_predicted_improvement_ratio",
    "Relative latency that the placement in force was predicted to save against the one before.",
)
PLACEMENT_ACHIEVED_IMPROVEMENT = ClusterGauge(
    "moeplace_placement_achieved_improvement_ratio",
    "Relative latency that the placement in force saves against the one before, measured on traffic "
    "after its convergence.",
)
PLACEMENT_NOW_OBJECTIVE = ClusterGauge(
    "moeplace_placement_current_objective_ratio",
    "Seconds of expert latency per second of current traffic, for what nodes hold (held) and what "
    "they should hold (desired).",
    "placement",
    ("held", "desired"),
)
PLACEMENT_NOW_LATENCY = ClusterGauge(
    "moeplace_placement_current_mean_latency_seconds",
    "Expected expert latency of a token of the current traffic, for what nodes hold.",
)
PLACEMENT_SERVED = ClusterGauge(
    "moeplace_placement_served_ratio",
    "Share of expert calls served by the token's own node (local), by another (peer), by the origin, or "
    "by nobody.",
    "by",
    ("local", "peer", "origin", "nobody"),
)
PLACEMENT_BALANCEDNESS = ClusterGauge(
    "moeplace_placement_balancedness_ratio",
    "Mean over maximum, over live nodes, of the expert calls each serves in all layers together.",
)
PLACEMENTS = _counter(
    "moeplace_placements_total",
    "Placements that came into force, by origin: solver, operator or rollback.",
    made_by=("solver", "operator", "rollback"),
)

# --- migrations
_OUTCOMES = ("succeeded", "failed", "cancelled")
COPIES_AVOIDED = Counter(
    "moeplace_copies_avoided_total",
    "Copies that EPLB would have required beyond those of the adopted placements.",
)
MOVES = _counter(
    "moeplace_moves_total",
    "Moves that ended, by kind (copy, drop) and outcome (succeeded, failed, cancelled). Failed "
    "attempts count even if they are retried.",
    kind=("copy", "drop"),
    outcome=_OUTCOMES,
)
MOVED_BYTES = _counter(
    "moeplace_moved_bytes_total",
    "Bytes that nodes received for copies, by outcome of the copy (succeeded, failed, cancelled).",
    outcome=_OUTCOMES,
)
MIGRATION_PLANS = _counter(
    "moeplace_migration_plans_total",
    "Plans that ended, by outcome: succeeded, failed, cancelled or superseded.",
    outcome=(*_OUTCOMES, "superseded"),
)
MIGRATION_DURATION = Histogram(
    "moeplace_migration_duration_seconds",
    "Duration of plans that succeeded: planned and actual.",
    ["of"],
    buckets=_LONG,
)
MIGRATION_MOVES = ClusterGauge(
    "moeplace_migration_moves",
    "Moves of the active plan: pending, released to nodes, succeeded, failed (to be retried).",
    "state",
    ("pending", "released", "succeeded", "failed"),
)
MIGRATION_BYTES = ClusterGauge(
    "moeplace_migration_bytes",
    "Bytes of the active plan: total to be copied, and done.",
    "kind",
    ("total", "done"),
)
MIGRATION_STALLED = ClusterGauge(
    "moeplace_migration_stalled_seconds",
    "Time without progress of any move although nodes are not yet at the placement in force; 0 if "
    "nothing is to be done, and while an operator has paused the plan.",
)

# --- who works
LEASE_CHANGES = _counter(
    "moeplace_lease_changes_total",
    "Leases of clusters acquired, lost or released.",
    event=("acquired", "lost", "released"),
)
LEASE_TAKEOVERS = Counter(
    "moeplace_lease_takeovers_total", "Leases acquired of clusters that another worker had held before."
)
WORKERS = Gauge("moeplace_workers", "Workers that live.", multiprocess_mode="livesum")
WORKER_CLUSTERS = Gauge(
    "moeplace_worker_clusters", "Clusters whose lease a live worker holds.", multiprocess_mode="livesum"
)
WORKER_TICK = Histogram(
    "moeplace_worker_tick_duration_seconds", "Duration of a worker's tick over one cluster.", buckets=_SLOW
)
WORKER_TICK_TIME = ClusterGauge(
    "moeplace_worker_tick_timestamp_seconds", "When the worker last finished a tick over the cluster."
)
WORKER_ABANDONED = Counter(
    "moeplace_worker_abandoned_ticks_total",
    "Ticks without a result: Redis did not answer, or other processes kept changing the same keys.",
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
        self._sources: list[Callable[[], None]] = []
        self._flush: asyncio.TimerHandle | None = None

    def before_flush(self, source: Callable[[], None]) -> None:
        """Have `source` called to count what it has noted in a form of its own."""
        self._sources.append(source)

    def touch(self) -> None:
        """There is something to flush."""
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def count(self, counter: Counter | Gauge, number: float = 1.0) -> None:
        self._counted[counter] += number
        self.touch()

    def flush(self) -> None:
        for source in self._sources:
            source()
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        for counter, number in self._counted.items():
            counter.inc(number)
        self._counted.clear()


def observe_all(histogram: Histogram, values: Sequence[float]) -> None:
    """As `observe` for each, which raises two shared values every time."""
    buckets = np.searchsorted(histogram._upper_bounds, values, side="left")
    for index, number in enumerate(np.bincount(buckets).tolist()):
        if number:
            histogram._buckets[index].inc(number)
    histogram._sum.inc(sum(values))


TALLY = Tally()
"""Of this process."""


def announce_build() -> None:
    BUILD_INFO.labels(version("moeplace"), platform.python_version()).set(1)
