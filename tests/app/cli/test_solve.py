"""`moeplace solve` and `moeplace evaluate`, as processes and in place."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from app.cli import command_line
from app.cli import solve as command
from solvers.algorithms import ALGORITHMS, solve
from solvers.cost.evaluate import total_cost
from solvers.io.files import load_result, save_placement, save_problem
from solvers.placement import Placement
from solvers.problem import PlacementProblem
from solvers.result import SolveResult, SolveStatus
from tests.oracles.instances import random_problem


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
    result = CliRunner().invoke(command_line(words), words)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
@pytest.mark.parametrize("coupling", ["sum", "slowest", "colocated"])
def test_solve_then_evaluate(
    instance: Path, problem: PlacementProblem, algorithm: str, coupling: str
) -> None:
    """The summary, the file and the evaluation of the file tell the same."""
    out = instance.with_name("placement.npz")
    options = ("--algorithm", algorithm, "--coupling", coupling, "--time-limit", 5, "--seed", 3, "--out", out)
    code, output, _ = _run("solve", instance, *options)
    assert code == 0
    summary = json.loads(output)
    result = load_result(out)
    assert result.placement is not None
    assert summary["objective"] == result.objective
    assert summary["digest"] == result.placement.digest
    assert (summary["algorithm"], summary["coupling"]) == (algorithm, coupling)
    assert summary["objective"] == total_cost(problem.replace(coupling=coupling), result.placement.holds)
    code, output, _ = _run("evaluate", instance, out, "--coupling", coupling)
    assert code == 0
    found = json.loads(output)
    assert found["objective"] == pytest.approx(summary["objective"])
    assert found["mean_latency_seconds"] == pytest.approx(found["objective"] / problem.route_rate.sum())
    assert (found["feasible"], found["shortfalls"]) == (True, [])
    assert found["used_bytes"] == result.placement.used_bytes(problem).tolist()


def test_infeasible_is_status_one(instance: Path, problem: PlacementProblem) -> None:
    """An infeasible instance prints its shortfall and ends with 1; so does evaluating an infeasible
    placement."""
    tight = instance.with_name("tight.npz")
    save_problem(tight, problem.replace(capacity_bytes=np.zeros(3, np.int64)))
    code, output, _ = _run("solve", tight, "--out", instance.with_name("none.npz"))
    assert code == 1
    assert json.loads(output)["status"] == "INFEASIBLE"
    assert "only 0 nodes may hold it" in json.loads(output)["shortfall"]
    assert load_result(instance.with_name("none.npz")).status is SolveStatus.INFEASIBLE
    full = SolveResult(Placement(np.ones((3, 4), np.uint8)), SolveStatus.FEASIBLE, "x", 1.0, None, None, 0.0)
    save_placement(instance.with_name("full.npz"), full)
    code, output, _ = _run("evaluate", tight, instance.with_name("full.npz"))
    assert code == 1
    assert json.loads(output)["feasible"] is False


def _bad_files(folder: Path) -> dict[str, Path]:
    other = folder / "other.npz"
    save_placement(
        other,
        SolveResult(Placement(np.ones((2, 2), np.uint8)), SolveStatus.FEASIBLE, "x", 1.0, None, None, 0.0),
    )
    (folder / "text.npz").write_text("not a zip")
    return {"text": folder / "text.npz", "missing": folder / "missing.npz", "shape": other}


def test_malformed_files_are_status_two(instance: Path) -> None:
    """One line on stderr that names the file and the fault, nothing on stdout, status 2."""
    bad = _bad_files(instance.parent)
    cases: list[tuple[tuple[Any, ...], str]] = [
        (("solve", bad["text"]), "file: not an .npz archive"),
        (("solve", bad["missing"]), "No such file or directory"),
        (("solve", bad["shape"]), "format: is 'moeplace-placement/1', expected 'moeplace-instance/1'"),
        (("solve", instance, "--algorithm", "best"), "--algorithm: is 'best'"),
        (("solve", instance, "--params", "{"), "--params: not JSON"),
        (("solve", instance, "--params", "[]"), "--params: expected a JSON object"),
        (("solve", instance, "--params", '{"x": 1}'), "--params: 'x': unknown parameter"),
        (("solve", instance, "--out", instance.parent / "no" / "p.npz"), "No such file or directory"),
        (("evaluate", instance, bad["text"]), "file: not an .npz archive"),
        (("evaluate", instance, bad["missing"]), "No such file or directory"),
        (("evaluate", instance, bad["shape"]), "holds: has shape (2, 2), expected (3, 4)"),
        (("evaluate", instance, instance), "format: is 'moeplace-instance/1'"),
    ]
    for arguments, words in cases:
        code, output, errors = _run(*arguments)
        assert (code, output) == (2, ""), arguments
        assert words in errors
        assert len(errors.splitlines()) == 1


def test_interrupt_keeps_the_best_so_far(
    instance: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The first Ctrl-C ends the search with a feasible placement and status 0; a second one is an ordinary
    one."""

    def interrupted(*arguments: Any, **options: Any) -> SolveResult:
        signal.raise_signal(signal.SIGINT)
        return solve(*arguments, **options)

    # As at a terminal: whoever runs the tests in the background may have them started with SIGINT ignored.
    outer = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, outer))

    monkeypatch.setattr(command, "solve", interrupted)
    out = instance.with_name("placement.npz")
    code, output, _ = _run("solve", instance, "--out", out)
    assert code == 0
    assert json.loads(output)["status"] == "TIME_LIMIT"
    assert load_result(out).placement is not None

    def twice(*arguments: Any, **options: Any) -> SolveResult:
        signal.raise_signal(signal.SIGINT)
        return interrupted(*arguments, **options)

    monkeypatch.setattr(command, "solve", twice)
    before = signal.getsignal(signal.SIGINT)
    code, _, _ = _run("solve", instance)
    assert code != 0
    assert signal.getsignal(signal.SIGINT) is before
