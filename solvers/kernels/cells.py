"""Kernel of the linear relaxation by levels over the calls that are made, a cell each; see
`solvers.dual.cells`."""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.problem import Float32, Float64, Int8, Int32, Int64, UInt8
from solvers.tolerances import TINY

_LEAST_EXPONENT = -600.0  # e to the power of it is still a normal number
_HIGHEST = 1e30  # a potential of more could overflow, and so could the sum of many
_LOG2E, _LN2 = 1.4426950408889634, 0.6931471805599453
_WHOLE = 1.5 * 2.0**52  # added to a small number it leaves the nearest whole one in the last bits
_BIAS, _MANTISSA = 1023, 52  # of a number of 64 bits


@compiled
def _powers(x: Float64, whole: Float64, bits: Int64, number: int) -> None:
    """Replaces the first `number` of x, at most 0 each, by e^x to 2e-7, e^-600 at least; `whole` is scratch,
    of the same length, and `bits` the same memory as int64. Plain loops, which compilers make vectors of."""
    for i in range(number):
        x[i] = max(x[i], _LEAST_EXPONENT)
        whole[i] = x[i] * _LOG2E + _WHOLE
    for i in range(number):
        r = x[i] - (whole[i] - _WHOLE) * _LN2
        x[i] = 1.0 + r * (1.0 + r * (0.5 + r * (1 / 6 + r * (1 / 24 + r * (1 / 120 + r * (1 / 720))))))
    for i in range(number):
        bits[i] = (bits[i] + _BIAS) << _MANTISSA
    for i in range(number):
        x[i] *= whole[i]


@compiled
def share(
    group: Int64,
    route: Int64,
    node: Int32,
    column: Int32,
    routes: Int32,
    rate: Float64,
    order: Int64,
    ends: Int64,
    gap: Float64,
    held: Float64,
    length: float,
    least: float,
    potential: Float32,
    total: Float32,
    calls: Float32,
    earned: Float64,
    told: Float64,
) -> None:
    """A step of all multipliers: raises potentials, shares the routes out by them, and adds up what replicas
    earn.

    group int64[G + 1], route int64[G + 1]: cells and routes of every (block, node) that calls; node, column
    int32[C] of the cells; routes int32[R, K]: the cells of a route, -1 pads at the end; rate float64[R].
    Level l of n has the servers order[n, ends[n, l] : ends[n, l + 1]] of order int64[N, N], ends int64[N, L +
    1], and costs gap float64[N, L] where none of them or before holds the expert. held float64[E, N].

    potential float32[C, L] rises by length * (1 - what is held up to there), to least at least and 1e30 at
    most, and is added to total where length > 0; calls float32[C, L] becomes the rate that pays for each
    level: a route's softmax over its potentials and 0, summed. Adds to earned float64[E, N]; told[0] =
    multipliers times gaps, told[1] = sum of gap * what calls moved * (1 - held). O(C (N + L) + R K L).
    """
    levels = gap.shape[1]
    width = routes.shape[1]
    most = 0
    for g in range(group.shape[0] - 1):
        most = max(most, group[g + 1] - group[g])
    left = np.empty((most, levels))
    power = np.empty((most + 1) * levels)
    whole = np.empty(power.shape[0])
    bits = whole.view(np.int64)
    factor = np.empty((most + 1, levels))
    paid = np.empty((most, levels))
    highest = np.empty(levels)
    sums = np.empty(levels)
    server = np.empty(order.shape[1], np.uint64)  # unsigned, so that no index is looked at for its sign
    constant = 0.0
    moved = 0.0
    for g in range(group.shape[0] - 1):
        first = group[g]
        size = group[g + 1] - first
        n = node[first]
        for i in range(order.shape[1]):
            server[i] = order[n, i]
        for j in range(levels):
            highest[j] = 0.0
        for c in range(size):
            e = column[first + c]
            lack = 1.0
            for j in range(levels):
                here = 0.0
                for i in range(ends[n, j], ends[n, j + 1]):
                    here += held[e, server[i]]
                lack -= here
                left[c, j] = lack
            for j in range(levels):
                value = min(max(least, potential[first + c, j] + length * left[c, j]), _HIGHEST)
                stored = np.float32(value)
                potential[first + c, j] = stored
                power[c * levels + j] = stored
                highest[j] = max(highest[j], stored)
            if length > 0.0:
                for j in range(levels):
                    total[first + c, j] += potential[first + c, j]
        for c in range(size):
            for j in range(levels):
                power[c * levels + j] -= highest[j]
        for j in range(levels):
            power[size * levels + j] = -highest[j]
        _powers(power, whole, bits, (size + 1) * levels)
        for c in range(size):
            for j in range(levels):
                factor[c, j] = power[c * levels + j] if gap[n, j] > 0.0 else 0.0
                paid[c, j] = 0.0
        for j in range(levels):
            factor[size, j] = power[size * levels + j]
        for r in range(route[g], route[g + 1]):
            for j in range(levels):
                sums[j] = factor[size, j]
            members = 0
            while members < width and routes[r, members] >= 0:
                of_cell = factor[np.uint64(routes[r, members] - first)]
                for j in range(levels):
                    sums[j] += of_cell[j]
                members += 1
            for j in range(levels):
                sums[j] = rate[r] / sums[j]
            for k in range(members):
                of_cell = paid[np.uint64(routes[r, k] - first)]
                for j in range(levels):
                    of_cell[j] += sums[j]
        for c in range(size):
            for j in range(levels):
                paid[c, j] *= factor[c, j]
        for c in range(size):
            e = column[first + c]
            gained = 0.0
            for j in range(levels - 1, -1, -1):
                moved += gap[n, j] * (paid[c, j] - calls[first + c, j]) * left[c, j]
                calls[first + c, j] = paid[c, j]
                gained += gap[n, j] * paid[c, j]
                if gained > 0.0:
                    for i in range(ends[n, j], ends[n, j + 1]):
                        earned[e, server[i]] += gained
            constant += gained
    told[0] = constant
    told[1] = moved


