"""The one evaluator: J(X), M(X0, X) and the latencies behind them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from solvers.chunks import even_ranges, side_by_side
from solvers.cost.coupling import FORMS
from solvers.kernels import evaluation
from solvers.kernels import nearest as kernel
from solvers.problem import Float64, Int64, PlacementProblem, ProblemError, UInt8


class Breakdown(NamedTuple):
    """Per (node, block), float64[N, B] each; shares are of expert calls and NaN-free (0 where nothing is
    called).

    rate: routes per second; local_hit_ratio, remote_ratio, origin_ratio, unserved_ratio: shares of expert
    calls served by the node itself, by another node, by the origin, by nobody (no holder can be reached and
    there is no origin); latency_seconds: mean D of a route.
    """

    rate: Float64
    local_hit_ratio: Float64
    remote_ratio: Float64
    origin_ratio: Float64
    unserved_ratio: Float64
    latency_seconds: Float64


def checked_holds(problem: PlacementProblem, holds: UInt8) -> UInt8:
    """A read-only contiguous view of `holds` uint8[N, E]; `ProblemError` where the shape is not the
    problem's."""
    expected = (problem.nodes, problem.experts)
    if holds.shape != expected:
        raise ProblemError(f"holds: has shape {holds.shape}, expected {expected}")
    held = np.ascontiguousarray(holds, dtype=np.uint8).view()
    held.flags.writeable = False  # one type for the kernels, whoever made the array
    return held


def nearest_nodes(problem: PlacementProblem) -> Int64:
    """int64[N, N]: row n lists the nodes by latency from n, the lower index first among equals."""
    return np.argsort(problem.latency_seconds, axis=1, kind="stable").astype(np.int64)


def serving_costs(problem: PlacementProblem, holds: UInt8) -> Float64:
    """float64[N, E]: c(n, e; X) in seconds, inf where neither origin nor reachable holder serves. O(N E
    sqrt(N)), in threads."""
    return _costs(problem, checked_holds(problem, holds), nearest_nodes(problem))


def route_latencies(problem: PlacementProblem, holds: UInt8) -> Float64:
    """float64[R]: D(n, S; X) in seconds of every route under the problem's coupling. As `serving_costs` and
    O(R K), or O(R N K) for `colocated`, in threads."""
    held, nearest = checked_holds(problem, holds), nearest_nodes(problem)
    return _latencies(problem, held, nearest, _costs(problem, held, nearest))


def evaluate(problem: PlacementProblem, holds: UInt8) -> float:
    """J(X), seconds of expert latency per second of traffic; inf where traffic cannot be served. As
    `route_latencies`."""
    return float(evaluation.weighted_sum(problem.route_rate, route_latencies(problem, holds)))


def migration_cost(problem: PlacementProblem, holds: UInt8) -> float:
    """M(X0, X) in seconds: bytes each node must receive over its ingress bandwidth. 0 where the problem does
    not say what is in force (`current`) or what moving costs (`ingress_bytes_per_second`). O(N E)."""
    return float((opening_costs(problem) * checked_holds(problem, holds)).sum())


def opening_costs(problem: PlacementProblem) -> Float64:
    """float64[N, E]: seconds of M that holding the expert of a column at a node adds; zeros as for
    `migration_cost`."""
    if problem.current is None or problem.ingress_bytes_per_second is None:
        return np.zeros((problem.nodes, problem.experts))
    seconds = problem.column_bytes[None, :] / problem.ingress_bytes_per_second[:, None]
    return np.where(problem.current == 0, seconds, 0.0)


def total_cost(problem: PlacementProblem, holds: UInt8) -> float:
    """What solvers minimise: J(X) + M(X0, X) / H; J(X) without `horizon_seconds`. As `evaluate`."""
    cost = evaluate(problem, holds)
    if problem.horizon_seconds is not None:
        cost += migration_cost(problem, holds) / problem.horizon_seconds
    return cost


def mean_latency_seconds(problem: PlacementProblem, holds: UInt8, token_rate: float) -> float:
    """J(X) per token, token_rate in tokens per second; 0 without tokens."""
    return evaluate(problem, holds) / token_rate if token_rate > 0 else 0.0


def breakdown(problem: PlacementProblem, holds: UInt8) -> Breakdown:
    """Rate, shares and latency per (node, block): what an analysis draws. As `route_latencies`."""
    held, nearest = checked_holds(problem, holds), nearest_nodes(problem)
    costs = _costs(problem, held, nearest)
    sums = np.zeros((problem.nodes, problem.blocks, 6))
    evaluation.breakdown(
        held,
        problem.latency_seconds,
        problem.origin_latency_seconds,
        costs,
        problem.block_offset,
        problem.route_node,
        problem.route_block,
        problem.route_experts,
        problem.route_rate,
        _latencies(problem, held, nearest, costs),
        sums,
    )
    rate, latency = sums[:, :, 0], sums[:, :, 1]
    calls = sums[:, :, 2:].sum(axis=2)
    local, remote, origin, unserved = (_ratio(sums[:, :, i], calls) for i in range(2, 6))
    return Breakdown(rate.copy(), local, remote, origin, unserved, _ratio(latency, rate))


def _ratio(part: Float64, whole: Float64) -> Float64:
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)


def _costs(problem: PlacementProblem, held: UInt8, nearest: Int64) -> Float64:
    costs = np.empty((problem.nodes, problem.experts))
    offset = np.empty(problem.experts + 1, np.int64)
    holders = kernel.holders_of(held, offset)

    def some(first: int, last: int) -> None:
        kernel.serving_costs(
            held,
            holders,
            offset,
            nearest,
            problem.latency_seconds,
            problem.origin_latency_seconds,
            first,
            last,
            costs,
        )

    side_by_side(some, even_ranges(problem.experts, problem.nodes))
    return costs


def _latencies(problem: PlacementProblem, held: UInt8, nearest: Int64, costs: Float64) -> Float64:
    out = np.empty(problem.routes)
    form = FORMS[problem.coupling]
    hosts = problem.nodes if form.hosted else 1

    def some(first: int, last: int) -> None:
        evaluation.route_latencies(
            form.code,
            held,
            problem.latency_seconds,
            nearest,
            problem.origin_latency_seconds,
            costs,
            problem.block_offset,
            problem.route_node[first:last],
            problem.route_block[first:last],
            problem.route_experts[first:last],
            out[first:last],
        )

    side_by_side(some, even_ranges(problem.routes, problem.route_experts.shape[1] * hosts))
    return out
