"""The table of all algorithms and instances: cost over the best lower bound known, and time."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass

from solvers.algorithms import solve
from solvers.problem import PlacementProblem


@dataclass(frozen=True)
class Row:
    """One solve. over_bound: cost / best bound of the instance - 1, None where there is no such number;
    limit_seconds: what the solve was given."""

    instance: str
    coupling: str
    algorithm: str
    status: str
    objective: float | None
    lower_bound: float | None
    over_bound: float | None
    seconds: float
    limit_seconds: float


def measure(
    name: str, problem: PlacementProblem, algorithms: list[str], judge: str, seconds: float
) -> list[Row]:
    """Solves `problem` by each algorithm within `seconds`; only `judge` climbs to a bound."""
    found = []
    for algorithm in algorithms:
        params = None if algorithm == judge else {"bound_steps": 0}
        result = solve(problem, algorithm, params=params, time_limit_seconds=seconds)
        found.append(
            Row(
                name,
                problem.coupling.value,
                algorithm,
                result.status.value,
                result.objective,
                result.lower_bound,
                None,
                round(result.runtime_seconds, 2),
                seconds,
            )
        )
    bound = max((row.lower_bound for row in found if row.lower_bound is not None), default=0.0)
    return [Row(**(asdict(row) | {"over_bound": _over(row.objective, bound)})) for row in found]


def _over(objective: float | None, bound: float) -> float | None:
    if objective is None or bound <= 0.0 or not math.isfinite(objective):
        return None
    return objective / bound - 1.0


def markdown(rows: list[Row], judge: str) -> str:
    """The rows as a table, an instance a line, and what the certificate came to per coupling."""
    algorithms = list(dict.fromkeys(row.algorithm for row in rows))
    lines = [
        "| instance | coupling | " + " | ".join(algorithms) + " |",
        "|---|---|" + "---:|" * len(algorithms),
    ]
    cells = {(row.instance, row.coupling, row.algorithm): row for row in rows}
    for instance, coupling in dict.fromkeys((row.instance, row.coupling) for row in rows):
        shown = [_cell(cells.get((instance, coupling, algorithm))) for algorithm in algorithms]
        lines.append(f"| {instance} | {coupling} | " + " | ".join(shown) + " |")
    lines.append("")
    for coupling in dict.fromkeys(row.coupling for row in rows):
        gaps = [
            row.over_bound / (1.0 + row.over_bound)
            for row in rows
            if row.algorithm == judge and row.coupling == coupling and row.over_bound is not None
        ]
        beaten = [
            1.0 - other.objective / row.objective
            for row in rows
            if row.algorithm == judge and row.coupling == coupling and row.objective
            for other in rows
            if (other.instance, other.coupling) == (row.instance, coupling) and other.objective is not None
        ]
        if gaps:
            lines.append(
                f"`{judge}` under `{coupling}`: certified gap {100 * statistics.median(gaps):.2f} % at the "
                f"median, {100 * max(gaps):.2f} % at worst over {len(gaps)} instances; another algorithm is "
                f"better by {100 * max(0.0, *beaten, 0.0):.2f} % at most."
            )
            lines.append("")
    return "\n".join(lines)


def heading(rows: list[Row]) -> str:
    """What was measured, whether at once or in pieces."""
    limits = sorted({f"{row.limit_seconds:g}" for row in rows}, key=float)
    instances = len({(row.instance, row.coupling) for row in rows})
    return (
        "# Quality: cost over the best lower bound, and time\n\n"
        f"Made by `python -m benchmarks.quality`, at once or in pieces (`--only ... --keep`): {instances} "
        f"instances, at most {' or '.join(limits)} s per solve (`--seconds`), the bound included where the "
        "algorithm certifies.\n\n"
    )


def medians(rows: list[Row]) -> str:
    """Per algorithm and coupling: cost over the bound and seconds, each the median over the instances."""
    couplings = list(dict.fromkeys(row.coupling for row in rows))
    lines = ["| median | " + " | ".join(couplings) + " |", "|---|" + "---:|" * len(couplings)]
    for algorithm in dict.fromkeys(row.algorithm for row in rows):
        shown = []
        for coupling in couplings:
            mine = [row for row in rows if (row.algorithm, row.coupling) == (algorithm, coupling)]
            over = [row.over_bound for row in mine if row.over_bound is not None]
            seconds = statistics.median(row.seconds for row in mine)
            shown.append(f"{100 * statistics.median(over):.1f} %, {seconds:.1f} s" if over else "")
        lines.append(f"| `{algorithm}` | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n\n"


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row.over_bound is None:
        return f"{row.status}, {row.seconds:.1f} s"
    return f"{100 * row.over_bound:.2f} %, {row.seconds:.1f} s"
