"""`moeplace solve`: an instance file in, a placement file out."""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import numpy as np
import typer
from rich.console import Console

from solvers.algorithms import ALGORITHMS, solve
from solvers.cost.evaluate import route_latencies
from solvers.equal_slots import most_equal_slots, solve_equal_slots
from solvers.io.files import load_problem, save_placement
from solvers.params import DEFAULT_ALGORITHM, ParamsError
from solvers.problem import Coupling, PlacementProblem, ProblemError, UInt8
from solvers.result import Progress, SolveResult

EXIT_INFEASIBLE = 1  # no placement or plan, whether it is proved that none exists or not
EXIT_MALFORMED = 2


def solve_command(
    instance: Annotated[Path, typer.Argument(help="Instance file (.npz).")],
    algorithm: Annotated[
        str, typer.Option("--algorithm", "-a", help=f"One of: {', '.join(ALGORITHMS)}.")
    ] = DEFAULT_ALGORITHM,
    coupling: Annotated[
        Coupling | None, typer.Option("--coupling", help="Use this coupling instead of the instance's.")
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option("--time-limit", min=0.0, help="Seconds, including the bound.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    equal_slots: Annotated[
        str | None,
        typer.Option(
            "--equal-slots",
            metavar="SLOTS",
            help="Place exactly this many experts of every layer on every node, as EPLB, SGLang, "
            "TensorRT-LLM and vllm-ascend require. auto: as many as fit on every node.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Placement file to write (.npz).")] = None,
    params: Annotated[
        str | None, typer.Option("--params", help='Parameters of the algorithm as JSON, e.g. {"rounds": 2}.')
    ] = None,
) -> None:
    """Place the experts of an instance and print a JSON summary.

    Ctrl-C ends the search and keeps the best placement found. Exit status: 0 with a feasible placement, 1
    without one (INFEASIBLE: none exists; TIME_LIMIT: none was found; the summary says what is missing), 2 for
    a malformed file or a wrong option.
    """
    problem = read_instance(instance, coupling)
    if algorithm not in ALGORITHMS:
        refuse(f"--algorithm: is {algorithm!r:.60}, expected one of {', '.join(ALGORITHMS)}")
    solver = solve
    if equal_slots is not None:
        solver = partial(solve_equal_slots, slots=_slots(problem, equal_slots))
    with interrupts() as interrupted, shown_progress() as report:
        try:
            result = solver(
                problem,
                algorithm=algorithm,
                params=_params(params),
                seed=seed,
                time_limit_seconds=time_limit,
                progress=report,
                stopping=interrupted,
            )
        except ParamsError as error:
            refuse(f"--params: {error}")
        except ProblemError as error:
            refuse(f"--equal-slots: {error}")
    if out is not None:
        try:
            save_placement(out, result)
        except OSError as error:
            refuse(f"{out}: {error.strerror or error}")
    typer.echo(json.dumps(_summary(problem, result), indent=2))
    if result.placement is None:
        raise typer.Exit(EXIT_INFEASIBLE)


def read_instance(path: Path, coupling: Coupling | None = None) -> PlacementProblem:
    """The problem of a file; ends the process with one line and status 2 where it cannot be read."""
    try:
        problem = load_problem(path)
    except ProblemError as error:
        refuse(f"{path}: {error}")
    except OSError as error:
        refuse(f"{path}: {error.strerror or error}")
    return problem if coupling is None else problem.replace(coupling=coupling)


def refuse(message: str) -> NoReturn:
    """Ends the process with one line on stderr and exit status 2."""
    typer.echo(message, err=True)
    raise typer.Exit(EXIT_MALFORMED)


def number(value: float | None) -> float | None:
    """`value` as JSON can say it: null for what is absent or not finite."""
    return value if value is not None and math.isfinite(value) else None


def unserved(problem: PlacementProblem, holds: UInt8) -> str | None:
    """In words, the traffic that nobody serves, which makes the objective infinite; None: all is served."""
    lost = np.flatnonzero(np.isinf(route_latencies(problem, holds)) & (problem.route_rate > 0))
    if len(lost) == 0:
        return None
    first = int(lost[0])
    return (
        f"the objective is infinite, which JSON has no number for: {len(lost)} of {problem.routes} routes "
        f"are not served, first route {first} of node {problem.route_node[first]}: no node within reach "
        f"holds one of its experts of block {problem.route_block[first]}, and there is no origin"
    )


def _slots(problem: PlacementProblem, text: str) -> int:
    if text == "auto":
        return max(1, most_equal_slots(problem))
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        refuse(f"--equal-slots: is {text!r:.60}, expected a number of slots or auto")
    return int(text)


def _summary(problem: PlacementProblem, result: SolveResult) -> dict[str, Any]:
    placement = result.placement
    return {
        "status": str(result.status),
        "algorithm": result.algorithm,
        "coupling": str(problem.coupling),
        "objective": number(result.objective),
        "lower_bound": number(result.lower_bound),
        "gap_ratio": number(result.gap_ratio),
        "runtime_seconds": result.runtime_seconds,
        "replicas": None if placement is None else int(placement.holds.sum()),
        "digest": None if placement is None else placement.digest,
        "shortfall": result.shortfall,
        "remark": None if placement is None else unserved(problem, placement.holds),
    }


def _params(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        refuse("--params: not JSON")
    if not isinstance(value, dict):
        refuse("--params: expected a JSON object")
    return value


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C into a stopping criterion; a second one ends the process as usual."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(_signal: int, _frame: FrameType | None) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def shown_progress() -> Iterator[Callable[[Progress], None] | None]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with console.status("reading the routes") as status:

        def show(progress: Progress) -> None:
            found = "" if progress.objective is None else f", {progress.objective:.6g} s/s"
            status.update(f"{progress.algorithm}: {progress.step}{found}, {progress.runtime_seconds:.1f} s")

        yield show
