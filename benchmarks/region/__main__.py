"""`python -m benchmarks.region`: `certified` on regions of up to 1,000 nodes, beside baselines.

All in one process on one machine; read the ratios. Peak memory is the process's, the problem included, so a
row's is that of the largest before it.
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

from benchmarks.quality.traces import SHARED, load_traces
from benchmarks.region.instances import BLOCKS, EXPERTS, WIDTH, region_problem
from solvers.algorithms import solve
from solvers.cost.evaluate import evaluate
from solvers.placement import Placement
from solvers.precompile import warm
from solvers.problem import Coupling, PlacementProblem

SIZES = (100, 300, 1000)
BASELINES = ("local_popularity", "global_popularity", "eplb")
TRACE = "deepseek-v2-lite"
DRIFT = 0.1  # sigma of the log-normal factor on every rate, before the warm solve
HORIZON_SECONDS, INGRESS = 3600.0, 1.25e9


@dataclass(frozen=True)
class Row:
    """One solve; `milliseconds` is the mean latency of a route, its cost without moves per route."""

    nodes: int
    memory: float
    coupling: str
    solve: str
    seconds: float
    milliseconds: float
    gap_ratio: float | None
    kept_ratio: float | None
    peak_gigabytes: float

    @property
    def key(self) -> tuple[int, float, str, str]:
        """What a row is of."""
        return self.nodes, self.memory, self.coupling, self.solve


def _solved(
    name: str,
    problem: PlacementProblem,
    memory: float,
    algorithm: str,
    limit: float | None,
    start: Placement | None = None,
) -> tuple[Row, Placement]:
    params = None if algorithm == "certified" else {"bound_steps": 0}
    began = time.monotonic()
    result = solve(problem, algorithm, params=params, time_limit_seconds=limit, start=start)
    seconds = time.monotonic() - began
    assert result.placement is not None
    holds = result.placement.holds
    kept = None
    if start is not None:
        kept = float((holds & start.holds).sum() / start.holds.sum())
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
    )
    return row, result.placement


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
        "node's, in parts of all experts. Read the ratios.",
        "",
        "| nodes | memory | coupling | solve | seconds | mean latency of a route, ms | certified gap "
        "| replicas kept | peak memory |",
        "|---:|---:|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        gap = "" if row.gap_ratio is None else f"{100 * row.gap_ratio:.1f} %"
        kept = "" if row.kept_ratio is None else f"{100 * row.kept_ratio:.1f} %"
        lines.append(
            f"| {row.nodes:,} | {100 * row.memory:.0f} % | {row.coupling} | {row.solve} | {row.seconds:.1f} "
            f"| {row.milliseconds:.3f} | {gap} | {kept} | {row.peak_gigabytes:.2f} GB |"
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
        "--seconds", type=float, default=55.0, help="time limit of a cold solve of 1,000 nodes"
    )
    parser.add_argument("--brief", type=float, default=20.0, help="the same of a warm one")
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
            start: Placement | None = None,
            problem: PlacementProblem = problem,
        ) -> Placement:
            row, placed = _solved(name, problem, given.memory, algorithm, limit, start)
            console.print(f"  {name}: {row.seconds:.1f} s, {row.milliseconds:.3f} ms, gap {row.gap_ratio}")
            rows[:] = [*(other for other in rows if other.key != row.key), row]
            _write(rows, given.out)
            return placed

        placed = measured("certified, cold", "certified", max(5.0, given.seconds * share))
        brief = max(3.0, given.brief * share)
        moved = drifted(problem, placed)
        measured("certified, warm, drifted", "certified", brief, placed, moved)
        for name in BASELINES:
            measured(name, name)
    print(markdown(rows))


def _write(rows: list[Row], out: Path) -> None:
    """Rows that were measured before stay, unless they are measured again."""
    rows.sort(key=lambda row: (row.coupling, row.memory, row.nodes))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text(markdown(rows), encoding="utf-8")
    out.with_suffix(".json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
