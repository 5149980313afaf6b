"""What it is worth, in expected latency, that a node holds an expert."""

from __future__ import annotations

import numpy as np

from solvers.objective import serving_costs
from solvers.problem import Float64, PlacementProblem, UInt8


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
