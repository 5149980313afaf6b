"""Kernels of the multiple-choice knapsack over blocks: how many experts each block gets at one node."""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.problem import Float64, Int32, Int64

_UNREACHED = np.int64(2**62)


@compiled
def group_knapsack(values: Float64, start: Int64, size: Int64, capacity: int, choice: Int32) -> float:
    """max of sum_b values[start[b] + choice[b]] s.t. sum_b choice[b] size[b] <= capacity, one choice per
    block.

    values float64[start[B]] with -inf for choices that don't exist, start int64[B + 1], size int64[B] and
    capacity in one unit. Writes choice int32[B], the smallest among equals; returns the maximum, or -inf
    where nothing fits. O(capacity * len(values)) time, O(capacity * B) memory.
    """
    blocks = size.shape[0]
    best = np.zeros(capacity + 1, np.float64)
    above = np.empty(capacity + 1, np.float64)
    taken = np.zeros((blocks, capacity + 1), np.int32)
    for b in range(blocks):
        for c in range(capacity + 1):
            above[c] = -np.inf
        for k in range(start[b + 1] - start[b]):
            value = values[start[b] + k]
            if value == -np.inf:
                continue
            for c in range(k * size[b], capacity + 1):
                total = best[c - k * size[b]] + value
                if total > above[c]:
                    above[c] = total
                    taken[b, c] = k
        best, above = above, best
    if best[capacity] == -np.inf:
        return -np.inf
    c = capacity
    for b in range(blocks - 1, -1, -1):
        choice[b] = taken[b, c]
        c -= taken[b, c] * size[b]
    return float(best[capacity])


@compiled
def group_knapsack_by_value(
    gains: Int64, start: Int64, size: Int64, capacity: int, most: int, choice: Int32
) -> int:
    """As `group_knapsack` over whole gains int64[start[B]] (negative = does not exist), by least size per
    total gain, so its cost does not depend on the capacity. `most` bounds the total gain. Returns the
    maximum or -1. O(most * len(gains)) time, O(most * B) memory.
    """
    blocks = size.shape[0]
    least = np.full(most + 1, _UNREACHED, np.int64)
    after = np.empty(most + 1, np.int64)
    taken = np.zeros((blocks, most + 1), np.int32)
    least[0] = 0
    for b in range(blocks):
        for v in range(most + 1):
            after[v] = _UNREACHED
        for k in range(start[b + 1] - start[b]):
            gain = gains[start[b] + k]
            weight = k * size[b]
            if gain < 0 or weight > capacity:
                continue
            for v in range(gain, most + 1):
                if least[v - gain] <= capacity - weight and least[v - gain] + weight < after[v]:
                    after[v] = least[v - gain] + weight
                    taken[b, v] = k
        least, after = after, least
    best = most
    while best >= 0 and least[best] > capacity:
        best -= 1
    if best < 0:
        return -1
    v = best
    for b in range(blocks - 1, -1, -1):
        choice[b] = taken[b, v]
        v -= gains[start[b] + taken[b, v]]
    return best


@compiled
def _hull_edges(
    values: Float64,
    start: Int64,
    size: Int64,
    least: Int32,
    low: Int64,
    high: Int64,
    owner: Int64,
    slope: Float64,
) -> int:
    """The edges of the upper hulls of the tables, block after block, each block's in falling order of slope:
    from count low[i] to high[i] of block owner[i], slope[i] being the rise per unit of size. Returns how
    many, or -1 where a table has no count at all. Writes the four, [len(values)], and the least possible
    counts int32[B]. O(L), L = len(values)."""
    hull = np.empty(values.shape[0], np.int64)
    edges = 0
    for b in range(size.shape[0]):
        count = start[b + 1] - start[b]
        first = 0
        while first < count and values[start[b] + first] == -np.inf:
            first += 1
        if first == count:
            return -1
        least[b] = first
        hull[0] = first
        top = 1
        for k in range(first + 1, count):
            value = values[start[b] + k]
            if value <= values[start[b] + hull[top - 1]]:
                continue
            while top > 1:
                before, last = hull[top - 2], hull[top - 1]
                rise = values[start[b] + last] - values[start[b] + before]
                if rise * (k - last) < (value - values[start[b] + last]) * (last - before):
                    top -= 1
                else:
                    break
            hull[top] = k
            top += 1
        for i in range(top - 1):
            low[edges] = hull[i]
            high[edges] = hull[i + 1]
            owner[edges] = b
            rise = values[start[b] + hull[i + 1]] - values[start[b] + hull[i]]
            slope[edges] = rise / ((hull[i + 1] - hull[i]) * size[b])
            edges += 1
    return edges


@compiled
def relaxed(values: Float64, start: Int64, size: Int64, capacity: int) -> tuple[float, float]:
    """The linear relaxation of `group_knapsack`: its maximum, and the price of a unit of capacity; -inf and 0
    where the least counts do not fit. O(L log L)."""
    blocks = size.shape[0]
    low = np.empty(values.shape[0], np.int64)
    high = np.empty(values.shape[0], np.int64)
    owner = np.empty(values.shape[0], np.int64)
    slope = np.empty(values.shape[0], np.float64)
    least = np.empty(blocks, np.int32)
    edges = _hull_edges(values, start, size, least, low, high, owner, slope)
    if edges < 0:
        return -np.inf, 0.0
    room = capacity
    total = 0.0
    for b in range(blocks):
        room -= least[b] * size[b]
        total += values[start[b] + least[b]]
    if room < 0:
        return -np.inf, 0.0
    order = np.argsort(-slope[:edges], kind="mergesort")
    for position in range(edges):
        i = order[position]
        needed = (high[i] - low[i]) * size[owner[i]]
        if needed > room:
            return total + slope[i] * room, float(slope[i])
        total += slope[i] * needed
        room -= needed
    return total, 0.0


@compiled
def hull_knapsack(values: Float64, start: Int64, size: Int64, capacity: int, choice: Int32) -> float:
    """As `group_knapsack` from below: the linear relaxation's counts, then single blocks raised to what still
    fits and gains most.

    With the tables concave and the sizes equal that is the maximum; else it lacks less than the largest edge
    of an upper hull. Returns the value reached, or -inf where nothing fits. O(L log L + raises L), L =
    len(values).
    """
    blocks = size.shape[0]
    low = np.empty(values.shape[0], np.int64)
    high = np.empty(values.shape[0], np.int64)
    owner = np.empty(values.shape[0], np.int64)
    slope = np.empty(values.shape[0], np.float64)
    edges = _hull_edges(values, start, size, choice, low, high, owner, slope)
    if edges < 0:
        return -np.inf
    room = capacity
    for b in range(blocks):
        room -= choice[b] * size[b]
    if room < 0:
        return -np.inf
    order = np.argsort(-slope[:edges], kind="mergesort")
    for position in range(edges):
        i = order[position]
        b = owner[i]
        needed = (high[i] - low[i]) * size[b]
        if needed > room:
            break
        choice[b] = high[i]
        room -= needed
    while True:
        best = 0.0
        raised = -1
        to = 0
        for b in range(blocks):
            here = values[start[b] + choice[b]]
            most = min(start[b + 1] - start[b] - 1, choice[b] + room // size[b])
            for k in range(choice[b] + 1, most + 1):
                gain = values[start[b] + k] - here
                if gain > best:
                    best = gain
                    raised = b
                    to = k
        if raised < 0:
            break
        room -= (to - choice[raised]) * size[raised]
        choice[raised] = to
    total = 0.0
    for b in range(blocks):
        total += values[start[b] + choice[b]]
    return total
