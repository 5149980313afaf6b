from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from app.cli.plan import plan_command
from app.cli.verify import verify_command
from solvers.files import save_placement, save_problem
from solvers.placement import Placement
from solvers.result import SolveResult, SolveStatus
from tests.migrations.instances import Change, cluster

_RUNNER = CliRunner()


@pytest.fixture
def app() -> typer.Typer:
    """The two commands under one root, as the command line has them."""
    root = typer.Typer(pretty_exceptions_enable=False)
    root.command("plan")(plan_command)
    root.command("verify")(verify_command)
    return root


def _files(folder: Path, change: Change) -> tuple[str, str, str]:
    instance, target = folder / "instance.npz", folder / "target.npz"
    save_problem(instance, change.problem.replace(current=change.source))
    result = SolveResult(
        placement=Placement(change.target),
        status=SolveStatus.FEASIBLE,
        algorithm="by hand",
        objective=1.0,
        lower_bound=None,
        gap_ratio=None,
        runtime_seconds=0.0,
    )
    save_placement(target, result)
    return str(instance), str(target), str(folder / "plan.json")


_SWAP = cluster([20, 10], [[1, 0], [0, 1]], [[0, 1], [1, 0]])
_STUCK = cluster([10, 10], [[1, 0], [0, 1]], [[0, 1], [1, 0]])


def test_a_plan_is_written_and_verified(app: typer.Typer, tmp_path: Path) -> None:
    """`plan` writes a file that `verify` accepts; both say OK with status 0."""
    instance, target, out = _files(tmp_path, _SWAP)
    made = _RUNNER.invoke(app, ["plan", instance, target, "--out", out])
    assert (made.exit_code, made.stdout.splitlines()[:2]) == (0, ["OK: 2 copies, 2 drops", "bytes: 20"])
    checked = _RUNNER.invoke(app, ["verify", instance, target, out])
    assert (checked.exit_code, checked.stdout) == (0, "OK: 4 moves keep every rule\n")


def test_an_infeasible_plan_is_written_with_its_reason(app: typer.Typer, tmp_path: Path) -> None:
    """INFEASIBLE ends with status 1, in the file, at `plan` and at `verify`."""
    instance, target, out = _files(tmp_path, _STUCK)
    made = _RUNNER.invoke(app, ["plan", instance, target, "--out", out])
    assert made.exit_code == 1
    assert "node 0 lacks 10 bytes" in made.stdout
    assert json.loads(Path(out).read_text())["status"] == "INFEASIBLE"
    checked = _RUNNER.invoke(app, ["verify", instance, target, out])
    assert checked.exit_code == 1
    assert checked.stdout.startswith("STATUS: ")


def test_a_broken_plan_is_named(app: typer.Typer, tmp_path: Path) -> None:
    """`verify` prints one line per rule that is broken and ends with status 1."""
    instance, target, out = _files(tmp_path, _SWAP)
    _RUNNER.invoke(app, ["plan", instance, target, "--out", out])
    document = json.loads(Path(out).read_text())
    document["moves"][0]["bytes"] = 9
    Path(out).write_text(json.dumps(document))
    checked = _RUNNER.invoke(app, ["verify", instance, target, out])
    assert (checked.exit_code, checked.stdout) == (1, "MOVE m00000: bytes: is 9, expected 10\n")


def test_malformed_files_end_with_status_2(app: typer.Typer, tmp_path: Path) -> None:
    """A plan that is no plan, a missing file, an instance without `current`, a target of another shape."""
    instance, target, out = _files(tmp_path, _SWAP)
    Path(out).write_text("{}")
    refused = _RUNNER.invoke(app, ["verify", instance, target, out])
    assert refused.exit_code == 2
    assert refused.stderr == f"{out}: plan: Object missing required field `format`\n"
    absent = _RUNNER.invoke(app, ["verify", instance, target, str(tmp_path / "absent.json")])
    assert (absent.exit_code, absent.stderr.count("\n")) == (2, 1)

    save_problem(instance, _SWAP.problem)
    for command in (["plan", instance, target], ["verify", instance, target, out]):
        without = _RUNNER.invoke(app, command)
        assert without.exit_code == 2
        assert "current: absent" in without.stderr

    other = Change(_SWAP.problem, _SWAP.source, np.ones((1, 1), np.uint8))
    instance, target, _ = _files(tmp_path, other)
    shaped = _RUNNER.invoke(app, ["plan", instance, target])
    assert shaped.exit_code == 2
    assert "target_holds: has shape (1, 1), expected (2, 2)" in shaped.stderr


def test_an_unwritable_plan_ends_with_status_2(app: typer.Typer, tmp_path: Path) -> None:
    """A plan file in a folder that does not exist is refused in one line."""
    instance, target, _ = _files(tmp_path, _SWAP)
    refused = _RUNNER.invoke(app, ["plan", instance, target, "--out", str(tmp_path / "no" / "plan.json")])
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1
