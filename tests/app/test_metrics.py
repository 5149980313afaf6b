"""What metrics show, what they forget, and how many series they are."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from redis.asyncio import Redis

from app import metrics
from app.cli.metrics import page
from app.exposition import Exemplars, exposition
from app.metrics import ClusterGauge, forget_cluster
from tests.app.solving.simulation import Cluster, cluster_settings, until, working

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def series(**labels: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
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
        "from app import metrics\n"
        "metrics.CLUSTER_COPIES.set('kept', 1, 'held')\n"
        "metrics.CLUSTER_COPIES.set('gone', 1, 'held')\n"
        "metrics.LEASE_CHANGES.labels('lost').inc(2)\n"
        "metrics.forget_cluster('gone')\n"
        "from app.exposition import exposition\n"
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
        [sys.executable, "-c", "from app.exposition import exposition; print(exposition()[0].decode())"],
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
    from app.exposition import exemplars

    for seconds, trace in ((0.003, "a" * 32), (0.004, "b" * 32), (100.0, "c" * 32)):
        metrics.HTTP_DURATION.labels("GET", "/exemplary").observe(seconds)
        exemplars.note("GET", "/exemplary", seconds, trace, 1.5)
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
    noted.note("GET", "/", metrics.FAST[3], "t", 0.0)
    assert list(noted._newest) == [("GET", "/", "0.005")]


@pytest.mark.anyio
async def test_a_thousand_nodes_are_as_many_series_as_four(redis: Redis) -> None:
    """A real worker shows the same series of a cluster, name for name and label for label, after 996 nodes
    have joined the 4 that it had."""
    cluster = Cluster(redis)
    await cluster.create(cluster_settings(time_limit_seconds=0.5))
    placed = {"moeplace_placement_generation", "moeplace_placement_current_objective_ratio"}
    ticks = "moeplace_worker_tick_timestamp_seconds"

    def shown() -> dict[str, float]:
        found = series(cluster=cluster.cluster_id)
        live = [value for (_, labels), value in found.items() if ("condition", "live") in labels]
        return {name: value for (name, _), value in found.items()} | {"live": sum(live)}

    async def has(nodes: int) -> bool:
        return shown()["live"] == nodes and placed <= shown().keys()

    async def ticked_since(before: float) -> bool:
        return shown()[ticks] > before

    try:
        async with working(redis):
            for index in range(4):
                await cluster.add_node(f"n{index}", 2)
            await until(lambda: has(4), what="the first placement")
            few = set(series(cluster=cluster.cluster_id))
            for index in range(4, 1000):
                await cluster.add_node(f"n{index}", 2)
            await until(lambda: has(1000), what="a look at 1000 nodes")
            for _ in range(2):
                before = shown()[ticks]
                await until(lambda: ticked_since(before), what="another look")  # noqa: B023
            many = set(series(cluster=cluster.cluster_id))
    finally:
        forget_cluster(cluster.cluster_id)
    assert many == few
    assert len(few) > 40
    assert {label for _, labels in many for label, _ in labels} <= {
        "cluster", "condition", "state", "kind", "statistic", "placement", "by"
    }  # fmt: skip
