"""Rules as Prometheus itself reads them: they load, fire when they should, and lead to a runbook."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.cli.metrics import page
from tests.deploy.tools import program

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RUNBOOKS = ROOT / "deploy" / "runbooks"
CASES = ("fires", "stays quiet", "without series")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


RULES = [
    rule
    for path in sorted((PROMETHEUS / "rules").glob("*.yml"))
    for g in read(path)["groups"]
    for rule in g["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
TESTS = [test for path in sorted((PROMETHEUS / "tests").glob("*.yml")) for test in read(path)["tests"]]


def promtool(*arguments: str | Path) -> str:
    ended = subprocess.run(
        [program("promtool"), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "GOGC": "400"},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_rules_do_what_their_tests_say() -> None:
    """Prometheus' own unit tests of all rules pass: labels, annotations and times."""
    promtool("test", "rules", *sorted((PROMETHEUS / "tests").glob("*.yml")))


def test_the_configuration_loads(tmp_path: Path) -> None:
    """prometheus.yml and its rules are valid; so is kubernetes.yml but for the discovery itself, which
    Debian's Prometheus is built without."""
    assert "2 rule files found" in promtool("check", "config", PROMETHEUS / "prometheus.yml")
    kubernetes = read(PROMETHEUS / "kubernetes.yml")
    (job,) = kubernetes["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    kubernetes["rule_files"] = [str(PROMETHEUS / name) for name in kubernetes["rule_files"]]
    without = tmp_path / "kubernetes.yml"
    without.write_text(yaml.safe_dump(kubernetes))
    assert "2 rule files found" in promtool("check", "config", without)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_tested_three_times(alert: str) -> None:
    """One test in which it fires, one with series in which it stays quiet, one without any series at all."""
    for case in CASES:
        (test,) = [test for test in TESTS if test["name"].startswith(f"{alert} {case}: ")]
        assert [asked["alertname"] for asked in test["alert_rule_test"]] == [alert]
        expected = test["alert_rule_test"][0]["exp_alerts"]
        assert bool(test["input_series"]) == (case != "without series")
        if case == "fires":
            assert expected
        elif case == "stays quiet":
            assert not expected


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_leads_to_its_runbook(alert: str) -> None:
    """It says how urgent it is and what it is about, and names a runbook that has all three parts."""
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert {"summary", "description", "runbook_url"} == set(rule["annotations"])
    runbook = ROOT / rule["annotations"]["runbook_url"]
    assert runbook == RUNBOOKS / f"{alert}.md"
    headings = re.findall(r"^#+ (.+)$", runbook.read_text("utf-8"), re.MULTILINE)
    assert headings == [alert, "What it means", "How to look", "What to do"]


def test_no_runbook_is_left_over() -> None:
    """Every runbook belongs to an alert, and their list names them all."""
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {*ALERTS, "README"}
    listed = re.findall(r"\[(\w+)\]\((\w+)\.md\)", (RUNBOOKS / "README.md").read_text("utf-8"))
    assert listed == [(alert, alert) for alert in ALERTS]


def test_rules_and_runbooks_name_metrics_that_exist() -> None:
    """A name that nothing defines would make an alert that never fires."""
    defined = set(re.findall(r"^\| `(moeplace_\w+)`", page(), re.MULTILINE))
    defined |= {f"{name}_{part}" for name in defined for part in ("bucket", "sum", "count")}
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    used = set()
    texts = [rule["expr"] for rule in RULES] + [path.read_text("utf-8") for path in RUNBOOKS.glob("*.md")]
    for text in texts:
        used |= set(re.findall(r"\b(?:cluster:|moeplace:)?moeplace_\w+(?::\w+)*|\bmoeplace:\w+:\w+", text))
    assert used - defined - recorded == set()
