"""`moeplace verify`: whether a plan file keeps every rule on its way from an instance to a target."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from app.cli.plan import read_current, read_target
from app.cli.solve import read_instance, refuse
from migrations.model import PlanError, load_plan
from migrations.verify import verify
from moeplace_agent.wording import agreeing, counted

EXIT_VIOLATED: Final = 1


def verify_command(
    instance: Annotated[Path, typer.Argument(help="Instance file (.npz) with its current placement.")],
    target: Annotated[Path, typer.Argument(help="Target placement (.npz) of the plan.")],
    plan: Annotated[Path, typer.Argument(help="Plan file (.json).")],
) -> None:
    """Replay a plan, independently of the planner, and print OK or each broken rule, one per line.

    Exit status: 0 if the plan keeps every rule, 1 if it breaks one or is INFEASIBLE, 2 for a malformed file.
    """
    problem = read_instance(instance)
    source, wanted = read_current(instance, problem), read_target(target)
    try:
        made = load_plan(plan)
    except PlanError as error:
        refuse(f"{plan}: {error}")
    except OSError as error:
        refuse(f"{plan}: {error.strerror or error}")
    try:
        violations = verify(problem, source, wanted.holds, made)
    except PlanError as error:
        refuse(f"{target}: {error}")
    for violation in violations:
        typer.echo(str(violation))
    if violations:
        raise typer.Exit(EXIT_VIOLATED)
    count = len(made.moves)
    typer.echo(f"OK: {counted(count, 'move')} {agreeing(count, 'keeps', 'keep')} every rule")
