"""Kernels of the linear relaxation by levels, for single calls and for routes that wait for their slowest
call; see `solvers.dual.slowest`.

Experts come last in every array, so that the loops over the experts of a block run through memory and go
many at a time: potentials and calls are float64[N, L, E] over (node, level with a gap, expert), alpha is
float32[N, L, E], what servers hold or earn float64[N, E].
"""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.problem import Float64, Int32, Int64

_LEAST_EXPONENT = -600  # e to the power of it is still a normal number
_PER_WHOLE = 16
_POWERS = np.exp(_LEAST_EXPONENT + np.arange(-_LEAST_EXPONENT * _PER_WHOLE + 1) / _PER_WHOLE)
_LANES = 4  # levels that one pass over the routes deals with


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
def _share_out(
    experts: Int32, rate: Float64, first: int, last: int, nothing: Float64, factor: Float64, found: Float64
) -> None:
    """found[e] = sum over the routes [first, last) with e of rate * theta, theta being the route's factors by
    their sum with `nothing`: >= 0, with a sum of at most 1.

    nothing float64[4]; factor, found float64[4 E_b]: four levels at once, beside each other for each expert.
    Only `found` is written. O(routes K).
    """
    width = experts.shape[1]
    for place in range(found.shape[0]):
        found[place] = 0.0
    for r in range(first, last):
        total0, total1, total2, total3 = nothing[0], nothing[1], nothing[2], nothing[3]
        members = 0
        while members < width and experts[r, members] >= 0:
            at = np.uint64(experts[r, members]) * np.uint64(4)
            total0 += factor[at]
            total1 += factor[at + np.uint64(1)]
            total2 += factor[at + np.uint64(2)]
            total3 += factor[at + np.uint64(3)]
            members += 1
        total0 = rate[r] / total0
        total1 = rate[r] / total1
        total2 = rate[r] / total2
        total3 = rate[r] / total3
        for k in range(members):
            at = np.uint64(experts[r, k]) * np.uint64(4)
            found[at] += total0 * factor[at]
            found[at + np.uint64(1)] += total1 * factor[at + np.uint64(1)]
            found[at + np.uint64(2)] += total2 * factor[at + np.uint64(2)]
            found[at + np.uint64(3)] += total3 * factor[at + np.uint64(3)]


