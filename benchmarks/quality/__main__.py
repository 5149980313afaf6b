"""`python -m benchmarks.quality`: every algorithm on instances from real routing, judged by one bound."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.quality.instances import instance
from benchmarks.quality.table import Row, heading, markdown, measure, medians
from benchmarks.quality.traces import Trace, load_traces
from solvers.algorithms import ALGORITHMS
from solvers.precompile import warm
from solvers.problem import Coupling, PlacementProblem

JUDGE = "certified"
LEFT_OUT = ("exact",)  # for small instances; tests hold the others to it
MEMORIES = (0.2, 0.3, 0.45)


def instances(traces: list[Trace], nodes: list[int], both: bool) -> list[tuple[str, PlacementProblem]]:
    """Per trace and fleet: with an origin or without, in turn or `both`, the memory varying with them; the
    coupled ones with full routes, and single calls of the most probable expert."""
    made = []
    for t, trace in enumerate(traces):
        for i, count in enumerate(nodes):
            for origin in (True, False) if both else ((t + i) % 2 == 0,):
                memory = MEMORIES[(t + i + origin) % len(MEMORIES)]
                where = "origin" if origin else "no origin"
                name = f"{trace.name}, {count} nodes, {where}, {100 * memory:.0f} %"
                couplings = [Coupling.SUM] if trace.counts else list(Coupling)
                made += [
                    (name, instance(trace, count, coupling, memory=memory, origin=origin))
                    for coupling in couplings
                ]
                if origin and not trace.counts:
                    single = instance(
                        trace, count, Coupling.SLOWEST, memory=memory, origin=True, top_one=True
                    )
                    made.append((f"{name}, top-1", single))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--only", nargs="+", help="instances whose name contains one of these")
    parser.add_argument("--both", action="store_true", help="every fleet with and without an origin")
    parser.add_argument("--algorithms", nargs="+", help="all but exact by default")
    parser.add_argument("--seconds", type=float, default=15.0, help="time limit of each solve")
    parser.add_argument(
        "--keep", action="store_true", help="keep what the results have of instances not measured now"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "quality")
    given = parser.parse_args()
    algorithms = given.algorithms or [name for name in ALGORITHMS if name not in LEFT_OUT]
    traces, absent = load_traces()
    for line in absent:
        print(line, file=sys.stderr)
    warm()
    began = time.monotonic()
    measured: list[Row] = []
    kept: list[Row] = []
    if given.keep:
        kept = [Row(**row) for row in json.loads(given.out.with_suffix(".json").read_text())]
    todo = instances(traces, given.nodes, given.both)
    if given.only:
        todo = [made for made in todo if any(word in made[0] for word in given.only)]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    for number, (name, problem) in enumerate(todo, 1):
        measured += measure(name, problem, algorithms, JUDGE, given.seconds)
        again = {(row.instance, row.coupling) for row in measured}
        rows = [row for row in kept if (row.instance, row.coupling) not in again] + measured
        judged = next((row for row in measured[::-1] if row.algorithm == JUDGE), None)
        over = "" if judged is None or judged.over_bound is None else f" {100 * judged.over_bound:.2f} %"
        print(f"{number}/{len(todo)} {name} {problem.coupling}{over}", file=sys.stderr, flush=True)
        given.out.with_suffix(".md").write_text(heading(rows) + medians(rows) + markdown(rows, JUDGE))
        given.out.with_suffix(".json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(f"{len(measured)} solves in {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
