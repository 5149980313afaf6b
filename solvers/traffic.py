"""The routes of a problem in the order solvers read them: by block, then node, equal routes merged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from solvers.problem import Float64, Int32, Int64, PlacementProblem


@dataclass(frozen=True, eq=False)
class Traffic:
    """The routes with a rate above zero.

    start int64[B + 1]: routes of block b are [start[b], start[b + 1]); node int32[R'], experts int32[R', K]
    (ids within the block, -1 pads at the end), rate float64[R']; activity float64[N, E]: expert calls per
    second.
    """

    start: Int64
    node: Int32
    experts: Int32
    rate: Float64
    activity: Float64


def compile_traffic(problem: PlacementProblem) -> Traffic:
    """Sorts and merges the routes. O(R K log R) time, O(R K) memory."""
    live = problem.route_rate > 0
    node = problem.route_node[live]
    block = problem.route_block[live]
    rate = problem.route_rate[live]
    # ascending by id with the padding last, so that equal sets are equal rows
    experts = -np.sort(-problem.route_experts[live], axis=1)
    while experts.shape[1] and (experts[:, -1] < 0).all():
        experts = experts[:, :-1]
    order = np.lexsort((*experts.T, node, block))
    node, block, rate, experts = node[order], block[order], rate[order], experts[order]
    if len(node):
        differs = (
            (experts[1:] != experts[:-1]).any(axis=1) | (node[1:] != node[:-1]) | (block[1:] != block[:-1])
        )
        first = np.concatenate(([0], np.flatnonzero(differs) + 1))
        node, block, experts = node[first], block[first], experts[first]
        rate = np.add.reduceat(rate, first)
    columns = problem.block_offset[block][:, None] + experts
    cells = (node.astype(np.int64)[:, None] * problem.experts + columns)[experts >= 0]
    calls = np.broadcast_to(rate[:, None], experts.shape)[experts >= 0]
    activity: Float64 = np.bincount(cells, weights=calls, minlength=problem.nodes * problem.experts).astype(
        np.float64
    )
    return Traffic(
        start=np.searchsorted(block, np.arange(problem.blocks + 1)).astype(np.int64),
        node=np.ascontiguousarray(node),
        experts=np.ascontiguousarray(experts),
        rate=rate,
        activity=activity.reshape(problem.nodes, problem.experts),
    )
