"""Kernels of the evaluator: serving costs of single experts and latencies of routes."""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.problem import Float64, Int32, Int64, UInt8

SUM, SLOWEST, COLOCATED = 0, 1, 2  # the codes of `Coupling` inside kernels


@compiled
def serving_costs(
    holds: UInt8, latency: Float64, fallback: Float64, without: int, first: int, last: int, out: Float64
) -> None:
    """out[n, e - first] = min(fallback[n], min over m != without holding e of latency[n, m]) for e in
    [first, last).

    holds uint8[N, E], latency float64[N, N], fallback float64[N]; `without` = -1 leaves no node out. Only
    `out` float64[N, last - first or more] is written. O(N^2 (last - first)).
    """
    nodes = holds.shape[0]
    for n in range(nodes):
        for e in range(last - first):
            out[n, e] = fallback[n]
    # 0 where m holds the expert, else inf: sums and minima go many at a time, branches don't
    far = np.empty(last - first)
    for m in range(nodes):
        if m == without:
            continue
        for e in range(last - first):
            far[e] = 0.0 if holds[m, first + e] != 0 else np.inf
        for n in range(nodes):
            served = latency[n, m]
            if served >= fallback[n]:
                continue
            for e in range(last - first):
                cost = served + far[e]
                out[n, e] = cost if cost < out[n, e] else out[n, e]


@compiled
def nearest_host(
    holds: UInt8, latency: Float64, nearest: Int64, without: int, node: int, first: int, experts: Int32
) -> float:
    """Least latency from `node` to a node, other than `without`, that holds every expert; inf where there is
    none.

    nearest int64[N, N]: nearest[n] lists the nodes by latency from n, so the first holder found is the best.
    experts int32[K]: ids within the block whose first column is `first`, negative = padding. O(N K).
    """
    for position in range(nearest.shape[1]):
        m = nearest[node, position]
        if m == without:
            continue
        served = latency[node, m]
        if served == np.inf:
            return np.inf
        holder = True
        for k in range(experts.shape[0]):
            if experts[k] >= 0 and holds[m, first + experts[k]] == 0:
                holder = False
                break
        if holder:
            return float(served)
    return np.inf


@compiled
def route_latency(coupling: int, total: float, slowest: float, host: float, origin: float) -> float:
    """D of a route in seconds, from the sum and the largest of its single calls, the latency of the nearest
    node that holds all of it, which only `colocated` asks for, and that of the origin; inf = none.

    `colocated`: the cheaper of the host and the origin; without an origin, of the host and the single calls.
    """
    if coupling == SUM:
        return total
    if coupling == SLOWEST:
        return slowest
    if coupling == COLOCATED:
        return min(host, origin if origin < np.inf else total)
    return np.nan


@compiled
def route_latencies(
    coupling: int,
    holds: UInt8,
    latency: Float64,
    nearest: Int64,
    origin: Float64,
    costs: Float64,
    block_offset: Int64,
    route_node: Int32,
    route_block: Int32,
    route_experts: Int32,
    out: Float64,
) -> None:
    """out[r] = D(n, S; X) of every route, in seconds.

    costs float64[N, E] are the serving costs of single experts; origin float64[N] (inf = none). Only `out`
    float64[R] is written. O(R K), and O(R N K) for `colocated`.
    """
    for r in range(route_node.shape[0]):
        n = route_node[r]
        first = block_offset[route_block[r]]
        total = 0.0
        slowest = 0.0
        for k in range(route_experts.shape[1]):
            expert = route_experts[r, k]
            if expert < 0:
                continue
            cost = costs[n, first + expert]
            total += cost
            slowest = max(slowest, cost)
        host = np.inf
        if coupling == COLOCATED:
            host = nearest_host(holds, latency, nearest, -1, n, first, route_experts[r])
        out[r] = route_latency(coupling, total, slowest, host, origin[n])


@compiled
def weighted_sum(rate: Float64, latency: Float64) -> float:
    """Sum of rate * latency over float64[R] each; a rate of zero counts nothing even where the latency is
    inf."""
    total = 0.0
    for r in range(rate.shape[0]):
        if rate[r] > 0.0:
            total += rate[r] * latency[r]
    return total


@compiled
def breakdown(
    holds: UInt8,
    latency: Float64,
    origin: Float64,
    costs: Float64,
    block_offset: Int64,
    route_node: Int32,
    route_block: Int32,
    route_experts: Int32,
    route_rate: Float64,
    route_latency: Float64,
    out: Float64,
) -> None:
    """Adds, per (node, block), to out float64[N, B, 6]: route rate, latency in seconds per second, and expert
    calls per second that are local, served by another node, by the origin, and by nobody. A call is local
    where the node holds the expert; it goes to the origin where no holder beats that. O(R K).
    """
    for r in range(route_node.shape[0]):
        rate = route_rate[r]
        if rate <= 0.0:
            continue
        n = route_node[r]
        b = route_block[r]
        first = block_offset[b]
        out[n, b, 0] += rate
        out[n, b, 1] += rate * route_latency[r]
        for k in range(route_experts.shape[1]):
            expert = route_experts[r, k]
            if expert < 0:
                continue
            cost = costs[n, first + expert]
            if holds[n, first + expert] != 0:
                out[n, b, 2] += rate
            elif cost == np.inf:
                out[n, b, 5] += rate
            elif cost == origin[n]:
                out[n, b, 4] += rate
            else:
                out[n, b, 3] += rate
