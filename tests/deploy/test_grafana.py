"""Dashboards are what their code gives, as Grafana reads them, and ask for metrics that exist."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from app.cli.metrics import page
from deploy.grafana.__main__ import FOLDER, stale

PROVISIONING = FOLDER.parent / "provisioning"
RULES = FOLDER.parents[1] / "prometheus" / "rules" / "recording.yml"
DASHBOARDS = sorted(FOLDER.glob("*.json"))


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8")))


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_dashboards_are_what_the_code_gives() -> None:
    """Nobody edits them by hand, and there are five."""
    assert stale() == [], "run python -m deploy.grafana"
    assert [path.stem for path in DASHBOARDS] == [
        "ingest_and_solver", "migrations", "nodes", "overview", "placement_quality"
    ]  # fmt: skip


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_are_read_as_they_were_written(path: Path) -> None:
    """Grafana's own typed model of a dashboard reads the file and loses nothing of it."""
    register_default_plugins()
    text = path.read_text("utf-8")
    model = Dashboard.from_json(json.loads(text))
    assert json.loads(JSONEncoder(sort_keys=True).encode(model)) == json.loads(text)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_explain_themselves_and_have_room(path: Path) -> None:
    """Each has a title, words, queries of the chosen Prometheus, its own id, and a place of its own."""
    dashboard = read(path)
    assert dashboard["uid"] == f"moeplace-{path.stem.replace('_', '-')}"
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == {"datasource", "cluster"}
    shown = panels(dashboard)
    for panel in shown:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"].get("unit") or panel["type"] == "state-timeline"
        for target in panel["targets"]:
            assert target["legendFormat"]
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references)) > 0
    identifiers = [panel["id"] for panel in dashboard["panels"]]
    assert len(identifiers) == len(set(identifiers))
    for one, other in combinations([panel["gridPos"] for panel in dashboard["panels"]], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


def test_queries_name_metrics_that_exist() -> None:
    """A name that nothing defines would draw an empty panel; and no metric of the service is drawn nowhere,
    but for those that say how long something has been so, or which version runs."""
    defined = set(re.findall(r"^\| `(moeplace_\w+)`", page(), re.MULTILINE))
    parts = {f"{name}_{part}" for name in defined for part in ("bucket", "sum", "count")}
    recorded = {
        rule["record"]
        for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"]
        for rule in group["rules"]
    }
    queries = "\n".join(
        target["expr"] for path in DASHBOARDS for panel in panels(read(path)) for target in panel["targets"]
    )
    used = set(re.findall(r"\b(?:cluster:|moeplace:)?moeplace_\w+(?::\w+)*|\bmoeplace:\w+:\w+", queries))
    assert used - defined - parts - recorded == set()
    sources = queries + RULES.read_text("utf-8")
    assert {name for name in defined if name not in sources} <= {
        "moeplace_build_info",
        "moeplace_agent_build_info",
        "moeplace_agent_registrations_total",
        "moeplace_cluster_condition_since_timestamp_seconds",
        "moeplace_http_long_poll_duration_seconds",
    }


def test_provisioning_names_what_dashboards_ask_for() -> None:
    """The data source is a Prometheus, and the provider reads files."""
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "moeplace.yml").read_text())["providers"]
    assert (provider["type"], provider["allowUiUpdates"]) == ("file", False)
