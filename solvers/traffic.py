"""The routes of a problem in the order solvers read them: by block, then node, equal routes merged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from solvers.chunks import even_ranges, ranges, side_by_side
from solvers.cost.coupling import FORMS
from solvers.kernels import routes as kernel
from solvers.problem import Float64, Int32, Int64, PlacementProblem, UInt64

_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing


@dataclass(frozen=True, eq=False)
class Traffic:
    """The routes with a rate above zero; under `sum`, where every call counts by itself, their single calls,
    each a route of one expert.

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
    """Sorts and merges the routes. O(R (K^2 + log R)) time, O(R K) memory; under `sum` O(R K + N E)."""
    if FORMS[problem.coupling].single:
        return single_calls(problem, _activity(problem))
    routes, width = problem.route_experts.shape
    nodes, blocks = problem.nodes, problem.blocks
    start = np.zeros(blocks + 1, np.int64)
    node = np.empty(routes, np.int32)
    experts = np.empty((routes, width), np.int32)
    rate = np.empty(routes)
    activity = np.zeros((nodes, problem.experts))
    bits = max(1, int(problem.experts_per_block.max(initial=0)).bit_length())
    first = np.zeros(blocks * nodes + 1, np.int64)
    order = np.empty(routes, np.int64)
    kernel.cells_of_routes(problem.route_node, problem.route_block, problem.route_rate, nodes, first, order)

    def some(low: int, high: int) -> int:
        return kernel.compile_routes(
            low,
            high,
            first,
            order,
            problem.route_experts,
            problem.route_rate,
            bits,
            problem.block_offset,
            start,
            node,
            experts,
            rate,
            activity,
        )

    parts = ranges(np.diff(first[::nodes]) * width)
    count = 0
    for (low, high), end in zip(parts, side_by_side(some, parts), strict=True):
        begin = int(first[low * nodes])
        if begin != count:  # equal routes were merged: close up
            for array in (node, experts, rate):
                array[count : count + end - begin] = array[begin:end]
            start[low:high] -= begin - count
        count += end - begin
    start[blocks] = count
    used = width
    while used and (experts[:count, used - 1] < 0).all():
        used -= 1
    return Traffic(
        start=start,
        node=node[:count],
        experts=np.ascontiguousarray(experts[:count, :used]),
        rate=rate[:count],
        activity=activity,
    )


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


def _activity(problem: PlacementProblem) -> Float64:
    """float64[N, E]: expert calls per second. O(R K + N E)."""
    shape = (problem.nodes, problem.experts)
    calls = problem.route_experts.size
    parts = even_ranges(problem.routes, problem.route_experts.shape[1])
    if calls < len(parts) * shape[0] * shape[1]:  # an array for each would cost more than the calls
        parts = [(0, problem.routes)]

    def some(first: int, last: int) -> Float64:
        found = np.zeros(shape)
        kernel.add_activity(
            first,
            last,
            problem.route_node,
            problem.route_block,
            problem.route_experts,
            problem.route_rate,
            problem.block_offset,
            found,
        )
        return found

    found = side_by_side(some, parts)
    for other in found[1:]:
        found[0] += other
    return found[0]


def route_keys(traffic: Traffic) -> UInt64:
    """uint64[R']: a number for each route by its node, block and experts, the same in any traffic of the same
    fleet. Two routes may have one. O(R' K)."""
    key = np.repeat(np.arange(len(traffic.start) - 1, dtype=np.uint64), np.diff(traffic.start))
    key = key * _SPREAD + traffic.node.astype(np.uint64)
    for k in range(traffic.experts.shape[1]):
        key = key * _SPREAD + (traffic.experts[:, k] + 1).astype(np.uint64)
        key ^= key >> np.uint64(29)
    return key


def calls_are_single(problem: PlacementProblem, traffic: Traffic) -> bool:
    """Whether every call counts by itself, so that the activity says all: under `sum`, and where routes have
    one expert."""
    return FORMS[problem.coupling].single or traffic.experts.shape[1] <= 1


def sample(traffic: Traffic, most: int) -> Traffic:
    """At most about `most` of the routes, every k-th of each block, at k times their rate: what a search may
    look at where all are too many. The activity stays that of all. Itself where they are few enough."""
    every = -(-len(traffic.rate) // max(1, most))
    if every <= 1:
        return traffic
    chosen = [np.arange(*edge, every) for edge in zip(traffic.start[:-1], traffic.start[1:], strict=True)]
    start = np.concatenate(([0], np.cumsum([len(some) for some in chosen]))).astype(np.int64)
    kept = np.concatenate(chosen)
    return Traffic(
        start=start,
        node=traffic.node[kept],
        experts=np.ascontiguousarray(traffic.experts[kept]),
        rate=traffic.rate[kept] * every,
        activity=traffic.activity,
    )
