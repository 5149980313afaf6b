"""What metrics show, what they forget, and how many series they are."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from redis.asyncio import Redis

from app.analysis.schemas import Analysis, LayerAnalysis, NodeAnalysis
from app.cli.metrics import page
from app.observability import metrics
from app.observability.exposition import Ended, Exemplars, exposition
from app.observability.metrics import ClusterGauge, forget_cluster
from app.publish.publication import show_in_metrics
from app.report.cluster_metrics import ClusterMetrics
from app.report.conditions import Telemetry, placement_status
from app.solve.problems import Problems
from app.statistics.problem import build_problem
from app.statistics.statistics import Statistics
from app.storage.keys import ClusterKeys
from app.storage.lease import Lease
from tests.app.solve.test_triggers import EVIDENCE, node, observed

NOTHING = Statistics({}, None)
DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"


Series = tuple[str, tuple[tuple[str, str], ...]]
"""Name, and labels with their values."""


def series(**labels: str) -> dict[Series, float]:
    """Every series that /metrics of this process shows now, of ours, with these labels."""
    text, _ = exposition()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name.startswith("moeplace_") and labels.items() <= sample.labels.items()
    }


def openmetrics_samples(text: str) -> list[Sample]:
    families = openmetrics.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    return [sample for family in families for sample in family.samples]


@pytest.fixture
def gauge() -> Iterator[ClusterGauge]:
    yield metrics.CLUSTER_COPIES
    for cluster_id in ("known", "other"):
        forget_cluster(cluster_id)


def test_the_page_is_what_the_code_gives() -> None:
    """docs/metrics.md lists every metric as it is defined: nobody edits it by hand."""
    assert DOCUMENT.read_text("utf-8") == page(), "run moeplace metrics --output docs/metrics.md"


def test_the_command_checks_the_page(tmp_path: Path) -> None:
    """`moeplace metrics --check` fails for a page that the code does not give, and says what to run."""
    stale = tmp_path / "metrics.md"
    stale.write_text("old")
    command = [sys.executable, "-m", "app", "metrics", "--check", str(stale)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, "run moeplace metrics --output" in ended.stderr) == (1, True)


def test_what_is_not_known_has_no_series(gauge: ClusterGauge) -> None:
    """None, NaN and infinities make the series disappear, and a value brings it back."""
    for value in (3.0, None, 4.0, math.inf, 5.0, math.nan):
        gauge.set("known", value, "held")
        shown = series(cluster="known")
        if value is None or not math.isfinite(value):
            assert shown == {}
        else:
            assert list(shown.values()) == [value]


def test_labels_take_the_values_they_were_given_alone(gauge: ClusterGauge) -> None:
    """A value of a label that is not among those declared is refused, so that no series can come of it."""
    with pytest.raises(ValueError, match="expected one of held, missing, excess"):
        gauge.set("known", 1.0, "n1")
    with pytest.raises(ValueError, match="expected one of none"):
        metrics.CLUSTER_PAUSED.set("known", 1.0, "n1")


def test_a_cluster_is_forgotten_alone(gauge: ClusterGauge) -> None:
    """Giving a lease up takes the cluster's gauges away, and no other's."""
    for cluster_id in ("known", "other"):
        gauge.set(cluster_id, 1.0, "held")
        metrics.CLUSTER_PAUSED.set(cluster_id, 0.0)
    forget_cluster("known")
    assert series(cluster="known") == {}
    assert len(series(cluster="other")) == 2
    gauge.set("known", 1.0, "held")
    assert len(series(cluster="known")) == 1


def test_shares_of_calls_weigh_nodes_by_their_calls() -> None:
    """A node without calls does not count, and the shares of all who serve add up to one."""
    analysis = _analysis(["a", "b"], datetime.now(UTC))
    busy, idle = analysis.nodes
    quiet = busy.layers[0].model_copy(update={"activations_per_second": 0.0})
    nothing = dict.fromkeys(("local_hit_ratio", "peer_ratio", "origin_ratio", "unserved_ratio"))
    analysis.nodes[1] = idle.model_copy(update={"layers": [quiet], **nothing})
    ClusterMetrics("known").show_analysis(analysis)
    found = {
        dict(labels)["by"]: v
        for (name, labels), v in series(cluster="known").items()
        if "served_ratio" in name
    }
    forget_cluster("known")
    assert found == pytest.approx({"local": 0.5, "peer": 0.3, "origin": 0.2, "nobody": 0.0})


def test_statistics_are_values_of_nodes() -> None:
    """min, p50, p90 and max of ten nodes are the first, fifth, ninth and last; of none they are not known."""
    gauge = metrics.NODE_SERVED
    gauge.set_statistics("known", range(10, 0, -1))
    assert [value for _, value in sorted(series(cluster="known").items())] == [10, 1, 5, 9]
    gauge.set_statistics("known", [7.0])
    assert set(series(cluster="known").values()) == {7.0}
    gauge.set_statistics("known", [])
    assert series(cluster="known") == {}
    forget_cluster("known")


def test_several_processes_show_the_newest_value_and_forget(tmp_path: Path) -> None:
    """With the values of several processes in common files, what a process does not know any more is not
    shown, although the files still have room for it; counters of both are summed."""
    program = (
        "import sys\n"
        "from app.observability import metrics\n"
        "metrics.CLUSTER_COPIES.set('kept', 1, 'held')\n"
        "metrics.CLUSTER_COPIES.set('gone', 1, 'held')\n"
        "metrics.LEASE_CHANGES.labels('lost').inc(2)\n"
        "metrics.forget_cluster('gone')\n"
        "from app.observability.exposition import exposition\n"
        "sys.stdout.write(exposition(sys.argv[1])[0].decode())\n"
    )
    environment = {**os.environ, metrics.MULTIPROCESS_DIRECTORY: str(tmp_path)}
    command = [sys.executable, "-c", program, "application/openmetrics-text"]
    shown = [
        subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        for _ in range(2)
    ][-1]
    found = openmetrics_samples(shown.stdout)
    assert [s.labels["cluster"] for s in found if s.name == "moeplace_cluster_copies"] == ["kept"]
    assert [s.value for s in found if s.labels == {"event": "lost"}] == [4]


def test_counters_of_few_labels_begin_at_zero() -> None:
    """The first failure is an increase of a series that was there: alerts see it."""
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            "from app.observability.exposition import exposition; print(exposition()[0].decode())",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert 'moeplace_solver_failures_total{how="crashed"} 0.0' in ended.stdout
    assert 'moeplace_moves_total{kind="copy",outcome="failed"} 0.0' in ended.stdout


def test_exemplars_name_the_newest_request_of_a_bucket() -> None:
    """As OpenMetrics each bucket of the durations carries the trace of the newest request that fell into it,
    its duration within the bucket's bounds; Prometheus' older format carries none and stays as it was."""
    from app.observability.exposition import Ended, exemplars

    ended = [(0.003, "a" * 32), (0.004, "b" * 32), (100.0, "c" * 32)]
    metrics.observe_all(metrics.HTTP_DURATION.labels("GET", "/exemplary"), [seconds for seconds, _ in ended])
    exemplars.note("GET", "/exemplary", [Ended(seconds, trace, 1.5) for seconds, trace in ended])
    text, content_type = exposition("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    found = {
        sample.labels["le"]: sample.exemplar
        for sample in openmetrics_samples(text.decode())
        if sample.labels.get("route") == "/exemplary" and sample.exemplar is not None
    }
    assert {bound: e.labels["trace_id"][0] for bound, e in found.items()} == {"0.005": "b", "+Inf": "c"}
    assert found["0.005"].value == 0.004
    plain, content_type = exposition("text/plain")
    assert content_type.startswith("text/plain; version=0.0.4")
    assert b"trace_id" not in plain


def test_an_exemplar_lies_in_the_bucket_of_its_duration() -> None:
    """A duration equal to a bound belongs to that bound's bucket, as in the histogram itself."""
    noted = Exemplars()
    noted.note("GET", "/", [Ended(metrics.FAST[3], "t", 0.0)])
    assert list(noted._newest) == [("GET", "/", "0.005")]


