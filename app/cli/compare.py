"""`moeplace compare`: every algorithm on one instance, against one lower bound."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from app.cli.chart import Bar, comparison_chart
from app.cli.solve import EXIT_INFEASIBLE, interrupts, number, read_instance, refuse, shown_progress
from solvers.algorithms import ALGORITHMS, solve
from solvers.dual.pdhg import lagrangian_bound
from solvers.problem import Coupling, PlacementProblem
from solvers.result import SolveResult, SolveStatus, gap_ratio
from solvers.stopping import FirstOf, MaxRuntime, Stopping
from solvers.traffic import compile_traffic

_BOUND_STEPS = 1000


def compare_command(
    instance: Annotated[Path, typer.Argument(help="Instance file (.npz).")],
    algorithm: Annotated[
        list[str] | None,
        typer.Option("--algorithm", "-a", help=f"May be repeated. Default: all of {', '.join(ALGORITHMS)}."),
    ] = None,
    coupling: Annotated[
        Coupling | None, typer.Option("--coupling", help="Use this coupling instead of the instance's.")
    ] = None,
    time_limit: Annotated[
        float, typer.Option("--time-limit", min=0.0, help="Seconds for each algorithm, and for the bound.")
    ] = 30.0,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    chart: Annotated[
        Path | None, typer.Option("--chart", help="Draw costs and times to this file (.svg).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Run algorithms on an instance, and list them with the cheapest placement first.

    All are compared with one lower bound, the best that any of them, or a dual ascent from the best
    placement, proves. Ctrl-C ends the running algorithm and skips the others. Exit status: 0, 1 if no
    algorithm has a placement, 2 for a malformed file or a wrong option.
    """
    names = list(dict.fromkeys(algorithm or ALGORITHMS))
    for name in names:
        if name not in ALGORITHMS:
            refuse(f"--algorithm: is {name!r:.60}, expected one of {', '.join(ALGORITHMS)}")
    if chart is not None and chart.suffix != ".svg":
        refuse(f"--chart: is {str(chart)!r:.60}, expected a name that ends in .svg")
    problem = read_instance(instance, coupling)
    results: list[SolveResult] = []
    with interrupts() as interrupted, shown_progress() as report:
        for name in names:
            if interrupted() and results:
                break
            results.append(
                solve(
                    problem,
                    name,
                    params={"bound_steps": 0},
                    seed=seed,
                    time_limit_seconds=time_limit,
                    progress=report,
                    stopping=interrupted,
                )
            )
        shortfall = None
        if all(result.placement is None for result in results):
            shortfall = results[0].shortfall
        bound = None if shortfall else _bound(problem, results, time_limit, interrupted)
    results.sort(key=lambda result: math.inf if result.objective is None else result.objective)
    if as_json:
        rows = [_row(result, bound) for result in results]
        summary = {"coupling": str(problem.coupling), "lower_bound": number(bound), "shortfall": shortfall}
        typer.echo(json.dumps(summary | {"algorithms": rows}, indent=2))
    elif shortfall:
        proved = any(result.status is SolveStatus.INFEASIBLE for result in results)
        typer.echo(f"{'infeasible' if proved else 'not found'}: {shortfall}")
    else:
        _print(problem, results, bound)
    if shortfall:
        raise typer.Exit(EXIT_INFEASIBLE)
    if chart is not None:
        bars = [Bar(result.algorithm, _ratio(result, bound), result.runtime_seconds) for result in results]
        try:
            chart.write_text(comparison_chart(bars, f"{instance.name}, {problem.coupling}"), encoding="utf-8")
        except OSError as error:
            refuse(f"{chart}: {error.strerror or error}")


def _bound(
    problem: PlacementProblem, results: list[SolveResult], seconds: float, interrupted: Stopping
) -> float | None:
    """The best lower bound known; at most the least objective."""
    best = min(results, key=lambda result: math.inf if result.objective is None else result.objective)
    if best.placement is None or best.objective is None:
        return None
    stopping = FirstOf((interrupted, MaxRuntime(seconds)))
    traffic = compile_traffic(problem)
    dual = lagrangian_bound(problem, traffic, best.placement.holds, best.objective, _BOUND_STEPS, stopping)
    return max([dual.bound] + [result.lower_bound for result in results if result.lower_bound is not None])


def _ratio(result: SolveResult, bound: float | None) -> float | None:
    """Cost over bound: 1 where both are 0, None where it is unknown or infinite."""
    if bound is None or result.objective is None or not math.isfinite(result.objective):
        return None
    if bound > 0:
        return max(1.0, result.objective / bound)
    return 1.0 if result.objective == 0 else None


def _row(result: SolveResult, bound: float | None) -> dict[str, object]:
    return {
        "algorithm": result.algorithm,
        "status": str(result.status),
        "objective": number(result.objective),
        "over_bound_ratio": _ratio(result, bound),
        "gap_ratio": gap_ratio(result.objective, bound),
        "runtime_seconds": result.runtime_seconds,
        "digest": None if result.placement is None else result.placement.digest,
    }


def _print(problem: PlacementProblem, results: list[SolveResult], bound: float | None) -> None:
    shown = "none" if bound is None else f"{bound:.6g} s/s"
    table = Table(title=f"coupling {problem.coupling}, lower bound {shown}", title_justify="left")
    table.add_column("algorithm")
    for heading in ("cost s/s", "over bound", "gap", "seconds"):
        table.add_column(heading, justify="right")
    table.add_column("status")
    for result in results:
        ratio, gap = _ratio(result, bound), gap_ratio(result.objective, bound)
        table.add_row(
            result.algorithm,
            "" if result.objective is None else f"{result.objective:.6g}",
            "" if ratio is None else f"{ratio:.4f}",
            "" if gap is None else f"{100 * gap:.2f} %",
            f"{result.runtime_seconds:.3f}",
            str(result.status),
        )
    Console().print(table)
