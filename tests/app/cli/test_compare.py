"""`moeplace compare`: one table, one bound, one chart."""

import json
import signal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from app.cli import command_line
from app.cli import compare as command
from app.cli.chart import Bar, comparison_chart
from solvers.algorithms import ALGORITHMS, solve
from solvers.io.files import save_problem
from solvers.problem import PlacementProblem
from solvers.result import SolveResult
from tests.oracles.instances import random_problem
from tests.oracles.placements import optimum

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def problem() -> PlacementProblem:
    return random_problem(2, nodes=3, blocks=[4], origin="all", extras=False, slack=1.5).replace(
        min_replicas=1
    )


@pytest.fixture
def instance(tmp_path: Path, problem: PlacementProblem) -> Path:
    save_problem(tmp_path / "instance.npz", problem)
    return tmp_path / "instance.npz"


def _run(*arguments: object) -> tuple[int, str, str]:
    words = [str(argument) for argument in arguments]
    result = CliRunner().invoke(command_line(words), words, terminal_width=200)
    return result.exit_code, result.stdout, result.stderr


def test_all_algorithms_against_one_bound(instance: Path, problem: PlacementProblem) -> None:
    """Without options every algorithm is in the JSON, the cheapest first, with ratios to a bound that the
    optimum respects; the chart is an SVG that names each."""
    chart = instance.with_suffix(".svg")
    code, output, _ = _run("compare", instance, "--json", "--time-limit", 5, "--chart", chart)
    assert code == 0
    found = json.loads(output)
    rows = found["algorithms"]
    assert {row["algorithm"] for row in rows} == set(ALGORITHMS)
    costs = [row["objective"] for row in rows]
    assert costs == sorted(costs)
    best = optimum(problem)
    assert best is not None
    assert found["lower_bound"] <= best * (1 + 1e-9)
    assert costs[0] == pytest.approx(best)
    for row in rows:
        assert row["over_bound_ratio"] == pytest.approx(max(1.0, row["objective"] / found["lower_bound"]))
        same = solve(problem, row["algorithm"], params={"bound_steps": 0})
        assert row["objective"] == pytest.approx(same.objective)
    words = [element.text for element in ElementTree.parse(chart).iter(f"{SVG}text")]
    assert set(ALGORITHMS) <= set(words)


def test_table_of_the_chosen(instance: Path) -> None:
    """Only the algorithms asked for, once each, in a table with the bound."""
    code, output, _ = _run(
        "compare", instance, "-a", "uniform", "-a", "sgd", "-a", "sgd", "--coupling", "sum"
    )
    assert code == 0
    assert "coupling sum, lower bound" in output
    assert output.count("sgd") == 1
    assert "eplb" not in output
    assert output.index("sgd") < output.index("uniform")


def test_infeasible_says_why_once(instance: Path, problem: PlacementProblem) -> None:
    """An instance without memory: the shortfall, status 1, no chart."""
    save_problem(instance, problem.replace(capacity_bytes=np.zeros(3, np.int64)))
    chart = instance.with_suffix(".svg")
    code, output, _ = _run("compare", instance, "-a", "uniform", "--chart", chart)
    assert (code, output.startswith("infeasible: expert 0 of block 0")) == (1, True)
    assert not chart.exists()
    code, output, _ = _run("compare", instance, "-a", "uniform", "--json")
    assert code == 1
    assert json.loads(output)["shortfall"].startswith("expert 0 of block 0")


def test_refusals(instance: Path) -> None:
    """Unknown algorithms, other chart formats and unreadable files end with one line and status 2."""
    for arguments, words in (
        (("compare", instance, "-a", "best"), "--algorithm: is 'best'"),
        (("compare", instance, "--chart", "a.png"), "--chart: is 'a.png'"),
        (("compare", instance.with_name("no.npz")), "No such file or directory"),
        (("compare", instance, "-a", "uniform", "--chart", instance.parent / "no" / "a.svg"), "No such file"),
    ):
        code, _, errors = _run(*arguments)
        assert code == 2
        assert words in errors
        assert len(errors.splitlines()) == 1


def test_interrupt_leaves_out_the_rest(instance: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C the algorithm at work still counts, the others are not begun."""

    def interrupted(*arguments: Any, **options: Any) -> SolveResult:
        signal.raise_signal(signal.SIGINT)
        return solve(*arguments, **options)

    monkeypatch.setattr(command, "solve", interrupted)
    code, output, _ = _run("compare", instance, "-a", "sgd", "-a", "uniform", "--json")
    assert code == 0
    assert [row["algorithm"] for row in json.loads(output)["algorithms"]] == ["sgd"]


def test_chart_of_the_odd_cases() -> None:
    """No bound, an equal cost, no time at all and a name with markup: still a valid document."""
    bars = [Bar("a<b", 1.0, 0.0), Bar("unknown", None, 3.0)]
    drawn = ElementTree.fromstring(comparison_chart(bars, "x & y"))
    words = [element.text for element in drawn.iter(f"{SVG}text")]
    assert {"a<b", "no bound", "x & y", "1.0000"} <= set(words)
    widths = [float(element.attrib["width"]) for element in drawn.iter(f"{SVG}rect")]
    assert all(width > 0 for width in widths)
    ElementTree.fromstring(comparison_chart([], "none"))
