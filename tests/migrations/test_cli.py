from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from app.cli.plan import plan_command
from app.cli.verify import verify_command
from solvers.io.files import save_placement, save_problem
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


_WAY = cluster([10, 10, 10], [[1, 0], [0, 1], [0, 0]], [[0, 1], [1, 0], [0, 0]])


def test_a_plan_is_explained(app: typer.Typer, tmp_path: Path) -> None:
    """`--explain` says what each node receives, sends and drops, and how the latency falls on the way."""
    change = cluster([20, 20], [[1, 1], [0, 0]], [[1, 1], [1, 1]])
    routes = {"route_node": np.ones(2, np.int32), "route_rate": np.array([3.0, 1.0])}
    change = Change(change.problem.replace(**routes), change.source, change.target)
    instance, target, _ = _files(tmp_path, change)
    told = _RUNNER.invoke(app, ["plan", instance, target, "--explain"])
    assert told.exit_code == 0
    lines = [line.split() for line in told.stdout.splitlines()]
    assert ["node", "0", "0", "0.0", "2", "0.0", "0"] in lines
    assert ["node", "1", "2", "0.0", "0", "0.0", "0", "2", "s"] in lines
    # The expert with three quarters of the traffic comes first: half of the bytes, 75 % of the improvement.
    assert ["1", "s", "50%", "3.25", "ms", "75%"] in lines
    assert ["2", "s", "100%", "1", "ms", "100%"] in lines


def test_an_explanation_without_traffic_or_moves(app: typer.Typer, tmp_path: Path) -> None:
    """Nothing to move and nobody to wait are explained without a division by zero; no plan, not at all."""
    still = Change(_SWAP.problem, _SWAP.source, _SWAP.source)
    idle = Change(_SWAP.problem.replace(route_rate=np.zeros(2)), _SWAP.source, _SWAP.target)
    for change in (still, idle):
        instance, target, _ = _files(tmp_path, change)
        picture = str(tmp_path / "plan.svg")
        told = _RUNNER.invoke(app, ["plan", instance, target, "--explain", "--gantt", picture])
        assert told.exit_code == 0, told.output
        ElementTree.parse(picture)
    instance, target, _ = _files(tmp_path, _STUCK)
    refused = _RUNNER.invoke(app, ["plan", instance, target, "--explain"])
    assert refused.exit_code == 1
    assert len(refused.stdout.splitlines()) == 1


def test_a_plan_is_drawn(app: typer.Typer, tmp_path: Path) -> None:
    """`--gantt` writes a picture with two bars per copy, at the node that receives and the one that sends."""
    instance, target, _ = _files(tmp_path, _WAY)
    picture = tmp_path / "plan.svg"
    drawn = _RUNNER.invoke(app, ["plan", instance, target, "--gantt", str(picture)])
    assert drawn.exit_code == 0
    root = ElementTree.parse(picture).getroot()
    space = "{http://www.w3.org/2000/svg}"
    coloured = [bar for bar in root.iter(f"{space}rect") if bar.get("fill", "").startswith("hsl")]
    assert len(coloured) == 2 * 3  # three copies: two full nodes swap through a third
    texts = "".join("".join(text.itertext()) for text in root.iter(f"{space}text"))
    assert "3 copies, 3 drops" in texts
    assert "node 2" in texts


def test_a_picture_of_another_kind_is_refused(app: typer.Typer, tmp_path: Path) -> None:
    """Pictures are SVG; another ending, or a folder that does not exist, ends with status 2 in one line."""
    instance, target, _ = _files(tmp_path, _SWAP)
    for name, message in (("plan.png", "expected a file that ends in .svg"), ("no/plan.svg", "No such file")):
        refused = _RUNNER.invoke(app, ["plan", instance, target, "--gantt", str(tmp_path / name)])
        assert refused.exit_code == 2
        assert refused.stderr.count("\n") == 1
        assert message in refused.stderr
