"""Kernel of the linear relaxation by levels for routes that one server must serve alone; see
`solvers.hosting`."""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.problem import Float32, Float64, Int32, Int64

_LEAST_EXPONENT = -600.0


@compiled
def host(
    start: Int64,
    node: Int32,
    experts: Int32,
    rate: Float64,
    block_offset: Int64,
    order: Int64,
    gap: Float64,
    potential: Float64,
    held: Float64,
    step: float,
    alpha: Float32,
    total: Float32,
    earned: Float64,
    told: Float64,
) -> None:
    """One entropic step of the multipliers of the hosts, and what they come to.

    potential float64[E, N]: theta of a route at a server is the softmax of its experts' potentials there, so
    that its fractional host is sum theta * held, held float64[E, N] which may lie outside 0..1. alpha
    float32[R, N] in 0..1 moves by step * (1 - hosts up to there) and is added to `total`. Adds what
    replicas earn to earned float64[E, N]; told[0] = sum of rate * gap * alpha,
    told[1] = sum of rate * gap * (what alpha moved)^2. O(R K N).
    """
    nodes = order.shape[0]
    width = experts.shape[1]
    most = 0
    for b in range(start.shape[0] - 1):
        most = max(most, block_offset[b + 1] - block_offset[b])
    factor = np.empty((most, nodes))
    whole = np.empty(nodes)
    hosts = np.empty(nodes)
    gain = np.empty(nodes)
    told[0] = 0.0
    told[1] = 0.0
    for b in range(start.shape[0] - 1):
        first = block_offset[b]
        size = block_offset[b + 1] - first
        for m in range(nodes):
            highest = -np.inf
            for e in range(size):
                highest = max(highest, potential[first + e, m])
            for e in range(size):
                factor[e, m] = np.exp(max(potential[first + e, m] - highest, _LEAST_EXPONENT))
        for r in range(start[b], start[b + 1]):
            n = node[r]
            for m in range(nodes):
                whole[m] = 0.0
                hosts[m] = 0.0
            members = 0
            while members < width and experts[r, members] >= 0:
                e = experts[r, members]
                for m in range(nodes):
                    whole[m] += factor[e, m]
                    hosts[m] += factor[e, m] * held[first + e, m]
                members += 1
            left = 1.0
            for i in range(nodes):
                m = order[n, i]
                left -= hosts[m] / whole[m]
                if gap[n, i] > 0.0:
                    old = alpha[r, i]
                    new = min(1.0, max(0.0, old + step * left))
                    alpha[r, i] = new
                    total[r, i] += new
                    told[0] += rate[r] * gap[n, i] * alpha[r, i]
                    told[1] += rate[r] * gap[n, i] * (new - old) ** 2
            gained = 0.0
            for i in range(nodes - 1, -1, -1):
                m = order[n, i]
                if gap[n, i] > 0.0:
                    gained += gap[n, i] * alpha[r, i]
                gain[m] = rate[r] * gained / whole[m]
            for k in range(members):
                e = experts[r, k]
                for m in range(nodes):
                    earned[first + e, m] += gain[m] * factor[e, m]


@compiled
def apart(node: Int32, rate: Float64, gap: Float64, one: Float32, other: Float32) -> float:
    """Sum of rate * gap * (one - other)^2, float32[R, N] both."""
    total = 0.0
    for r in range(node.shape[0]):
        for i in range(gap.shape[1]):
            total += rate[r] * gap[node[r], i] * (one[r, i] - other[r, i]) ** 2
    return total
