"""Standard output is the program's own, and Ctrl-C while it loads says nothing."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from app.cli import command_line
from solvers.algorithms import solve
from solvers.feasible.repair import impossibility
from solvers.io.files import load_result, save_placement, save_problem
from solvers.problem import Coupling, PlacementProblem, ProblemError
from solvers.result import SolveResult, SolveStatus
from tests.oracles.instances import random_problem


def _problem() -> PlacementProblem:
    return random_problem(3, Coupling.SUM, nodes=2, blocks=[3], origin="all", extras=False, slack=2.0)


def test_what_highs_prints_is_not_in_the_json(tmp_path: Path) -> None:
    """A library in C that writes to standard output during a solve does not break the summary."""
    save_problem(tmp_path / "i.npz", _problem())
    noisy = (
        "import ctypes, sys, app.cli, app.cli.solve as command\n"
        "load = command.load_problem\n"
        "def noisy(path):\n"
        "    ctypes.CDLL(None).puts(b'from a library')\n"
        "    return load(path)\n"
        "command.load_problem = noisy\n"
        f"sys.argv = ['moeplace', 'solve', {str(tmp_path / 'i.npz')!r}, '-a', 'uniform']\n"
        "app.cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", noisy], capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["algorithm"] == "uniform", done.stderr
    assert "from a library" in done.stderr


@pytest.mark.parametrize("seconds", [0.15, 0.6])
def test_ctrl_c_while_modules_load_is_no_traceback(seconds: float) -> None:
    """The process ends by the signal."""
    running = subprocess.Popen(
        [sys.executable, "-m", "app", "solve", "absent.npz"], stderr=subprocess.PIPE, text=True
    )
    time.sleep(seconds)
    running.send_signal(signal.SIGINT)
    said = running.communicate()[1]
    assert "solvers" not in said
    assert "app/cli" not in said


def test_an_infinite_objective_is_explained(tmp_path: Path) -> None:
    """Where the objective is null, the summary names a route that nobody serves."""
    problem = _problem().replace(
        latency_seconds=np.array([[1.0, np.inf], [np.inf, 1.0]]),
        origin_latency_seconds=np.full(2, np.inf),
        capacity_bytes=np.array([9, 3]) * int(_problem().expert_bytes[0]),
    )
    save_problem(tmp_path / "i.npz", problem)
    holds = np.array([[1, 1, 1], [0, 0, 0]], np.uint8)
    done = CliRunner().invoke(
        command_line(["solve"]),
        ["solve", str(tmp_path / "i.npz"), "-a", "uniform", "-o", str(tmp_path / "p.npz")],
    )
    said = json.loads(done.output)
    assert said["objective"] is None
    assert "routes are not served, first route" in said["remark"]
    assert holds.shape == (problem.nodes, problem.experts)
    done = CliRunner().invoke(
        command_line(["evaluate"]), ["evaluate", str(tmp_path / "i.npz"), str(tmp_path / "p.npz")]
    )
    assert "not served" in json.loads(done.output)["remark"]


def test_a_placement_file_with_a_bound_above_its_objective_is_refused(tmp_path: Path) -> None:
    """It proves nothing, so `evaluate` does not take it."""
    result = solve(_problem(), "uniform", params={"bound_steps": 5})
    assert result.objective is not None
    for bound in (2.0 * result.objective, np.inf):
        save_placement(tmp_path / "p.npz", dataclasses.replace(result, lower_bound=bound))
        with pytest.raises(ProblemError, match="lower_bound: is"):
            load_result(tmp_path / "p.npz")


def test_a_file_says_that_no_placement_was_found_in_time(tmp_path: Path) -> None:
    """TIME_LIMIT without a placement is written and read, with its words."""
    made = SolveResult(None, SolveStatus.TIME_LIMIT, "sgd", None, None, None, 1.0, "none was found")
    save_placement(tmp_path / "p.npz", made)
    read = load_result(tmp_path / "p.npz")
    assert (read.placement, read.status, read.shortfall) == (None, SolveStatus.TIME_LIMIT, "none was found")


def test_one_missing_byte_is_said_to_be_one() -> None:
    """Memory that experts of one size cannot use in whole is not counted as missing."""
    problem = _problem().replace(
        expert_bytes=np.array([1000]), capacity_bytes=np.array([2000, 999]), min_replicas=1
    )
    assert str(impossibility(problem)).endswith("short by 1 byte")
    problem = problem.replace(capacity_bytes=np.array([1500, 0]))
    assert str(impossibility(problem)).endswith("short by 1500 bytes")
