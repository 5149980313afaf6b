"""Kernel of the linear relaxation by levels for routes that one server must serve alone; see
`solvers.dual.hosted`."""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.problem import Float64, Int32, Int64

_LEAST_EXPONENT = -600.0


@compiled
def host(
    start: Int64,
    node: Int32,
    experts: Int32,
    rate: Float64,
    block_offset: Int64,
    order: Int64,
    edge: Float64,
    pace: Float64,
    potential: Float64,
    held: Float64,
    reach: Float64,
    reaches: Float64,
    earned: Float64,
    told: Float64,
) -> None:
    """One step of the multipliers of the hosts, entropic for theta, Euclidean for how far a route pays, and
    what they come to.

    potential float64[E, N]: theta of a route at a server is the softmax of its experts' potentials there, so
    that its fractional host is sum theta * held, held float64[E, N] which may lie outside 0..1. reach
    float64[R] moves as in `calls.single`, by edge float64[N, N + 1] and pace float64[N], and is added to
    reaches. Adds what replicas earn to earned float64[E, N]; told[0] = sum of rate * (reach - edge[n, 0]),
    told[1] = sum of rate * (what reach moved)^2 / pace. O(R K N).
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
            here = reach[r]
            after = edge[n, 0]
            for i in range(nodes):
                m = order[n, i]
                left -= hosts[m] / whole[m]
                after = max(after, min(edge[n, i + 1], here + pace[n] * left))
            reach[r] = after
            reaches[r] += after
            told[0] += rate[r] * (after - edge[n, 0])
            if pace[n] > 0.0:
                told[1] += rate[r] * (after - here) * (after - here) / pace[n]
            for i in range(nodes):
                m = order[n, i]
                gain[m] = rate[r] * max(0.0, after - edge[n, i]) / whole[m]
            for k in range(members):
                e = experts[r, k]
                for m in range(nodes):
                    earned[first + e, m] += gain[m] * factor[e, m]
