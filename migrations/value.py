"""What it is worth, in expected latency, that a node holds an expert."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from migrations.diff import Difference
from solvers.objective import evaluate, serving_costs
from solvers.problem import Coupling, Float64, PlacementProblem, UInt8

_SHARES: Final = (0.25, 0.5, 0.75)


def holding_gain(problem: PlacementProblem, holds: UInt8) -> Float64:
    """float64[N, E] seconds per second: latency saved if node n held the expert besides `holds`, uint8[N, E].

    Sum over the nodes that use the expert of its activation rate there times what serving it from n saves
    over its cheapest server in `holds`; each expert for itself, so an estimate where routes couple several.
    An expert nobody serves counts as ten times the slowest call. O(N^2 E + R K).
    """
    nodes, experts = problem.nodes, problem.experts
    rates = np.zeros((nodes, experts))
    chosen = problem.route_experts >= 0
    columns = problem.block_offset[problem.route_block][:, None] + problem.route_experts
    where = np.broadcast_to(problem.route_node[:, None], columns.shape)
    weight = np.broadcast_to(problem.route_rate[:, None], columns.shape)
    np.add.at(rates, (where[chosen], columns[chosen]), weight[chosen])

    latency = problem.latency_seconds
    costs = serving_costs(problem, holds)
    slowest = float(latency[np.isfinite(latency)].max(initial=0.0))
    costs = np.where(np.isfinite(costs), costs, 10.0 * slowest + 1e-6)
    gain = np.zeros((nodes, experts))
    for n in range(nodes):
        saved = np.maximum(costs - latency[:, n, None], 0.0)
        gain[n] = (rates * saved).sum(axis=0)
    return gain


def move_values(problem: PlacementProblem, change: Difference) -> tuple[Float64, Float64]:
    """Two float64[N, E]: what having each missing expert, and keeping each superfluous one, is worth.

    Where a route's experts are coupled (`slowest`, `colocated`), little is saved before the last of them has
    come, and a placement that fills whole blocks is best reached block by block; one that does not, expert by
    expert. Both orders are tried on a few intermediate placements and the one with the lower latency taken.
    O(N^2 E + R K), and `evaluate` six times.
    """
    single = (holding_gain(problem, change.source.holds), holding_gain(problem, change.target.holds))
    if problem.coupling is Coupling.SUM or not problem.routes:
        return single
    grouped = (
        _by_block(problem, single[0], change.missing),
        _by_block(problem, single[1], change.superfluous),
    )
    return min(single, grouped, key=lambda values: _latency_on_the_way(problem, change, *values))


def _by_block(problem: PlacementProblem, gain: Float64, moved: npt.NDArray[np.bool_]) -> Float64:
    """The mean over a node's moved experts of each block, an expert's own gain breaking ties."""
    lengths = problem.experts_per_block[problem.experts_per_block > 0]
    starts = problem.block_offset[:-1][problem.experts_per_block > 0]
    total = np.add.reduceat(gain * moved, starts, axis=1)
    count = np.add.reduceat(moved.astype(np.int64), starts, axis=1)
    mean = np.repeat(total / np.maximum(count, 1), lengths, axis=1)
    return np.asarray(mean * (1.0 + 1e-6 * gain / max(float(gain.max()), 1e-300)))


def _latency_on_the_way(
    problem: PlacementProblem, change: Difference, worth: Float64, loss: Float64
) -> float:
    """The latency summed over placements at which each node has made a share of its moves in this order."""
    size = problem.column_bytes
    arrival = _rank(-worth / size, change.missing)
    departure = _rank(loss / size, change.superfluous)
    total = 0.0
    for share in _SHARES:
        holds = change.source.holds.astype(bool)
        holds |= change.missing & (arrival < share)
        holds &= ~(change.superfluous & (departure < share))
        holds |= change.source.holds.astype(bool) & ~holds.any(axis=0)  # what would be lost is still there
        total += evaluate(problem, holds.astype(np.uint8))
    return total


def _rank(key: Float64, moved: npt.NDArray[np.bool_]) -> Float64:
    """float64[N, E]: position of each moved pair among its node's, by ascending key, as a share of them."""
    order = np.argsort(np.where(moved, key, np.inf), axis=1, kind="stable")
    position = np.empty_like(order)
    np.put_along_axis(position, order, np.arange(key.shape[1])[None, :], axis=1)
    return np.asarray(position / np.maximum(moved.sum(axis=1, keepdims=True), 1))
