"""Kernels of the linear relaxation by levels, for single calls and for routes that wait for their slowest
call; see `solvers.slowest_calls`. Arrays over (node, expert, group of levels) are float64[N, E, G], what
servers hold or earn is float64[E, N]."""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.problem import Float64, Int32, Int64

_LEAST_EXPONENT = -600.0  # e to the power of it is still a normal number, twice over


@compiled
def uncovered(
    held: Float64, order: Int64, gap: Float64, group: Int64, weight: Float64, out: Float64
) -> None:
    """out[n, e, g]: mean over the levels of the group, by their gaps, of 1 - what the servers up to there
    hold of e; 0 for a group without a gap. held float64[E, N] may lie outside 0..1. O(N^2 E)."""
    nodes, experts, groups = out.shape
    for n in range(nodes):
        for e in range(experts):
            for g in range(groups):
                out[n, e, g] = 0.0
            left = 1.0
            for i in range(nodes):
                left -= held[e, order[n, i]]
                if gap[n, i] > 0.0:
                    g = group[n, i]
                    out[n, e, g] += gap[n, i] / weight[n, g] * left


@compiled
def shares(
    start: Int64,
    node: Int32,
    experts: Int32,
    rate: Float64,
    block_offset: Int64,
    potential: Float64,
    calls: Float64,
) -> None:
    """calls[n, e, g] = sum over the routes of n with e of rate * theta, theta being the route's softmax over
    its potentials and 0: it is >= 0 and sums to at most 1.

    Routes are sorted by node within a block. potential, calls float64[N, E, G]. O(R K G + N E G).
    """
    calls[:] = 0.0
    groups = potential.shape[2]
    width = experts.shape[1]
    most = 0
    for b in range(start.shape[0] - 1):
        most = max(most, block_offset[b + 1] - block_offset[b])
    factor = np.empty((most, groups))
    total = np.empty(groups)
    nothing = np.empty(groups)
    for b in range(start.shape[0] - 1):
        first = block_offset[b]
        size = block_offset[b + 1] - first
        known = -1
        for r in range(start[b], start[b + 1]):
            n = node[r]
            if n != known:
                known = n
                for g in range(groups):
                    highest = 0.0
                    for e in range(size):
                        highest = max(highest, potential[n, first + e, g])
                    nothing[g] = np.exp(max(-highest, 2.0 * _LEAST_EXPONENT))
                    for e in range(size):
                        factor[e, g] = np.exp(max(potential[n, first + e, g] - highest, _LEAST_EXPONENT))
            for g in range(groups):
                total[g] = nothing[g]
            members = 0
            while members < width and experts[r, members] >= 0:
                e = experts[r, members]
                for g in range(groups):
                    total[g] += factor[e, g]
                members += 1
            for g in range(groups):
                total[g] = rate[r] / total[g]
            for k in range(members):
                e = experts[r, k]
                for g in range(groups):
                    calls[n, first + e, g] += total[g] * factor[e, g]


@compiled
def profits(calls: Float64, order: Int64, gap: Float64, group: Int64, out: Float64) -> None:
    """out[e, m] += what a replica of e at m takes off the multipliers of all levels it is within.
    calls float64[N, E, G], out float64[E, N]. O(N^2 E)."""
    nodes, experts, _ = calls.shape
    for n in range(nodes):
        for e in range(experts):
            earned = 0.0
            for i in range(nodes - 1, -1, -1):
                if gap[n, i] > 0.0:
                    earned += gap[n, i] * calls[n, e, group[n, i]]
                if earned > 0.0:
                    out[e, order[n, i]] += earned


@compiled
def raise_potential(potential: Float64, slope: Float64, step: float, least: float, total: Float64) -> None:
    """potential = max(least, potential + step * slope), which is also added to total; float64[N, E, G]."""
    for n in range(potential.shape[0]):
        for e in range(potential.shape[1]):
            for g in range(potential.shape[2]):
                value = max(least, potential[n, e, g] + step * slope[n, e, g])
                potential[n, e, g] = value
                total[n, e, g] += value
