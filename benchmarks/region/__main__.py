"""`python -m benchmarks.region`: `certified` on regions of up to 1,000 nodes, beside baselines.

All in one process on one machine; read the ratios. Peak memory is the process's, the problem included, so a
row's is that of the largest before it. With `--processor` limits count seconds of processor, as two idle
processors give them: for a machine that others use, too.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.quality.clock import CLOCK, PARALLEL
from benchmarks.quality.traces import SHARED, load_traces
from benchmarks.region.instances import BLOCKS, EXPERTS, WIDTH, region_problem
from solvers.algorithms import solve
from solvers.cost.evaluate import evaluate
from solvers.placement import Placement
from solvers.precompile import warm
from solvers.problem import Coupling, PlacementProblem
from solvers.result import SolveResult

SIZES = (96, 128, 200, 300, 1000)
BASELINES = ("local_popularity", "global_popularity", "eplb")
TRACE = "deepseek-v2-lite"
DRIFT = 0.1  # sigma of the log-normal factor on every rate, before the warm solve
HORIZON_SECONDS, INGRESS = 3600.0, 1.25e9


@dataclass(frozen=True)
class Row:
    """One solve; `milliseconds` is the mean latency of a route, its cost without moves per route, `megabytes`
    what the multipliers take that it hands on."""

    nodes: int
    memory: float
    coupling: str
    solve: str
    seconds: float
    milliseconds: float
    gap_ratio: float | None
    kept_ratio: float | None
    peak_gigabytes: float
    clock: str = "clock"
    megabytes: float | None = None

    @property
    def key(self) -> tuple[int, float, str, str, str]:
        """What a row is of."""
        return self.nodes, self.memory, self.coupling, self.solve, self.clock


def _solved(
    name: str,
    problem: PlacementProblem,
    memory: float,
    algorithm: str,
    limit: float | None,
    before: SolveResult | None = None,
) -> tuple[Row, SolveResult]:
    params = None if algorithm == "certified" else {"bound_steps": 0}
    began = time.monotonic()
    result = solve(
        problem,
        algorithm,
        params=params,
        time_limit_seconds=limit,
        start=None if before is None else before.placement,
        multipliers=None if before is None else before.multipliers,
    )
    seconds = time.monotonic() - began
    assert result.placement is not None
    holds = result.placement.holds
    kept = None
    if before is not None and before.placement is not None:
        held = before.placement.holds
        kept = float((holds & held).sum() / held.sum())
    row = Row(
        problem.nodes,
        memory,
        problem.coupling.value,
        name,
        round(seconds, 1),
        1e3 * evaluate(problem, holds) / float(problem.route_rate.sum()),
        result.gap_ratio,
        kept,
        round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        CLOCK,
        None if result.multipliers is None else round(4e-6 * result.multipliers.numbers, 1),
    )
    return row, result


def drifted(problem: PlacementProblem, placed: Placement) -> PlacementProblem:
    """The same routes at rates that moved a little, with a placement in force and a price on moves."""
    factor = np.random.default_rng(1).lognormal(0.0, DRIFT, problem.routes)
    return problem.replace(
        route_rate=problem.route_rate * factor,
        current=placed.holds,
        ingress_bytes_per_second=np.full(problem.nodes, INGRESS),
        horizon_seconds=HORIZON_SECONDS,
    )


def markdown(rows: list[Row]) -> str:
    lines = [
        "# Regions",
        "",
        f"Made by `python -m benchmarks.region`: {BLOCKS} blocks of "
        f"{EXPERTS} experts, top-{WIDTH}, from {TRACE}'s routing; sites of 25 nodes. Memory is the median "
        "node's, in parts of all experts. Read the ratios. Seconds by `processor` are seconds of processor "
        f"over {PARALLEL}, which is what two idle processors give; by `clock` they are seconds as "
        "they passed. Rows of `before` are those of the version before areas handed multipliers on. "
        "The committed rows by `processor` come from a crowded machine, where one does about "
        "half of what it does alone: compare these rows with each other only.",
        "",
        "| nodes | memory | coupling | solve | seconds | by | mean latency of a route, ms | certified gap "
        "| replicas kept | multipliers | peak memory |",
        "|---:|---:|---|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        gap = "" if row.gap_ratio is None else f"{100 * row.gap_ratio:.1f} %"
        kept = "" if row.kept_ratio is None else f"{100 * row.kept_ratio:.1f} %"
        size = "" if row.megabytes is None else f"{row.megabytes:.0f} MB"
        lines.append(
            f"| {row.nodes:,} | {100 * row.memory:.0f} % | {row.coupling} | {row.solve} | {row.seconds:.1f} "
            f"| {row.clock} | {row.milliseconds:.3f} | {gap} | {kept} | {size} "
            f"| {row.peak_gigabytes:.2f} GB |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.region", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="nodes of each region")
    parser.add_argument(
        "--memory", type=float, default=0.06, help="of the median node, in parts of all experts"
    )
    parser.add_argument(
        "--coupling", type=Coupling, default=Coupling.SLOWEST, help="slowest, sum or colocated"
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="time limit of a cold solve of 1,000 nodes"
    )
    parser.add_argument("--brief", type=float, default=10.0, help="the same of a warm one")
    parser.add_argument("--processor", action="store_true", help="limits by seconds of processor")
    parser.add_argument("--no-baselines", action="store_true", help="only `certified`")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "region")
    given = parser.parse_args()
    console = Console(stderr=True)
    traces = [trace for trace in load_traces()[0] if trace.name == TRACE]
    if not traces:
        raise SystemExit(f"no traces of {TRACE} under {SHARED}: MOEPLACE_TRACES says where they are")
    warm()
    kept = given.out.with_suffix(".json")
    rows = [Row(**row) for row in json.loads(kept.read_text())] if kept.exists() else []
    for nodes in given.sizes:
        share = nodes / 1000
        problem = region_problem(traces[0], nodes, given.coupling, memory=given.memory)
        console.print(f"{nodes} nodes, {problem.routes:,} routes")

        def measured(
            name: str,
            algorithm: str,
            limit: float | None = None,
            before: SolveResult | None = None,
            problem: PlacementProblem = problem,
        ) -> SolveResult:
            row, found = _solved(name, problem, given.memory, algorithm, limit, before)
            console.print(f"  {name}: {row.seconds:.1f} s, {row.milliseconds:.3f} ms, gap {row.gap_ratio}")
            rows[:] = [*(other for other in rows if other.key != row.key), row]
            _write(rows, given.out)
            return found

        first = measured("certified, cold", "certified", max(6.0, given.seconds * share))
        assert first.placement is not None
        brief = max(2.0, given.brief * share)
        moved = drifted(problem, first.placement)
        measured("certified, warm, drifted", "certified", brief, first, moved)
        for name in () if given.no_baselines else BASELINES:
            measured(name, name)
    print(markdown(rows))


def _write(rows: list[Row], out: Path) -> None:
    """Rows that were measured before stay, unless they are measured again."""
    rows.sort(key=lambda row: (row.coupling, row.memory, row.nodes, row.clock))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text(markdown(rows), encoding="utf-8")
    out.with_suffix(".json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
