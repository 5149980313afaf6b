"""`moeplace metrics`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

_HEAD = """# Metrics

<!-- Made by `moeplace metrics --output docs/metrics.md` from app/observability/metrics.py and
agent/moeplace_agent/metrics.py. -->

The service answers `GET /metrics` for all of its processes together; `moeplace worker --metrics-port N`
serves those of a worker that runs apart; each agent and each origin serves its own. The text is Prometheus'
format, and OpenMetrics where `Accept` asks for it.

* **Cardinality.** No label names a node, an expert, a plan or a move. Figures of nodes are statistics over
  the nodes: `min`, `p50`, `p90`, `max`, each the value of one node. Every cluster adds the same number of
  series ({per_cluster}), however many nodes it has. Numbers per node and layer are at
  `GET /v1/clusters/{{cluster_id}}/analysis`.
* **Unknown values have no series**, for example the gap of a placement that an operator chose. Gauges of a
  cluster come from the worker that holds its lease, and disappear with it.
* **Several processes.** Counters and histograms are summed over all processes of the service, including
  those that have ended. For gauges the column `processes` says how values are combined: `livesum` is the sum
  over running processes, `livemostrecent` the value that a running process set last.
* **Exemplars.** In OpenMetrics, buckets of `moeplace_http_request_duration_seconds` carry the `trace_id` of
  their newest request in the process that answers the scrape. Other processes and other metrics have no
  exemplars, because shared values cannot hold them.
"""

_SECTIONS = (
    ("moeplace_http_", "The HTTP edge"),
    ("moeplace_waiters", "The HTTP edge"),
    ("moeplace_auth", "The HTTP edge"),
    ("moeplace_refused_", "The HTTP edge"),
    ("moeplace_telemetry_", "Telemetry"),
    ("moeplace_cluster", "Clusters"),
    ("moeplace_node_", "Over the nodes of a cluster"),
    ("moeplace_solver_", "Solving"),
    ("moeplace_placement", "Placements"),
    ("moeplace_mov", "Migrations"),
    ("moeplace_copies_", "Migrations"),
    ("moeplace_migration_", "Migrations"),
    ("moeplace_", "Workers and the build"),
)


class _Row(NamedTuple):
    name: str
    kind: str
    labels: str
    combined: str
    words: str


def metrics_command(
    output: Annotated[
        Path | None, typer.Option(help="Write it to this file instead of printing it.", dir_okay=False)
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(help="Exit with status 1 if this file is out of date.", dir_okay=False),
    ] = None,
) -> None:
    """List every metric of the service and of agents, with its labels, as Markdown."""
    text = page()
    if check is not None:
        if not check.exists() or check.read_text("utf-8") != text:
            typer.echo(f"{check}: not what the code gives; run moeplace metrics --output {check}", err=True)
            raise typer.Exit(1)
    elif output is not None:
        output.write_text(text, "utf-8")
    else:
        typer.echo(text, nl=False)


def page() -> str:
    """The whole of docs/metrics.md."""
    from app.observability.metrics import CLUSTER_GAUGES

    per_cluster = sum(max(1, len(gauge.values)) for gauge in CLUSTER_GAUGES)
    parts = [_HEAD.format(per_cluster=per_cluster)]
    sections: dict[str, list[_Row]] = {title: [] for _, title in _SECTIONS}
    for row in _service():
        sections[next(title for prefix, title in _SECTIONS if row.name.startswith(prefix))].append(row)
    sections["Agents and origins"] = list(_agent())
    for title, rows in sections.items():
        parts.append(f"## {title}\n\n" + _table(rows))
    return "\n".join(parts)


def _service() -> Iterator[_Row]:
    from prometheus_client import Counter, Gauge
    from prometheus_client.metrics import MetricWrapperBase

    from app.observability import metrics

    gauges = {gauge.gauge: gauge for gauge in metrics.CLUSTER_GAUGES}
    for defined in vars(metrics).values():
        found = defined.gauge if isinstance(defined, metrics.ClusterGauge) else defined
        if not isinstance(found, MetricWrapperBase):
            continue
        given = metrics.LABEL_VALUES.get(found, {}) if isinstance(found, Counter) else {}
        of_cluster = gauges.get(found) if isinstance(found, Gauge) else None
        if of_cluster is not None and of_cluster.label is not None:
            given = {of_cluster.label: of_cluster.values}
        yield _row(found, given)


def _agent() -> Iterator[_Row]:
    from prometheus_client.metrics import MetricWrapperBase

    from moeplace_agent.metrics import WATCHED, AgentMetrics

    for defined in vars(AgentMetrics()).values():
        if isinstance(defined, MetricWrapperBase):
            yield _row(defined, {})
    for name, words in WATCHED.items():
        yield _Row(name, "counter" if name.endswith("_total") else "gauge", "", "", words)
    yield _Row(
        "moeplace_agent_build_info", "gauge", "`version`, `python`", "", "1, with the version in its labels."
    )


def _row(defined: object, given: Mapping[str, Sequence[str]]) -> _Row:
    """prometheus_client has no public way to ask a metric for its labels."""
    kind = str(getattr(defined, "_type"))  # noqa: B009
    name = str(getattr(defined, "_name")) + ("_total" if kind == "counter" else "")  # noqa: B009
    labels = ", ".join(
        f"`{label}`" + (f" ({', '.join(given[label])})" if label in given else "")
        for label in getattr(defined, "_labelnames")  # noqa: B009
    )
    combined = str(getattr(defined, "_multiprocess_mode", "")) if kind == "gauge" else ""
    return _Row(name, kind, labels, combined, str(getattr(defined, "_documentation")))  # noqa: B009


def _table(rows: list[_Row]) -> str:
    lines = ["| metric | kind | labels | processes | what it says |", "|---|---|---|---|---|"]
    lines += [f"| `{r.name}` | {r.kind} | {r.labels} | {r.combined} | {r.words} |" for r in rows]
    return "\n".join(lines) + "\n"