@compiled
def apart(
    node: Int32, gap: Float64, calls: Float32, other: Float32, potential: Float32, past: Float32
) -> float:
    """Sum over the cells and levels of gap * (calls - other) * (potential - past)."""
    total = 0.0
    for c in range(node.shape[0]):
        for j in range(gap.shape[1]):
            total += (
                gap[node[c], j]
                * (np.float64(calls[c, j]) - other[c, j])
                * (np.float64(potential[c, j]) - past[c, j])
            )
    return total


@compiled
def most(
    node: Int32,
    column: Int32,
    activity: Float64,
    order: Int64,
    ends: Int64,
    gap: Float64,
    earned: Float64,
) -> None:
    """Adds to earned float64[N, E] what replicas earn where every call pays for all of its levels; activity
    float64[C] of the cells, the rest as of `share`."""
    levels = gap.shape[1]
    for c in range(node.shape[0]):
        n = node[c]
        gained = 0.0
        for j in range(levels - 1, -1, -1):
            gained += gap[n, j] * activity[c]
            for i in range(ends[n, j], ends[n, j + 1]):
                earned[order[n, i], column[c]] += gained


@compiled
def cover(
    held: Float64,
    activity: Float64,
    order: Int64,
    allowed: Int8,
    size: Int64,
    room: Int64,
    rows: UInt8,
) -> None:
    """Writes rows uint8[A, E], what the nodes of an area hold: what they must, then one replica of every
    expert that the area calls, in `order` int64, while the memory lasts, then what each holds most.

    held float64[A, E] says who holds an expert rather, activity float64[A, E], calls per second, where that
    is equal; allowed int8[A, E], 1 must be held, -1 must not; size int64[E]; room int64[A] in bytes, used up.
    O(A E log E).
    """
    nodes, experts = held.shape
    for n in range(nodes):
        for e in range(experts):
            rows[n, e] = 0
            if allowed[n, e] > 0:
                rows[n, e] = 1
                room[n] -= size[e]
    for position in range(order.shape[0]):
        e = order[position]
        best = -1
        for n in range(nodes):
            if rows[n, e] != 0:
                best = -1
                break
            if allowed[n, e] < 0 or room[n] < size[e]:
                continue
            if best < 0 or (held[n, e], activity[n, e]) > (held[best, e], activity[best, e]):
                best = n
        if best >= 0:
            rows[best, e] = 1
            room[best] -= size[e]
    for n in range(nodes):
        ranked = np.argsort(-(held[n] + 1e-3 * activity[n] / (activity[n].max() + TINY)))
        for position in range(experts):
            e = ranked[position]
            wanted = held[n, e] > 0.0 or activity[n, e] > 0.0
            if wanted and rows[n, e] == 0 and allowed[n, e] == 0 and room[n] >= size[e]:
                rows[n, e] = 1
                room[n] -= size[e]
