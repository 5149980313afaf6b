"""`python -m benchmarks.knapsack`: the knapsack over blocks at one node, as capacity and blocks grow.

The exact recursion of `sgd` against both forms of `maxconv`, on concave tables of random slopes and experts
of three sizes whose greatest common divisor is one, all in one process; read the ratios.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from solvers.heuristics.convolution import choose_counts_concave, choose_counts_rounded
from solvers.kernels.knapsack import group_knapsack
from solvers.problem import Float64, Int32, Int64

SIZES = (1009, 1423, 2003)
EXPERTS = 64
SHAPES = (  # blocks, and capacity as a share of the bytes of all experts
    (8, 0.3),
    (16, 0.3),
    (32, 0.3),
    (48, 0.3),
    (32, 0.05),
    (32, 0.1),
    (32, 0.2),
    (32, 0.6),
)
EPS = 0.05
RUNS = 3


@dataclass(frozen=True)
class Row:
    """One shape: seconds of the three, and what the two forms gain of the exact gain."""

    blocks: int
    units: int
    exact_seconds: float
    concave_seconds: float
    fptas_seconds: float
    concave_gain_ratio: float
    fptas_gain_ratio: float


def _exact(values: Float64, start: Int64, size: Int64, capacity: int, _: float) -> Int32:
    choice = np.zeros(len(size), np.int32)
    group_knapsack(values, start, size, capacity, choice)
    return choice


def measure(blocks: int, share: float) -> Row:
    """One shape, the same for everybody who measures it."""
    generator = np.random.default_rng(blocks)
    start = np.arange(blocks + 1) * (EXPERTS + 1)
    rises = -np.sort(-generator.exponential(1.0, (blocks, EXPERTS)), axis=1)
    values = np.pad(np.cumsum(rises, axis=1), ((0, 0), (1, 0))).reshape(-1)
    size = np.resize(SIZES, blocks).astype(np.int64)
    capacity = int(share * EXPERTS * int(size.sum()))

    def timed(choose: Callable[[Float64, Int64, Int64, int, float], Int32 | None]) -> tuple[float, float]:
        seconds, gain = [], 0.0
        for _ in range(1 if choose is _exact else RUNS):
            began = time.perf_counter()
            counts = choose(values, start, size, capacity, EPS)
            seconds.append(time.perf_counter() - began)
            assert counts is not None
            gain = float(values[start[:-1] + counts].sum())
        return min(seconds), gain

    (exact, best), (concave, first), (fptas, second) = (
        timed(choose) for choose in (_exact, choose_counts_concave, choose_counts_rounded)
    )
    return Row(blocks, capacity, exact, concave, fptas, first / best, second / best)


def markdown(rows: list[Row]) -> str:
    """The table, with what one is in terms of the other."""
    lines = [
        f"Experts per block {EXPERTS}, sizes {', '.join(map(str, SIZES))}, eps {EPS}. Seconds of the exact "
        f"recursion are of one run, the others the least of {RUNS}.",
        "",
        "| blocks | capacity, units | exact s | `concave` s | times faster | `fptas` s | times faster "
        "| `fptas` gain over exact |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.blocks} | {row.units} | {row.exact_seconds:.3f} | {row.concave_seconds:.4f} "
        f"| {row.exact_seconds / row.concave_seconds:.0f} | {row.fptas_seconds:.4f} "
        f"| {row.exact_seconds / row.fptas_seconds:.0f} | {row.fptas_gain_ratio:.4f} |"
        for row in rows
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.knapsack", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "knapsack")
    out: Path = parser.parse_args().out
    measure(2, 0.1)  # loads the kernels
    rows = [measure(blocks, share) for blocks, share in SHAPES]
    for row in rows:
        assert abs(row.concave_gain_ratio - 1.0) < 1e-9
        assert row.fptas_gain_ratio >= 1.0 - EPS
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text(markdown(rows), encoding="utf-8")
    out.with_suffix(".json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    print(markdown(rows))


if __name__ == "__main__":
    main()
