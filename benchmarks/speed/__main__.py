"""`python -m benchmarks.speed`: `certified` on the shape of DeepSeek-V3, cold and warm, beside EPLB.

All in one process on one machine; read the ratios. Peak memory is the process's, the problem included.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.speed.shapes import drawn_problem
from solvers.algorithms import solve
from solvers.dual.pdhg import Ascent
from solvers.placement import Placement
from solvers.precompile import warm
from solvers.problem import Coupling, PlacementProblem
from solvers.result import SolveResult
from solvers.traffic import compile_traffic

NODES, BLOCKS, EXPERTS, WIDTH = 32, 58, 256, 8
DRIFT = 0.1  # sigma of the log-normal factor on every rate
STEPS = 5  # of the climb that growth is measured on
GOALS = {Coupling.SLOWEST: 0.05, Coupling.SUM: 0.005}  # certified gaps at which a search ends


@dataclass(frozen=True)
class Row:
    """One solve: what it was, its seconds, cost, certified gap, and the process's peak memory after it."""

    solve: str
    coupling: str
    seconds: float
    objective: float | None
    gap_ratio: float | None
    peak_gigabytes: float


def _row(name: str, problem: PlacementProblem, result: SolveResult) -> Row:
    return Row(
        name,
        problem.coupling.value,
        round(result.runtime_seconds, 2),
        result.objective,
        result.gap_ratio,
        round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    )


def drifted(problem: PlacementProblem) -> PlacementProblem:
    """The same routes at rates that moved a little."""
    factor = np.random.default_rng(1).lognormal(0.0, DRIFT, problem.routes)
    return problem.replace(route_rate=problem.route_rate * factor)


def solves(problem: PlacementProblem, cold: float, brief: float) -> list[Row]:
    """Cold, EPLB beside it, then after a drift: cold again, warm from the first placement with the
    multipliers of its solve, as the service does, and without them, as after a restart."""
    rows = []
    goal = {"goal_gap": GOALS[problem.coupling]}
    first = solve(problem, "certified", params=goal, time_limit_seconds=cold)
    rows.append(_row("certified, cold", problem, first))
    balanced = solve(problem, "eplb", params={"bound_steps": 0})
    rows.append(_row("eplb", problem, balanced))
    moved = drifted(problem)
    again = solve(moved, "certified", params=goal, time_limit_seconds=cold)
    rows.append(_row("certified, cold, after the drift", moved, again))
    assert first.placement is not None
    start = Placement(first.placement.holds)
    for name, known in (("warm", first.multipliers), ("warm, placement alone", None)):
        warmed = solve(
            moved, "certified", params=goal, start=start, multipliers=known, time_limit_seconds=brief
        )
        rows.append(_row(f"certified, {name}, after the drift", moved, warmed))
    return rows


def growth() -> list[tuple[int, int, float]]:
    """Nodes, routes and seconds of one step of the climb under `slowest`, at a tenth of the blocks."""
    found = []
    for nodes in (8, 16, 32):
        for routes in (250, 1000):
            problem = drawn_problem(nodes, BLOCKS // 10, EXPERTS, WIDTH, routes, Coupling.SLOWEST)
            traffic = compile_traffic(problem)
            ascent = Ascent(problem, traffic, np.zeros((nodes, problem.experts), np.uint8), 1e9)
            ascent.step()
            began = time.monotonic()
            for _ in range(STEPS):
                ascent.step()
            found.append((nodes, problem.routes, (time.monotonic() - began) / STEPS))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--routes", type=int, default=2000, help="per node and block")
    parser.add_argument("--seconds", type=float, default=20.0, help="time limit of a cold solve")
    parser.add_argument("--brief", type=float, default=1.0, help="time limit of a warm one")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "speed")
    given = parser.parse_args()
    warm()
    steps = growth()
    problem = drawn_problem(NODES, BLOCKS, EXPERTS, WIDTH, given.routes, Coupling.SLOWEST)
    rows = solves(problem, given.seconds, given.brief)
    rows += solves(problem.replace(coupling=Coupling.SUM), given.seconds, given.brief)
    lines = [
        "# Speed: the shape of DeepSeek-V3",
        "",
        f"Made by `{shlex.join(['python', '-m', 'benchmarks.speed', *sys.argv[1:]])}`: {BLOCKS} blocks of "
        f"{EXPERTS} experts, top-{WIDTH}, {NODES} nodes, {problem.routes:,} routes. Read the ratios. "
        f"A search ends at a certified gap of {100 * GOALS[Coupling.SLOWEST]:g} % under `slowest` and of "
        f"{100 * GOALS[Coupling.SUM]:g} % under `sum`, or at its time limit: {given.seconds:g} s cold, "
        f"{given.brief:g} s warm.",
        "",
        "| coupling | solve | seconds | cost | certified gap | peak memory |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        gap = "" if row.gap_ratio is None else f"{100 * row.gap_ratio:.2f} %"
        lines.append(
            f"| {row.coupling} | {row.solve} | {row.seconds:.2f} | {row.objective or 0.0:.4f} | {gap} | "
            f"{row.peak_gigabytes:.2f} GB |"
        )
    lines += ["", "| nodes | routes | one step of the climb, seconds | per million routes x nodes |"]
    lines += ["|---:|---:|---:|---:|"]
    for nodes, routes, seconds in steps:
        lines.append(f"| {nodes} | {routes:,} | {seconds:.4f} | {1e6 * seconds / (routes * nodes):.4f} |")
    text = "\n".join(lines) + "\n"
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.with_suffix(".md").write_text(text)
    given.out.with_suffix(".json").write_text(
        json.dumps({"solves": [asdict(row) for row in rows], "growth": steps}, indent=1) + "\n"
    )
    print(text)


if __name__ == "__main__":
    main()
