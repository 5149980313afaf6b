"""`python -m benchmarks.optima`: `certified` against optima by HiGHS, on instances from real routing.

Few whole models are within HiGHS' reach, so the instances are models cut to their first layers: as many as
the command names.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.quality.instances import instance
from benchmarks.quality.traces import Trace, load_traces
from solvers.problem import Coupling, PlacementProblem
from solvers.result import SolveStatus
from solvers.solve import solve
from solvers.warm import warm

MEMORIES = (0.2, 0.3, 0.45)


@dataclass(frozen=True)
class Compared:
    """An instance that HiGHS closed. over_optimum: cost of `certified` / optimum - 1; bound_ratio: its bound
    / optimum, where more than 1 would break the certificate."""

    instance: str
    coupling: str
    optimum: float
    over_optimum: float
    bound_ratio: float
    exact_seconds: float
    certified_seconds: float


def instances(
    traces: list[Trace], nodes: list[int], layers: list[int]
) -> Iterator[tuple[str, PlacementProblem]]:
    """Per trace, fleet and number of layers: every coupling, memory and origin varying in turn."""
    for t, trace in enumerate(traces):
        for i, count in enumerate(nodes):
            for j, depth in enumerate(layers):
                if depth > trace.layers:
                    continue
                origin = (t + i + j) % 2 == 0
                memory = MEMORIES[(t + i + j) % len(MEMORIES)]
                where = "origin" if origin else "no origin"
                name = f"{trace.name}, {depth} layers, {count} nodes, {where}, {100 * memory:.0f} %"
                cut = first_layers(trace, depth)
                for coupling in [Coupling.SUM] if trace.counts else list(Coupling):
                    yield name, instance(cut, count, coupling, memory=memory, origin=origin)


def first_layers(trace: Trace, layers: int) -> Trace:
    """The same traffic through the first `layers` layers alone."""
    return replace(
        trace,
        layers=layers,
        requests=tuple(request[:, :layers] for request in trace.requests),
        counts=tuple(calls[:layers] for calls in trace.counts),
    )


def compare(name: str, problem: PlacementProblem, seconds: float, limit: float) -> Compared | None:
    """None where HiGHS does not close the instance within `seconds`; `certified` has `limit` seconds."""
    found = solve(problem, "certified", params={"goal_gap": 0.0}, time_limit_seconds=limit)
    best = solve(problem, "exact", params={"seconds": seconds, "bound_steps": 0})
    if best.status is not SolveStatus.OPTIMAL or best.objective is None:
        return None
    assert found.objective is not None
    assert found.lower_bound is not None
    return Compared(
        name,
        problem.coupling.value,
        best.objective,
        found.objective / best.objective - 1.0,
        found.lower_bound / best.objective,
        round(best.runtime_seconds, 2),
        round(found.runtime_seconds, 2),
    )


def markdown(compared: list[Compared], left: list[str], told: str) -> str:
    lines = [
        "# Optima: `certified` against HiGHS",
        "",
        told,
        "",
        "| instance | coupling | cost over the optimum | bound / optimum | HiGHS | `certified` |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.instance} | {row.coupling} | {100 * row.over_optimum:.3f} % | {row.bound_ratio:.4f} | "
        f"{row.exact_seconds:.1f} s | {row.certified_seconds:.1f} s |"
        for row in compared
    ]
    lines.append("")
    if compared:
        worst = max(row.over_optimum for row in compared)
        lines += [
            f"At worst {100 * max(0.0, worst):.3f} % over the optimum, on {len(compared)} instances; the "
            f"greatest bound is {max(row.bound_ratio for row in compared):.6f} of the optimum.",
            "",
        ]
    if left:
        lines += ["Not closed by HiGHS in that time:", "", *(f"* {name}" for name in left), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.optima", description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[3, 4, 6])
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=600.0, help="what HiGHS may take per instance")
    parser.add_argument("--limit", type=float, default=12.0, help="what certified may take per instance")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "optima")
    given = parser.parse_args()
    traces, absent = load_traces()
    for line in absent:
        print(line, file=sys.stderr)
    warm()
    command = shlex.join(["python", "-m", "benchmarks.optima", *sys.argv[1:]])
    told = f"Made by `{command}`; HiGHS at most {given.seconds:g} s, `certified` at most {given.limit:g} s."
    compared: list[Compared] = []
    left: list[str] = []
    for name, problem in instances(traces, given.nodes, given.layers):
        row = compare(name, problem, given.seconds, given.limit)
        if row is None:
            left.append(f"{name}, {problem.coupling.value}")
        else:
            compared.append(row)
        print(left[-1] if row is None else row, file=sys.stderr, flush=True)
        given.out.with_suffix(".md").write_text(markdown(compared, left, told))
        document = {"command": command, "compared": [asdict(one) for one in compared], "not_closed": left}
        given.out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
