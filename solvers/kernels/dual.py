"""Kernels of the Lagrangian dual; see `solvers.bounds`."""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.problem import Float64, Int32, Int64


@compiled
def critical_shares(
    start: Int64,
    node: Int32,
    experts: Int32,
    rate: Float64,
    costs: Float64,
    block_offset: Int64,
    sharpness: float,
    share: Float64,
    out: Float64,
    weight: Float64,
) -> None:
    """Multiplies each route's row of share float64[R, K] by about exp(sharpness * (cost - dearest) / dearest)
    and scales it to sum to 1: weight moves to the experts with the largest costs float64[N, E]. Writes out
    float64[R, K], which may be `share`, and weight[n, e] = sum over routes of rate * out into float64[N, E].
    O(R K + N E).
    """
    weight[:] = 0.0
    width = experts.shape[1]
    for b in range(start.shape[0] - 1):
        first = block_offset[b]
        for r in range(start[b], start[b + 1]):
            n = node[r]
            size = 0
            dearest = 0.0
            while size < width and experts[r, size] >= 0:
                dearest = max(dearest, costs[n, first + experts[r, size]])
                size += 1
            if dearest > 0.0 and sharpness > 0.0 and size > 1:
                scale = sharpness / (4.0 * dearest)
                total = 0.0
                for k in range(size):
                    # (1 - x / 4)^-4 is near exp(x) for x <= 0, and far cheaper; any positive factor will do
                    root = 1.0 + scale * (dearest - costs[n, first + experts[r, k]])
                    square = root * root
                    # the floor keeps every expert able to come back
                    moved = max(share[r, k] / (square * square), 1e-9)
                    out[r, k] = moved
                    total += moved
                scale = 1.0 / total
                for k in range(size):
                    out[r, k] *= scale
                for k in range(size, width):
                    out[r, k] = 0.0
            else:
                for k in range(width):
                    out[r, k] = share[r, k]
            for k in range(size):
                weight[n, first + experts[r, k]] += rate[r] * out[r, k]


@compiled
def profits(weight: Float64, price: Float64, latency: Float64, out: Float64) -> None:
    """out[m, e] += sum over n of weight[n, e] * max(0, price[n, e] - latency[n, m]); all float64[N, E].
    O(N^2 E)."""
    nodes = weight.shape[0]
    for m in range(nodes):
        for n in range(nodes):
            served = latency[n, m]
            if served == np.inf:
                continue
            for e in range(weight.shape[1]):
                saving = price[n, e] - served
                if saving > 0.0:
                    out[m, e] += weight[n, e] * saving


@compiled
def service(opened: Float64, price: Float64, latency: Float64, served: Float64, cost: Float64) -> None:
    """How the relaxed servers opened float64[N, E] (0..1) serve: served[n, e] = how many of them n would
    use, and cost[n, e] = price[n, e] less what they save. Writes served and cost float64[N, E]. O(N^2 E)."""
    nodes = opened.shape[0]
    for n in range(nodes):
        for e in range(opened.shape[1]):
            served[n, e] = 0.0
            cost[n, e] = price[n, e]
    for m in range(nodes):
        for e in range(opened.shape[1]):
            if opened[m, e] <= 0.0:
                continue
            for n in range(nodes):
                saving = price[n, e] - latency[n, m]
                if saving > 0.0:
                    served[n, e] += opened[m, e]
                    cost[n, e] -= opened[m, e] * saving


@compiled
def fill(profit: Float64, order: Int64, size: Float64, capacity: float, opened: Float64) -> float:
    """Fractional knapsack: takes the positive profits float64[E] in `order` int64[E] (by profit per size)
    while the capacity lasts, the last one in part. Adds to opened float64[E]; returns the profit taken.
    O(E)."""
    total = 0.0
    for position in range(order.shape[0]):
        e = order[position]
        if profit[e] <= 0.0 or capacity <= 0.0:
            break
        part = min(1.0, capacity / size[e])
        opened[e] += part
        total += part * profit[e]
        capacity -= part * size[e]
    return total
