"""Traffic of single expert calls: the routes themselves under `sum`, a surrogate of them under the other
couplings."""

from __future__ import annotations

import numpy as np

from solvers.problem import Float64, PlacementProblem
from solvers.traffic import Traffic


def single_calls(problem: PlacementProblem, rate: Float64) -> Traffic:
    """The traffic in which node n calls the expert of column e on its own rate[n, e] times per second, for
    rate float64[N, E]. O(N E)."""
    starts = np.zeros(problem.blocks + 1, np.int64)
    nodes, experts, rates = [], [], []
    for b in range(problem.blocks):
        first, last = problem.block_offset[b : b + 2].tolist()
        node, expert = np.nonzero(rate[:, first:last])
        nodes.append(node)
        experts.append(expert)
        rates.append(rate[node, first + expert])
        starts[b + 1] = starts[b] + len(node)
    return Traffic(
        start=starts,
        node=np.concatenate([*nodes, np.zeros(0)]).astype(np.int32),
        experts=np.concatenate([*experts, np.zeros(0)]).astype(np.int32)[:, None],
        rate=np.concatenate([*rates, np.zeros(0)]),
        activity=rate,
    )
