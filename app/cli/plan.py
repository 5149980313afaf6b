"""`moeplace plan`: an instance and a target placement in, a plan file out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from app.cli.solve import EXIT_INFEASIBLE, read_instance, refuse
from migrations.explanation import Explanation, explain
from migrations.gantt import gantt_svg
from migrations.model import MoveKind, Plan, PlanError, PlanStatus, save_plan
from migrations.naming import BY_INDEX
from migrations.planner import plan
from moeplace_agent.wording import counted
from solvers.io.files import load_placement
from solvers.placement import Placement
from solvers.problem import PlacementProblem, ProblemError, UInt8


def plan_command(
    instance: Annotated[Path, typer.Argument(help="Instance file (.npz) with its current placement.")],
    target: Annotated[Path, typer.Argument(help="Target placement (.npz).")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Plan file to write (.json).")] = None,
    explained: Annotated[
        bool, typer.Option("--explain", help="Print what each node does, and when latency improves.")
    ] = False,
    gantt: Annotated[Path | None, typer.Option("--gantt", help="Draw the plan to this file (.svg).")] = None,
) -> None:
    """Plan the moves from an instance's `current` placement to a target and print a summary.

    The plan file is always written, the picture only if there is a plan. Exit status: 0 with a plan, 1 for
    INFEASIBLE (the reason names the nodes and what they lack), 2 for a malformed file.
    """
    if gantt is not None and gantt.suffix != ".svg":
        refuse(f"--gantt: is {str(gantt)!r:.60}, expected a file that ends in .svg")
    problem = read_instance(instance)
    source, wanted = read_current(instance, problem), read_target(target)
    try:
        made = plan(problem, source, wanted.holds)
    except PlanError as error:
        refuse(f"{target}: {error}")
    feasible = made.status is PlanStatus.OK
    try:
        if out is not None:
            save_plan(out, made)
        if gantt is not None and feasible:
            gantt.write_text(gantt_svg(problem, source, made), encoding="utf-8")
    except OSError as error:
        refuse(f"{error.filename or out}: {error.strerror or error}")
    for line in _summary(made):
        typer.echo(line)
    if explained and feasible:
        _print_explanation(made, explain(problem, source, wanted.holds, made))
    if not feasible:
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
        f"OK: {counted(copies, 'copy', 'copies')}, {counted(len(made.moves) - copies, 'drop')}",
        f"bytes: {estimate.bytes}",
        f"seconds: {estimate.seconds:.6g} (no schedule takes less than {estimate.lower_bound_seconds:.6g})",
    ]


def _print_explanation(made: Plan, explanation: Explanation) -> None:
    console = Console(highlight=False)
    seconds = made.estimate.seconds
    bound = made.estimate.lower_bound_seconds
    if bound > 0:
        longer = seconds / bound - 1.0
        line = "no schedule is shorter" if longer < 0.0005 else f"{longer:.1%} longer than the lower bound"
        console.print(line, markup=False)

    nodes = Table(title="What each node does", title_justify="left", box=None, pad_edge=False)
    nodes.add_column("node")
    for heading in ("copies in", "MB in", "copies out", "MB out", "drops", "receives for"):
        nodes.add_column(heading, justify="right")
    for row in explanation.nodes:
        nodes.add_row(
            BY_INDEX.node(row.node),
            str(row.copies_in),
            f"{row.bytes_in / 1e6:,.1f}",
            str(row.copies_out),
            f"{row.bytes_out / 1e6:,.1f}",
            str(row.drops),
            f"{row.receiving_seconds:.4g} s" if row.copies_in else "",
        )
    console.print()
    console.print(nodes)

    target = explanation.target_latency_seconds
    first = explanation.moments[0].latency_seconds
    moments = Table(title="What improves when", title_justify="left", box=None, pad_edge=False)
    for heading in ("after", "copied", "latency", "of the improvement"):
        moments.add_column(heading, justify="right")
    for moment in explanation.moments:
        done = moment.bytes_done / made.estimate.bytes if made.estimate.bytes else 1.0
        gained = (first - moment.latency_seconds) / (first - target) if first > target else None
        moments.add_row(
            f"{moment.seconds:.4g} s",
            f"{done:.0%}",
            f"{moment.latency_seconds * 1e3:.4g} ms",
            "" if gained is None else f"{gained:.0%}",
        )
    console.print()
    console.print(moments)
    console.print("latency: mean over tokens and blocks, as the problem's routes are", markup=False)
    if explanation.area_ratio is not None:
        ratio = explanation.area_ratio
        console.print(
            f"on the way tokens wait {ratio:.0%} of what they would beyond the target, were the moves in "
            f"random order",
            markup=False,
        )
