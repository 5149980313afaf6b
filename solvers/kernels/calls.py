"""Kernels of the linear relaxation by levels, for single calls and for routes that wait for their slowest
call; see `solvers.slowest_calls`. Arrays over (node, expert, group of levels) are float64[N, E, G], what
servers hold or earn is float64[E, N]."""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.problem import Float32, Float64, Int32, Int64, UInt8

_LEVEL_PACE = 0.25  # of the steps on alpha against those on potentials
_LEAST_EXPONENT = -600  # e to the power of it is still a normal number
_PER_WHOLE = 16
_POWERS = np.exp(_LEAST_EXPONENT + np.arange(-_LEAST_EXPONENT * _PER_WHOLE + 1) / _PER_WHOLE)


@compiled
def raise_potentials(
    held: Float64,
    order: Int64,
    gap: Float64,
    group: Int64,
    weight: Float64,
    shared: UInt8,
    length: float,
    least: float,
    potential: Float64,
    total: Float64,
    alpha: Float32,
    alphas: Float32,
    slope: Float64,
    first: int,
    last: int,
) -> None:
    """slope[n, e, g] = mean over the levels of the group, by their gaps, of alpha * (1 - what the servers up
    to there hold of e), 0 for a group without a gap; potential = max(least, potential + length * slope),
    which is also added to total. For e in [first, last).

    alpha is 1 where a level has a group to itself, else, shared[n, i] = 1, alpha[n, e, i] in 0..1, which
    first moves by a quarter of length * (1 - what they hold), which beyond a covered level is
    negative, and is added to alphas. held float64[E, N] may lie outside 0..1. O(N^2 (last - first)).
    """
    nodes, _, groups = potential.shape
    for n in range(nodes):
        for e in range(first, last):
            for g in range(groups):
                slope[n, e, g] = 0.0
            left = 1.0
            for i in range(nodes):
                left -= held[e, order[n, i]]
                if gap[n, i] > 0.0:
                    part = left
                    if shared[n, i] != 0:
                        paid = min(1.0, max(0.0, alpha[n, e, i] + _LEVEL_PACE * length * left))
                        alpha[n, e, i] = paid
                        alphas[n, e, i] += paid
                        part *= paid
                    g = group[n, i]
                    slope[n, e, g] += gap[n, i] * part
            for g in range(groups):
                if weight[n, g] > 0.0:
                    slope[n, e, g] /= weight[n, g]
                value = max(least, potential[n, e, g] + length * slope[n, e, g])
                potential[n, e, g] = value
                total[n, e, g] += value


@compiled
def product(one: Float64, other: Float64, third: Float64, weight: Float64) -> float:
    """Sum over n, e, g of (one - other) * third * weight[n, g]."""
    total = 0.0
    for n in range(one.shape[0]):
        for e in range(one.shape[1]):
            for g in range(one.shape[2]):
                total += (one[n, e, g] - other[n, e, g]) * third[n, e, g] * weight[n, g]
    return total


@compiled
def single(
    activity: Float64,
    held: Float64,
    order: Int64,
    gap: Float64,
    length: float,
    alpha: Float32,
    alphas: Float32,
    earned: Float64,
    told: Float64,
    first: int,
    last: int,
) -> None:
    """The same for single calls, at one go, for e in [first, last): alpha[n, e, i] in 0..1, a level each,
    moves by length * (1 - what the servers up to there hold of e) and is added to alphas.

    activity float64[N, E], held and earned float64[E, N]. Adds to earned what replicas earn; told[0] = sum of
    activity * gap * alpha, told[1] = sum of activity * gap * (what alpha moved)^2. O(N^2 (last - first)).
    """
    nodes = alpha.shape[0]
    told[0] = 0.0
    told[1] = 0.0
    for n in range(nodes):
        for e in range(first, last):
            rate = activity[n, e]
            if rate == 0.0:
                continue
            left = 1.0
            for i in range(nodes):
                left -= held[e, order[n, i]]
                if gap[n, i] > 0.0:
                    old = alpha[n, e, i]
                    new = min(1.0, max(0.0, old + length * left))
                    alpha[n, e, i] = new
                    alphas[n, e, i] += new
                    told[0] += rate * gap[n, i] * alpha[n, e, i]
                    told[1] += rate * gap[n, i] * (new - old) ** 2
            gained = 0.0
            for i in range(nodes - 1, -1, -1):
                if gap[n, i] > 0.0:
                    gained += rate * gap[n, i] * alpha[n, e, i]
                if gained > 0.0:
                    earned[e, order[n, i]] += gained


@compiled
def _power(x: float) -> float:
    """e^x for x <= 0, to 1e-9: a table of sixteenths and a polynomial between them, for a call of the
    library's exp would be most of what the shares cost."""
    if x <= _LEAST_EXPONENT:
        return float(_POWERS[0])
    place = int((x - _LEAST_EXPONENT) * _PER_WHOLE + 0.5)
    part = x - _LEAST_EXPONENT - place / _PER_WHOLE
    rise = 1.0 + part * (1.0 + part * (0.5 + part * (1.0 / 6.0 + part / 24.0)))
    return float(_POWERS[place] * rise)


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

    For the blocks of `start` and `block_offset`, which may be some of all. Routes are sorted by node within a
    block. potential, calls float64[N, E, G]. O(R K G + N E G).
    """
    for n in range(calls.shape[0]):
        for e in range(block_offset[0], block_offset[-1]):
            for g in range(calls.shape[2]):
                calls[n, e, g] = 0.0
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
                    nothing[g] = _power(-highest)
                    for e in range(size):
                        factor[e, g] = _power(potential[n, first + e, g] - highest)
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
def profits(
    calls: Float64,
    order: Int64,
    gap: Float64,
    group: Int64,
    shared: UInt8,
    alpha: Float32,
    out: Float64,
    first: int,
    last: int,
) -> float:
    """out[e, m] += what a replica of e at m takes off the multipliers of all levels it is within, for e in
    [first, last); returns the multipliers times their gaps. calls float64[N, E, G], out float64[E, N], shared
    and alpha as above. O(N^2 (last - first))."""
    nodes = calls.shape[0]
    total = 0.0
    for n in range(nodes):
        for e in range(first, last):
            earned = 0.0
            for i in range(nodes - 1, -1, -1):
                if gap[n, i] > 0.0:
                    part = gap[n, i] * calls[n, e, group[n, i]]
                    if shared[n, i] != 0:
                        part *= alpha[n, e, i]
                    earned += part
                if earned > 0.0:
                    out[e, order[n, i]] += earned
            total += earned
    return total


@compiled
def apart(activity: Float64, gap: Float64, one: Float32, other: Float32) -> float:
    """Sum of activity * gap * (one - other)^2, float32[N, E, N] both."""
    total = 0.0
    for n in range(one.shape[0]):
        for e in range(one.shape[1]):
            for i in range(one.shape[2]):
                total += activity[n, e] * gap[n, i] * (one[n, e, i] - other[n, e, i]) ** 2
    return total
