"""What one plan is like, next to its bound and to random orders of the same moves."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from benchmarks.migrations.instances import Migration
from migrations.curve import excess_area
from migrations.model import MoveKind, PlanStatus
from migrations.planner import plan, plan_in_random_order
from migrations.verify import verify
from solvers.objective import evaluate

RANDOM_ORDERS = 2
WORTH_MEASURING = 0.95
"""Of the latency at the start: the area says something only where the target is better than that."""


@dataclass(frozen=True)
class Measurement:
    """makespan_ratio: seconds over the lower bound. area_ratio: excess latency while migrating over the
    mean of random orders; None where the target is no better than what is left, so that there is nothing to
    gain on the way. extra_bytes_ratio: bytes copied beyond what the target misses, over the latter."""

    name: str
    nodes: int
    moves: int
    copies: int
    fill_ratio: float
    seconds: float
    lower_bound_seconds: float
    makespan_ratio: float
    area_ratio: float | None
    extra_bytes_ratio: float
    plan_seconds: float
    violations: int


def measure(migration: Migration) -> Measurement | str:
    """The measurement, or why there is none."""
    problem, source, target = migration.problem, migration.source, migration.target
    begun = time.perf_counter()
    made = plan(problem, source, target)
    taken = time.perf_counter() - begun
    if made.status is PlanStatus.INFEASIBLE:
        return f"{migration.name}: INFEASIBLE: {made.reason}"
    copies = sum(move.kind is MoveKind.COPY for move in made.moves)
    random = [plan_in_random_order(problem, source, target, seed=seed) for seed in range(RANDOM_ORDERS)]
    areas = [excess_area(problem, source, target, other) for other in random if other.status is PlanStatus.OK]
    area = excess_area(problem, source, target, made)
    mean = float(np.mean(areas)) if areas else math.nan
    bound = made.estimate.lower_bound_seconds
    missing = ((target == 1) & (source == 0)).sum(axis=0, dtype=np.int64)
    needed = int(missing @ problem.column_bytes)
    used = source.astype(np.int64)
    better = evaluate(problem, target) <= WORTH_MEASURING * evaluate(problem, source)
    return Measurement(
        name=migration.name,
        nodes=problem.nodes,
        moves=len(made.moves),
        copies=copies,
        fill_ratio=float((used @ problem.column_bytes).sum() / problem.capacity_bytes.sum()),
        seconds=made.estimate.seconds,
        lower_bound_seconds=bound,
        makespan_ratio=made.estimate.seconds / bound if bound > 0 else 1.0,
        area_ratio=area / mean if better and math.isfinite(mean) and mean > 0 else None,
        extra_bytes_ratio=made.estimate.bytes / needed - 1.0 if needed else 0.0,
        plan_seconds=taken,
        violations=len(verify(problem, source, target, made)),
    )
