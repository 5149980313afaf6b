"""`python -m benchmarks.quality.sizes`: `certified` and other algorithms at every fleet size and limit."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.quality.clock import CLOCK, PARALLEL
from benchmarks.quality.middle import middle_problem
from benchmarks.quality.traces import load_traces
from solvers.algorithms import solve
from solvers.precompile import warm
from solvers.problem import Coupling, PlacementProblem

TRACE = "deepseek-v2-lite"
OTHERS = ("sgd", "maxconv", "greedy", "prism", "local_popularity")
SIZES = (4, 8, 16, 32, 48, 64, 96, 128, 300, 1000)
LIMITS = (0.3, 1.0, 5.0, 20.0, 60.0)
JUDGE = "certified"


@dataclass(frozen=True)
class Row:
    """One solve of a fleet of `nodes` within `limit_seconds`."""

    routing: str
    coupling: str
    nodes: int
    limit_seconds: float
    algorithm: str
    objective: float | None
    lower_bound: float | None
    gap_ratio: float | None
    seconds: float
    clock: str

    @property
    def case(self) -> tuple[str, str, int, float]:
        """What algorithms are compared on."""
        return self.routing, self.coupling, self.nodes, self.limit_seconds


def measure(problem: PlacementProblem, routing: str, limit: float, algorithm: str) -> Row:
    """One solve. Only `certified` spends time on a bound: the others search until the limit."""
    params = None if algorithm == JUDGE else {"bound_steps": 0}
    found = solve(problem, algorithm, params=params, time_limit_seconds=limit)
    return Row(
        routing,
        problem.coupling.value,
        problem.nodes,
        limit,
        algorithm,
        found.objective,
        found.lower_bound,
        found.gap_ratio,
        round(found.runtime_seconds, 2),
        CLOCK,
    )


def markdown(rows: list[Row]) -> str:
    """A case a line: what `certified` reaches, what it proves, and how much better the best other one is."""
    lines = [
        "# Fleets of every size",
        "",
        "Made by `python -m benchmarks.quality.sizes`, at once or in parts (`--sizes`, `--limits`, "
        "`--keep`): 26 blocks of 64 experts, top 6, nodes on a plane 2 to 40 ms apart with memory for 10 to "
        "30 % of the model, an origin at 80 ms, 40 tokens of each node. `ahead` is how much less the best "
        "other algorithm costs than `certified` at the same limit; below 0 it costs more. Limits and seconds "
        f"by `processor` are seconds of processor over {PARALLEL}, which is what two idle processors give; "
        "by `clock` they are seconds as they passed.",
        "",
        "| routing | coupling | nodes | limit | by | certified | gap | seconds | best other | ahead |",
        "|---|---|---:|---:|---|---:|---:|---:|---|---:|",
    ]
    for case in sorted({row.case for row in rows}):
        mine = [row for row in rows if row.case == case]
        ours = next((row for row in mine if row.algorithm == JUDGE), None)
        if ours is None or ours.objective is None:
            continue
        others = [row for row in mine if row.algorithm != JUDGE and row.objective is not None]
        best = min(others, key=lambda row: row.objective or 0.0, default=None)
        ahead = "" if best is None else f"{100 * (1.0 - (best.objective or 0.0) / ours.objective):.2f} %"
        gap = "" if ours.gap_ratio is None else f"{100 * ours.gap_ratio:.2f} %"
        other = "" if best is None else f"{best.algorithm} {best.objective:.4f}"
        lines.append(
            f"| {case[0]} | {case[1]} | {case[2]} | {case[3]:g} | {ours.clock} | {ours.objective:.4f} "
            f"| {gap} | {ours.seconds:.1f} | {other} | {ahead} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.sizes", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--limits", type=float, nargs="+", default=list(LIMITS))
    parser.add_argument("--algorithms", nargs="+", default=[JUDGE, *OTHERS])
    parser.add_argument("--couplings", nargs="+", default=[Coupling.SLOWEST.value])
    parser.add_argument("--routing", nargs="+", choices=("drawn", "recorded"), default=["drawn"])
    parser.add_argument("--processor", action="store_true", help="limits by seconds of processor")
    parser.add_argument("--keep", action="store_true", help="keep the results' rows not measured now")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "sizes")
    given = parser.parse_args()
    trace = None
    if "recorded" in given.routing:
        found, absent = load_traces()
        trace = next((one for one in found if one.name == TRACE), None)
        if trace is None:
            parser.error(f"--routing recorded: {'; '.join(absent)}")
    warm()
    rows: list[Row] = []
    stored = given.out.with_suffix(".json")
    if given.keep and stored.exists():
        rows = [Row(**row) for row in json.loads(stored.read_text())]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    for routing in given.routing:
        for coupling in given.couplings:
            for nodes in given.sizes:
                problem = middle_problem(nodes, Coupling(coupling), trace if routing == "recorded" else None)
                for limit in given.limits:
                    for algorithm in given.algorithms:
                        row = measure(problem, routing, limit, algorithm)
                        rows = [
                            old for old in rows if (old.case, old.algorithm) != (row.case, row.algorithm)
                        ] + [row]
                        print(row, file=sys.stderr, flush=True)
                        given.out.with_suffix(".md").write_text(markdown(rows))
                        stored.write_text(json.dumps([asdict(one) for one in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