@compiled
def slowest(
    start: Int64,
    node: Int32,
    experts: Int32,
    rate: Float64,
    block_offset: Int64,
    held: Float64,
    order: Int64,
    gap: Float64,
    place: Int64,
    near: Int64,
    length: float,
    least: float,
    potential: Float64,
    potentials: Float64,
    calls: Float64,
    earned: Float64,
    told: Float64,
) -> None:
    """One step of the multipliers of routes that wait for their slowest call, for the blocks of `start` and
    `block_offset`, which may be some of all.

    The lack of an expert at a level, at a node, is 1 - what the servers up to there hold of it. The potential
    of the level, l = place[n, i], becomes max(least, potential + length * lack). theta of a route is the
    softmax over the potentials of its experts and 0, and calls[n, l, e] the sum of rate * theta. potential is
    added to potentials, what replicas earn to earned float64[N, E]; told[0] = multipliers times gaps, told[1]
    = sum of what calls moved * lack * gap.

    Routes are sorted by node within a block. held float64[N, E] may lie outside 0..1; order, place
    int64[N, N], -1 where there is no gap; gap float64[N, N]; near int64[N]: the servers up to the last level
    with a gap but the very last, which is beyond all of them. O(N E L + R K L), the memory it needs O(E_b L).
    """
    nodes = order.shape[0]
    levels = potential.shape[1]
    quads = (levels + _LANES - 1) // _LANES
    most = 0
    for b in range(start.shape[0] - 1):
        most = max(most, block_offset[b + 1] - block_offset[b])
    left_of = np.empty(most)
    whole_of = np.empty(most)
    all_of = np.empty(most)
    gained_of = np.empty(most)
    lack_of = np.empty((levels, most))
    factors = np.zeros((quads, _LANES * most))
    founds = np.empty(_LANES * most)
    nothing = np.ones((quads, _LANES))
    gaps = np.zeros(levels)
    told[0] = 0.0
    told[1] = 0.0
    for b in range(start.shape[0] - 1):
        low = block_offset[b]
        high = block_offset[b + 1]
        size = high - low
        left = left_of[:size]
        whole = whole_of[:size]
        by_all = all_of[:size]
        for e in range(size):
            whole[e] = 0.0
            by_all[e] = 0.0
        for m in range(nodes):
            there = held[m, low:high]
            for e in range(size):
                whole[e] += there[e]
        gained = gained_of[:size]
        after = start[b]
        for n in range(nodes):
            begin = after
            while after < start[b + 1] and node[after] == n:
                after += 1
            if begin == after:
                continue  # nobody calls: nothing is paid for
            for e in range(size):
                left[e] = 1.0
            for j in range(levels):
                gaps[j] = 0.0
            for step in range(near[n] + 1):
                i = step
                if step < near[n]:
                    there = held[order[n, i], low:high]
                    for e in range(size):
                        left[e] -= there[e]
                else:
                    i = nodes - 1
                    for e in range(size):
                        left[e] = 1.0 - whole[e]
                j = place[n, i]
                if j < 0:
                    continue
                gaps[j] = gap[n, i]
                lack = lack_of[j, :size]
                level = potential[n, j, low:high]
                sums = potentials[n, j, low:high]
                factor = factors[j // _LANES, j % _LANES :]
                highest = 0.0
                for e in range(size):
                    lack[e] = left[e]
                    value = max(least, level[e] + length * left[e])
                    level[e] = value
                    sums[e] += value
                    highest = max(highest, value)
                for e in range(size):
                    factor[_LANES * e] = _power(level[e] - highest)
                nothing[j // _LANES, j % _LANES] = _power(-highest)
            for q in range(quads):
                _share_out(experts, rate, begin, after, nothing[q], factors[q], founds[: _LANES * size])
                for j in range(_LANES * q, min(levels, _LANES * (q + 1))):
                    if gaps[j] == 0.0:
                        continue
                    lack = lack_of[j, :size]
                    share = calls[n, j, low:high]
                    found = founds[j % _LANES :]
                    moved = 0.0
                    for e in range(size):
                        moved += (found[_LANES * e] - share[e]) * lack[e]
                        share[e] = found[_LANES * e]
                    told[1] += moved * gaps[j]
            for e in range(size):
                gained[e] = 0.0
            j = place[n, nodes - 1]
            if j >= 0:
                share = calls[n, j, low:high]
                for e in range(size):
                    by_all[e] += gaps[j] * share[e]
                    told[0] += gaps[j] * share[e]
            for i in range(near[n] - 1, -1, -1):
                j = place[n, i]
                if j >= 0:
                    share = calls[n, j, low:high]
                    for e in range(size):
                        gained[e] += gaps[j] * share[e]
                there = earned[order[n, i], low:high]
                for e in range(size):
                    there[e] += gained[e]
            for e in range(size):
                told[0] += gained[e]
        for m in range(nodes):
            there = earned[m, low:high]
            for e in range(size):
                there[e] += by_all[e]


@compiled
def apart(
    one: Float64, other: Float64, potential: Float64, before: Float64, gap: Float64, place: Int64
) -> float:
    """Sum over n, i, e of (one - other) * (potential - before) * gap[n, i] at the level place[n, i], all
    float64[N, L, E]."""
    total = 0.0
    for n in range(one.shape[0]):
        for i in range(gap.shape[1]):
            j = place[n, i]
            if j < 0:
                continue
            part = 0.0
            for e in range(one.shape[2]):
                part += (one[n, j, e] - other[n, j, e]) * (potential[n, j, e] - before[n, j, e])
            total += gap[n, i] * part
    return total


@compiled
def single(
    block_offset: Int64,
    activity: Float64,
    held: Float64,
    order: Int64,
    edge: Float64,
    pace: Float64,
    reach: Float64,
    reaches: Float64,
    earned: Float64,
    told: Float64,
) -> None:
    """One step of the multipliers of single calls, for the columns of the blocks of `block_offset`.

    reach[n, e] in edge[n, 0]..edge[n, N] is how far a call pays: it has a multiplier of 1 at the levels below
    it, of 0 at those above, and in between at the one it is within. It becomes the u that is best for
    multipliers against held, less (u - reach)^2 / (2 pace[n]): where the lack of the level, 1 - what the
    servers up to there hold, times pace leads from where it was. It is added to reaches.

    activity, reach, reaches float64[N, E], held and earned float64[N, E]; order int64[N, N]; edge
    float64[N, N + 1], the latencies in order; pace float64[N]. Adds to earned what replicas earn; told[0] =
    sum of activity * (reach - edge[n, 0]), told[1] = sum of activity * (what reach moved)^2 / pace. O(N^2 E).
    """
    nodes = order.shape[0]
    most = 0
    for b in range(block_offset.shape[0] - 1):
        most = max(most, block_offset[b + 1] - block_offset[b])
    left_of = np.empty(most)
    next_of = np.empty(most)
    told[0] = 0.0
    told[1] = 0.0
    for b in range(block_offset.shape[0] - 1):
        low = block_offset[b]
        high = block_offset[b + 1]
        size = high - low
        left = left_of[:size]
        after = next_of[:size]
        for n in range(nodes):
            rate = activity[n, low:high]
            here = reach[n, low:high]
            total = reaches[n, low:high]
            step = pace[n]
            nearest = edge[n, 0]
            for e in range(size):
                left[e] = 1.0
                after[e] = nearest
            for i in range(nodes):
                there = held[order[n, i], low:high]
                upper = edge[n, i + 1]
                for e in range(size):
                    left[e] -= there[e]
                    after[e] = max(after[e], min(upper, here[e] + step * left[e]))
            moved = 0.0
            paid = 0.0
            for e in range(size):
                moved += rate[e] * (after[e] - here[e]) * (after[e] - here[e])
                here[e] = after[e]
                total[e] += after[e]
                paid += rate[e] * (after[e] - nearest)
            told[0] += paid
            if step > 0.0:
                told[1] += moved / step
            for i in range(nodes):
                there = earned[order[n, i], low:high]
                lower = edge[n, i]
                for e in range(size):
                    there[e] += rate[e] * max(0.0, after[e] - lower)
