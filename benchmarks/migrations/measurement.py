"""What one plan is like, next to its bound and to random orders of the same moves."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from benchmarks.migrations.instances import Migration
from migrations.curve import excess_area
from migrations.model import MoveKind, PlanStatus
from migrations.planner import plan, plan_in_random_order
from migrations.verify import verify
from solvers.cost.evaluate import evaluate

RANDOM_ORDERS = 3
LARGE = 100
"""Nodes: random orders of more take too long."""

WORTH_MEASURING = 0.01
"""Of the target's latency: where random orders cost less than that on the way, there is nothing to save."""


@dataclass(frozen=True)
class Measurement:
    """makespan_ratio: seconds over the lower bound; random_makespan_ratio: the mean of random orders'.
    area_ratio: latency beyond the target's while the plan runs, over the mean of random orders; None where
    these cost next to nothing, or the fleet is large. extra_bytes_ratio: bytes copied beyond what the target
    misses, over the latter. violations: rules the plan breaks, found by `verify`."""

    name: str
    nodes: int
    moves: int
    copies: int
    fill_ratio: float
    origin: bool
    seconds: float
    lower_bound_seconds: float
    makespan_ratio: float
    random_makespan_ratio: float | None
    area_ratio: float | None
    extra_bytes_ratio: float
    plan_seconds: float
    verify_seconds: float
    violations: int


def measure(migration: Migration) -> Measurement | str:
    """The measurement, or why there is none."""
    problem, source, target = migration.problem, migration.source, migration.target
    begun = time.perf_counter()
    made = plan(problem, source, target)
    planned = time.perf_counter()
    if made.status is PlanStatus.INFEASIBLE:
        return f"{migration.name}, {problem.nodes} nodes: INFEASIBLE: {made.reason}"
    violations = verify(problem, source, target, made)
    verified = time.perf_counter()
    seeds = range(RANDOM_ORDERS if problem.nodes <= LARGE else 0)
    others = [plan_in_random_order(problem, source, target, seed=seed) for seed in seeds]
    random = [other for other in others if other.status is PlanStatus.OK]
    areas = [excess_area(problem, source, target, other) for other in random]
    mean = float(np.mean(areas)) if areas else 0.0
    least = WORTH_MEASURING * evaluate(problem, target) * made.estimate.seconds
    area = excess_area(problem, source, target, made) / mean if mean > least else None
    bound = made.estimate.lower_bound_seconds
    missing = ((target == 1) & (source == 0)).sum(axis=0, dtype=np.int64)
    needed = int(missing @ problem.column_bytes)
    used = int((source.astype(np.int64) @ problem.column_bytes).sum())
    return Measurement(
        name=migration.name,
        nodes=problem.nodes,
        moves=len(made.moves),
        copies=sum(move.kind is MoveKind.COPY for move in made.moves),
        fill_ratio=used / int(problem.capacity_bytes.sum()),
        origin=bool(np.isfinite(problem.origin_latency_seconds).any()),
        seconds=made.estimate.seconds,
        lower_bound_seconds=bound,
        makespan_ratio=made.estimate.seconds / bound if bound > 0 else 1.0,
        random_makespan_ratio=float(np.mean([other.estimate.seconds for other in random])) / bound
        if random and bound > 0
        else None,
        area_ratio=area,
        extra_bytes_ratio=made.estimate.bytes / needed - 1.0 if needed else 0.0,
        plan_seconds=planned - begun,
        verify_seconds=verified - planned,
        violations=len(violations),
    )
