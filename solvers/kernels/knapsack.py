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
def hull_knapsack(values: Float64, start: Int64, size: Int64, capacity: int, choice: Int32) -> float:
    """As `group_knapsack` from below: the linear relaxation's counts, then single blocks raised to what still
    fits and gains most.

    With the tables concave and the sizes equal that is the maximum; else it lacks less than the largest edge
    of an upper hull. Returns the value reached, or -inf where nothing fits. O(L log L + raises L), L =
    len(values).
    """
    blocks = size.shape[0]
    # the edges of the hulls, each block's in falling order of slope, so that none comes before its left one
    low = np.empty(values.shape[0], np.int64)
    high = np.empty(values.shape[0], np.int64)
    owner = np.empty(values.shape[0], np.int64)
    slope = np.empty(values.shape[0], np.float64)
    hull = np.empty(values.shape[0], np.int64)
    edges = 0
    room = capacity
    for b in range(blocks):
        count = start[b + 1] - start[b]
        least = 0
        while least < count and values[start[b] + least] == -np.inf:
            least += 1
        if least == count:
            return -np.inf
        choice[b] = least
        room -= least * size[b]
        hull[0] = least
        top = 1
        for k in range(least + 1, count):
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
