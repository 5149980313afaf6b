"""What a plan does, in the numbers a person asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from migrations.curve import excess_area, latency_curve
from migrations.model import ORIGIN, MoveKind, Plan, PlanStatus
from migrations.planner import plan_in_random_order
from solvers.cost.evaluate import evaluate
from solvers.problem import Float64, PlacementProblem, UInt8

_SHARES: Final = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
_RANDOM_ORDERS: Final = 2


@dataclass(frozen=True, slots=True)
class NodeMoves:
    """What one node, or the origin, receives, sends and drops; `receiving_seconds`: how long it receives."""

    node: int
    copies_in: int
    bytes_in: int
    copies_out: int
    bytes_out: int
    drops: int
    receiving_seconds: float


@dataclass(frozen=True, slots=True)
class Moment:
    """The bytes in place, and the mean latency of a token in one block, this long after the start."""

    seconds: float
    bytes_done: int
    latency_seconds: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """nodes: those the plan touches, the origin last. target_latency_seconds: of the target.

    area_ratio: what tokens wait beyond the target's latency while the plan runs, over the same in random
    orders; None where these lose nothing, or where some traffic cannot be served meanwhile.
    """

    nodes: tuple[NodeMoves, ...]
    moments: tuple[Moment, ...]
    target_latency_seconds: float
    area_ratio: float | None


def explain(problem: PlacementProblem, source_holds: UInt8, target_holds: UInt8, plan: Plan) -> Explanation:
    """The numbers behind a plan that is OK, between two placements uint8[N, E].

    As long as `plan` twice, for the random orders, and `evaluate` some 200 times.
    """
    rate = float(problem.route_rate.sum())
    per_token = 1.0 / rate if rate > 0 else 0.0
    moments = np.array(_SHARES) * plan.estimate.seconds
    curve = latency_curve(problem, source_holds, plan, moments) * per_token
    copies = [move for move in plan.moves if move.kind is MoveKind.COPY]
    return Explanation(
        nodes=_nodes(problem, plan),
        moments=tuple(
            Moment(at, sum(copy.bytes for copy in copies if copy.end_seconds <= at * (1 + 1e-9)), latency)
            for at, latency in zip(moments.tolist(), curve.tolist(), strict=True)
        ),
        target_latency_seconds=evaluate(problem, target_holds) * per_token,
        area_ratio=_area_ratio(problem, source_holds, target_holds, plan),
    )


def token_latencies(
    problem: PlacementProblem, source_holds: UInt8, plan: Plan, samples: int
) -> tuple[Float64, Float64]:
    """float64[samples] each: moments over the plan, and the mean latency of a token in one block then."""
    rate = float(problem.route_rate.sum())
    moments: Float64 = np.linspace(0.0, plan.estimate.seconds, samples)
    curve = latency_curve(problem, source_holds, plan, moments)
    return moments, curve / rate if rate > 0 else np.zeros(samples)


def _nodes(problem: PlacementProblem, plan: Plan) -> tuple[NodeMoves, ...]:
    rows = problem.nodes + 1  # the origin is row N, as ORIGIN is -1
    into, out = np.zeros((2, rows), np.int64), np.zeros((2, rows), np.int64)
    drops, seconds = np.zeros(rows, np.int64), np.zeros(rows)
    for move in plan.moves:
        if move.source is None:
            drops[move.destination] += 1
            continue
        into[:, move.destination] += (1, move.bytes)
        out[:, move.source] += (1, move.bytes)
        seconds[move.destination] += move.end_seconds - move.start_seconds
    touched = np.flatnonzero((into[0] > 0) | (out[0] > 0) | (drops > 0)).tolist()
    return tuple(
        NodeMoves(
            node=ORIGIN if row == problem.nodes else row,
            copies_in=int(into[0, row]),
            bytes_in=int(into[1, row]),
            copies_out=int(out[0, row]),
            bytes_out=int(out[1, row]),
            drops=int(drops[row]),
            receiving_seconds=float(seconds[row]),
        )
        for row in touched
    )


def _area_ratio(problem: PlacementProblem, source: UInt8, target: UInt8, plan: Plan) -> float | None:
    others = [plan_in_random_order(problem, source, target, seed=seed) for seed in range(_RANDOM_ORDERS)]
    areas = [excess_area(problem, source, target, other) for other in others if other.status is PlanStatus.OK]
    mean = float(np.mean(areas)) if areas else 0.0
    area = excess_area(problem, source, target, plan)
    return area / mean if np.isfinite([area, mean]).all() and mean > 0 else None
