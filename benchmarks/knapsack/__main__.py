"""`python -m benchmarks.knapsack`: the knapsack over blocks at one node, and what it makes of a whole solve.

First the exact recursion of `sgd` against both forms of `maxconv`, as capacity and blocks grow, on concave
tables of random slopes and on tables that rise the more the more is held; experts of three sizes whose
greatest common divisor is one. Then whole solves of `sgd` and `maxconv` under each coupling, with experts of
such sizes. All in one process; read the ratios.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from solvers.algorithms import solve
from solvers.heuristics.convolution import choose_counts_concave, choose_counts_rounded
from solvers.kernels.knapsack import group_knapsack
from solvers.params import MaxconvParams
from solvers.problem import Coupling, Float64, Int32, Int64, PlacementProblem

SIZES = (1009, 1423, 2003)
EXPERTS = 64
SHAPES = (  # tables, blocks, and capacity as a share of the bytes of all experts
    ("concave", 8, 0.3),
    ("concave", 16, 0.3),
    ("concave", 32, 0.3),
    ("concave", 32, 0.05),
    ("concave", 32, 0.1),
    ("rising", 8, 0.3),
    ("rising", 16, 0.3),
    ("rising", 32, 0.1),
    ("rising", 32, 0.3),
)
EPS = MaxconvParams().eps
RUNS = 3
NODES, BLOCKS, TOKENS, TOP = 5, 9, 150, 4  # of the whole solves
FLEET_EXPERTS = 32
MODES = {
    "sgd": ("sgd", {}),
    "fptas": ("maxconv", {"mode": "fptas"}),
    "concave": ("maxconv", {"mode": "concave"}),
}


@dataclass(frozen=True)
class Row:
    """One shape: seconds of the three, and what the two forms gain of the exact gain. The form for concave
    tables is not for others."""

    tables: str
    blocks: int
    units: int
    exact_seconds: float
    concave_seconds: float | None
    fptas_seconds: float
    concave_gain_ratio: float | None
    fptas_gain_ratio: float


@dataclass(frozen=True)
class Solve:
    """A whole solve: cost over that of `sgd`, and processor seconds."""

    coupling: str
    mode: str
    cost_ratio: float
    seconds: float


def _exact(values: Float64, start: Int64, size: Int64, capacity: int, _: float) -> Int32:
    choice = np.zeros(len(size), np.int32)
    group_knapsack(values, start, size, capacity, choice)
    return choice


def _tables(kind: str, blocks: int, generator: np.random.Generator) -> Float64:
    """float64[B, E + 1]: concave, or such that the last experts of a block are worth the most, as those of
    routes that wait for their slowest call."""
    rises = generator.exponential(1.0, (blocks, EXPERTS))
    if kind == "concave":
        rises = -np.sort(-rises, axis=1)
    else:
        rises *= np.linspace(0.0, 2.0, EXPERTS) ** generator.uniform(0.3, 3.0, (blocks, 1))
    return np.pad(np.cumsum(rises, axis=1), ((0, 0), (1, 0)))


def measure(tables: str, blocks: int, share: float) -> Row:
    """One shape, the same for everybody who measures it."""
    generator = np.random.default_rng(blocks)
    start = np.arange(blocks + 1) * (EXPERTS + 1)
    values = _tables(tables, blocks, generator).reshape(-1)
    size = np.resize(SIZES, blocks).astype(np.int64)
    capacity = int(share * EXPERTS * int(size.sum()))

    def timed(choose: Callable[[Float64, Int64, Int64, int, float], Int32 | None]) -> tuple[float, float]:
        seconds, gain = [], 0.0
        for _ in range(1 if choose is _exact else RUNS):
            began = time.process_time()
            counts = choose(values, start, size, capacity, EPS)
            seconds.append(time.process_time() - began)
            assert counts is not None
            gain = float(values[start[:-1] + counts].sum())
        return min(seconds), gain

    exact, best = timed(_exact)
    fptas, second = timed(choose_counts_rounded)
    concave = first = None
    if tables == "concave":
        concave, first = timed(choose_counts_concave)
    ratio = None if first is None else first / best
    return Row(tables, blocks, capacity, exact, concave, fptas, ratio, second / best)


def fleet(coupling: Coupling, tokens: int = TOKENS) -> PlacementProblem:
    """Nodes on a plane whose tokens prefer some groups of experts, each in its own way."""
    generator = np.random.default_rng(1)
    place = generator.uniform(0, 1, (NODES, 2))
    latency = 3e-3 + 12e-3 * np.linalg.norm(place[:, None] - place[None, :], axis=2)
    np.fill_diagonal(latency, 1e-3)
    routes = NODES * BLOCKS * tokens
    node = np.repeat(np.arange(NODES), BLOCKS * tokens)
    block = np.tile(np.repeat(np.arange(BLOCKS), tokens), NODES)
    groups = np.argsort(generator.random((BLOCKS, FLEET_EXPERTS)), axis=1).reshape(BLOCKS, -1, 8)
    liked = generator.dirichlet(np.full(groups.shape[1], 0.5), (NODES, BLOCKS))
    experts = np.empty((routes, TOP), np.int32)
    for r in range(routes):
        group = groups[block[r], generator.choice(groups.shape[1], p=liked[node[r], block[r]])]
        experts[r] = generator.choice(group, TOP, replace=False)
    size = np.resize(SIZES, BLOCKS).astype(np.int64)
    total = int(size.sum()) * FLEET_EXPERTS
    return PlacementProblem(
        expert_bytes=size,
        experts_per_block=np.full(BLOCKS, FLEET_EXPERTS),
        capacity_bytes=(total * generator.uniform(0.15, 0.45, NODES)).astype(np.int64),
        latency_seconds=latency,
        origin_latency_seconds=np.full(NODES, 50e-3),
        route_node=node.astype(np.int32),
        route_block=block.astype(np.int32),
        route_experts=experts,
        route_rate=np.full(routes, 1.0 / tokens),
        coupling=coupling,
        min_replicas=0,
    )


def solves(tokens: int = TOKENS) -> list[Solve]:
    """Whole solves under each coupling."""
    found = []
    for coupling in Coupling:
        problem = fleet(coupling, tokens)
        base = 0.0
        for mode, (algorithm, params) in MODES.items():
            began = time.process_time()
            cost = solve(problem, algorithm, params=params | {"bound_steps": 0}).objective
            seconds = time.process_time() - began
            assert cost is not None
            base = base or cost
            found.append(Solve(str(coupling), mode, cost / base, seconds))
    return found


def markdown(rows: list[Row], whole: list[Solve]) -> str:
    """The tables, with what one is in terms of the other."""

    def said(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    lines = [
        f"Experts per block {EXPERTS}, sizes {', '.join(map(str, SIZES))}, eps {EPS}. Processor seconds of "
        f"the exact recursion are of one run, the others the least of {RUNS}.",
        "",
        "| tables | blocks | capacity, units | exact s | `concave` s | times faster | `fptas` s "
        "| times faster | `fptas` gain over exact |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        faster = None if row.concave_seconds is None else row.exact_seconds / row.concave_seconds
        lines.append(
            f"| {row.tables} | {row.blocks} | {row.units} | {row.exact_seconds:.3f} "
            f"| {said(row.concave_seconds, '.4f')} | {said(faster, '.0f')} | {row.fptas_seconds:.4f} "
            f"| {row.exact_seconds / row.fptas_seconds:.0f} | {row.fptas_gain_ratio:.4f} |"
        )
    lines += [
        "",
        f"Whole solves of {NODES} nodes, {BLOCKS} blocks of {FLEET_EXPERTS} experts of these sizes, "
        f"top {TOP}.",
        "",
        "| coupling | solver | cost over `sgd` | processor s |",
        "|---|---|---:|---:|",
    ]
    lines += [f"| {one.coupling} | {one.mode} | {one.cost_ratio:.4f} | {one.seconds:.2f} |" for one in whole]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.knapsack", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "knapsack")
    out: Path = parser.parse_args().out
    measure("rising", 3, 0.1)  # loads the kernels
    measure("concave", 2, 0.1)
    rows = [measure(*shape) for shape in SHAPES]
    for row in rows:
        assert row.concave_gain_ratio is None or abs(row.concave_gain_ratio - 1.0) < 1e-9
        assert row.fptas_gain_ratio >= 1.0 - EPS
    out.parent.mkdir(parents=True, exist_ok=True)
    solves(2)  # loads the rest of them
    whole = solves()
    text = markdown(rows, whole)
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    found = {"knapsacks": [asdict(row) for row in rows], "solves": [asdict(one) for one in whole]}
    out.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")
    print(text)


if __name__ == "__main__":
    main()
