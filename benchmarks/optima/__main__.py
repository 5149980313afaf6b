"""`python -m benchmarks.optima`: `certified` against optima by HiGHS, on instances from real routing.

Whole models are beyond HiGHS' reach, so the instances are single layers, with a few tokens of each node, and
of each token's experts the most probable ones: as many tokens and experts as leave HiGHS a chance. What has
been compared before is kept; `--for` ends early, and the next run goes on there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.instances import instance
from benchmarks.quality.traces import Trace, load_traces
from solvers.algorithms import solve
from solvers.precompile import warm
from solvers.problem import Coupling, PlacementProblem
from solvers.result import SolveStatus
from solvers.traffic import compile_traffic

PATIENCE = 10_000  # rounds: as good as it can within the limit is asked for, not soon
MEMORIES = (0.2, 0.3, 0.45)
SIZES = (  # nodes, tokens of each, experts of a token (None: all)
    (3, 24, 2),
    (3, 48, 2),
    (3, 64, 2),
    (3, 24, None),
    (4, 24, 2),
    (4, 40, 2),
)


@dataclass(frozen=True)
class Compared:
    """An instance that HiGHS closed. routes: distinct ones, weighted with how often they are; over_optimum:
    cost of `certified` / optimum - 1; bound_ratio: its bound / optimum, where more than 1 would break the
    certificate."""

    instance: str
    coupling: str
    routes: int
    optimum: float
    over_optimum: float
    bound_ratio: float
    exact_seconds: float
    certified_seconds: float


def instances(traces: list[Trace]) -> Iterator[tuple[str, PlacementProblem]]:
    """Per trace with routes and size: every coupling, on a layer of its own, memory and origin in turn."""
    for t, trace in enumerate(trace for trace in traces if not trace.counts):
        for i, (nodes, tokens, width) in enumerate(SIZES):
            layer = (3 * i + t) % trace.layers
            origin = (t + i) % 2 == 0
            memory = MEMORIES[(t + i) % len(MEMORIES)]
            where = "origin" if origin else "no origin"
            top = trace.requests[0].shape[2] if width is None else width
            name = (
                f"{trace.name}, layer {layer}, top-{top}, {nodes} nodes of {tokens} tokens, {where}, "
                f"{100 * memory:.0f} %"
            )
            cut = one_layer(trace, layer, top)
            for coupling in Coupling:
                yield name, instance(cut, nodes, coupling, memory=memory, origin=origin, tokens=tokens)


def one_layer(trace: Trace, layer: int, width: int) -> Trace:
    """The same traffic through one layer alone, of each token the `width` most probable experts."""
    requests = tuple(np.ascontiguousarray(run[:, layer : layer + 1, :width]) for run in trace.requests)
    return replace(trace, layers=1, requests=requests)


def optimum(problem: PlacementProblem, seconds: float) -> tuple[float, float] | None:
    """The optimum and the seconds HiGHS took; None where it does not close the instance within `seconds`."""
    best = solve(problem, "exact", params={"seconds": seconds, "bound_steps": 0})
    if best.status is not SolveStatus.OPTIMAL or best.objective is None:
        return None
    return best.objective, best.runtime_seconds


def compare(name: str, problem: PlacementProblem, known: tuple[float, float], limit: float) -> Compared:
    """`certified`, which has `limit` seconds, against what `optimum` has found."""
    best, exact_seconds = known
    wanted = {"goal_gap": 0.0, "patience": PATIENCE}
    found = solve(problem, "certified", params=wanted, time_limit_seconds=limit)
    assert found.objective is not None
    assert found.lower_bound is not None
    return Compared(
        name,
        problem.coupling.value,
        len(compile_traffic(problem).rate),
        best,
        found.objective / best - 1.0,
        found.lower_bound / best,
        round(exact_seconds, 2),
        round(found.runtime_seconds, 2),
    )


def markdown(compared: list[Compared], left: list[str], told: str) -> str:
    lines = [
        "# Optima: `certified` against HiGHS",
        "",
        told,
        "",
        "| instance | coupling | routes | cost over the optimum | bound / optimum | HiGHS | `certified` |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.instance} | {row.coupling} | {row.routes} | {100 * row.over_optimum:.3f} % "
        f"| {row.bound_ratio:.4f} | {row.exact_seconds:.1f} s | {row.certified_seconds:.1f} s |"
        for row in compared
    ]
    lines.append("")
    for coupling in Coupling:
        rows = [row for row in compared if row.coupling == coupling.value]
        if rows:
            exact = sum(row.over_optimum <= 1e-6 for row in rows)
            lines += [
                f"Under `{coupling.value}` at worst {100 * max(row.over_optimum for row in rows):.3f} % over "
                f"the optimum, which it finds on {exact} of {len(rows)} instances; the greatest bound is "
                f"{max(row.bound_ratio for row in rows):.6f} of the optimum.",
                "",
            ]
    if left:
        lines += ["Not closed by HiGHS in that time:", "", *(f"* {name}" for name in left), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.optima", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="what HiGHS may take per instance")
    parser.add_argument("--limit", type=float, default=12.0, help="what certified may take per instance")
    parser.add_argument("--for", type=float, dest="budget", help="seconds after which no instance is begun")
    parser.add_argument("--anew", action="store_true", help="forget what has been compared before")
    parser.add_argument(
        "--again", action="store_true", help="solve by certified again what has an optimum, and nothing else"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "optima")
    given = parser.parse_args()
    began = time.monotonic()
    traces, absent = load_traces()
    for line in absent:
        print(line, file=sys.stderr)
    warm()
    told = (
        f"Made by `python -m benchmarks.optima`: single layers of models, a few tokens of each node and the "
        f"most probable experts of each token, equal routes merged with their weights; more is beyond HiGHS. "
        f"HiGHS at most {given.seconds:g} s, `certified` at most {given.limit:g} s with a patience of "
        f"{PATIENCE} rounds. Memory is in parts of all experts of the layer."
    )
    kept = given.out.with_suffix(".json")
    before: dict[str, Any] = {"compared": [], "not_closed": []}
    if kept.exists() and not given.anew:
        before = json.loads(kept.read_text())
    compared = {f"{row['instance']}, {row['coupling']}": Compared(**row) for row in before["compared"]}
    left: list[str] = before["not_closed"]
    for name, problem in instances(traces):
        key = f"{name}, {problem.coupling.value}"
        if (key in compared) != given.again or key in left:
            continue
        if given.budget is not None and time.monotonic() - began > given.budget:
            break
        known = compared.get(key)
        best = (known.optimum, known.exact_seconds) if known else optimum(problem, given.seconds)
        if best is None:
            left.append(key)
        else:
            compared[key] = compare(name, problem, best, given.limit)
        print(compared.get(key, key), file=sys.stderr, flush=True)
        given.out.with_suffix(".md").write_text(markdown(list(compared.values()), left, told))
        document = {"compared": [asdict(one) for one in compared.values()], "not_closed": left}
        kept.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