def _analysis(node_ids: list[str], now: datetime) -> Analysis:
    """Each node served by itself, its peers and the origin, in one layer."""
    layer = LayerAnalysis(
        model_id="m", layer=0, activations_per_second=2.0, local_hit_ratio=0.5, peer_ratio=0.3,
        origin_ratio=0.2, unserved_ratio=0.0, latency_seconds=0.1, held_count=1, top_experts=[],
    )  # fmt: skip
    nodes = [
        NodeAnalysis(
            node_id=node_id,
            live=True,
            capacity_bytes=10,
            used_bytes=5,
            tokens_per_second=1.0,
            local_hit_ratio=0.5,
            peer_ratio=0.3,
            origin_ratio=0.2,
            unserved_ratio=0.0,
            mean_latency_seconds=0.1,
            served_per_second=2.0,
            layers=[layer],
        )
        for node_id in node_ids
    ]
    return Analysis(
        cluster_uid="u", generation=1, created_at=now, telemetry_until=now, objective=1.0,
        desired_objective=0.9, mean_latency_seconds=0.1, local_hit_ratio=0.5, balancedness=1.0, nodes=nodes,
    )  # fmt: skip


async def _series_of(nodes: int) -> set[Series]:
    """What a worker shows of a cluster of that many nodes after a look, a placement and an analysis."""
    certified = EVIDENCE.model_copy(update={"objective": 1.0, "gap_ratio": 0.1})
    observation = observed(*(node(f"n{index}") for index in range(nodes)), evidence=certified)
    settings, fleet, live = observation.cluster.settings, observation.fleet, observation.live
    assert observation.in_force is not None
    now = datetime.now(UTC)
    keys = ClusterKeys("shown")
    problems = Problems(Redis(), keys, Lease("shown", "w", 1, keys.lease, 1000))
    shown = ClusterMetrics("shown")
    try:
        built = build_problem(fleet, settings, NOTHING, holds=observation.held, live=live, statuses={})
        telemetry = Telemetry(None, 1.0)
        status = placement_status(
            observation, built.problem, {}, telemetry, active_plan=None, waiting_for=None, trouble=None,
            before=None, now=now,
        )  # fmt: skip
        await shown.show(observation, status, built.problem, problems, None, unwanted=False, now=now)
        show_in_metrics("shown", observation.in_force)
        shown.show_analysis(_analysis(list(fleet.node_ids), now))
        return set(series(cluster="shown"))
    finally:
        forget_cluster("shown")


@pytest.mark.anyio
async def test_a_thousand_nodes_are_as_many_series_as_four() -> None:
    """A cluster's series are the same, name for name and label for label, with 4 nodes and with 1000."""
    few, many = await _series_of(4), await _series_of(1000)
    assert many == few
    assert len({name for name, _ in few}) > 20
    values = {gauge.label: gauge.values for gauge in metrics.CLUSTER_GAUGES if gauge.label is not None}
    for _, labels in many:
        assert all(name == "cluster" or name in values for name, _ in labels)
