"""`moeplace plan`: an instance and a target placement in, a plan file out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli.solve import EXIT_INFEASIBLE, read_instance, refuse
from migrations.model import MoveKind, Plan, PlanError, PlanStatus, save_plan
from migrations.planner import plan
from solvers.files import load_placement
from solvers.placement import Placement
from solvers.problem import PlacementProblem, ProblemError, UInt8


def plan_command(
    instance: Annotated[Path, typer.Argument(help="Instance file (.npz) with its current placement.")],
    target: Annotated[Path, typer.Argument(help="Placement file (.npz) to go to.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Plan file to write (.json).")] = None,
) -> None:
    """Plan the moves from an instance's `current` placement to a target and print a summary.

    The plan file is written in any case. Exit status: 0 a plan, 1 INFEASIBLE (the reason names the nodes and
    what they lack), 2 a malformed file.
    """
    problem = read_instance(instance)
    source, wanted = read_current(instance, problem), read_target(target)
    try:
        made = plan(problem, source, wanted.holds)
    except PlanError as error:
        refuse(f"{target}: {error}")
    if out is not None:
        try:
            save_plan(out, made)
        except OSError as error:
            refuse(f"{out}: {error.strerror or error}")
    for line in _summary(made):
        typer.echo(line)
    if made.status is PlanStatus.INFEASIBLE:
        raise typer.Exit(EXIT_INFEASIBLE)


def read_current(path: Path, problem: PlacementProblem) -> UInt8:
    """The placement in force of an instance; ends the process with status 2 where the file has none."""
    if problem.current is None:
        refuse(f"{path}: current: absent, expected the placement in force")
    return problem.current


def read_target(path: Path) -> Placement:
    """The placement of a file; ends the process with one line and status 2 where it cannot be read."""
    try:
        return load_placement(path)
    except ProblemError as error:
        refuse(f"{path}: {error}")
    except OSError as error:
        refuse(f"{path}: {error.strerror or error}")


def _summary(made: Plan) -> list[str]:
    if made.status is PlanStatus.INFEASIBLE:
        return [f"INFEASIBLE: {made.reason}"]
    copies = sum(move.kind is MoveKind.COPY for move in made.moves)
    estimate = made.estimate
    return [
        f"OK: {copies} copies, {len(made.moves) - copies} drops",
        f"bytes: {estimate.bytes}",
        f"seconds: {estimate.seconds:.6g} (no schedule takes less than {estimate.lower_bound_seconds:.6g})",
    ]
