"""Kernel of the knapsacks of all nodes over whole experts: a bound on the best value by branch and bound."""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.problem import Float64, Int64


@compiled
def knapsacks(profit: Float64, kind: Int64, size: Int64, room: Int64, branches: int, held: Float64) -> float:
    """Sum over the nodes of an upper bound on max of profit @ x within the room, x of 0 and 1.

    profit float64[N, E]; kind int64[E]: the size of an expert as an index into size int64[D], bytes, in
    falling order; room int64[N], bytes. Writes the best x found to held float64[N, E]. Of one size the
    experts of most profit are the best, so that only their number per size is to be found. Numbers are tried
    from those that are best at a price of memory, the linear relaxation's, and left out where the relaxation
    of the rest promises no more than is reached. The value is the maximum where a node's search ends within
    so many `branches`; else the part that is left is worth what its relaxation promises. O(N (E log E +
    branches)).
    """
    experts = kind.shape[0]
    kinds = size.shape[0]
    start = np.zeros(kinds + 1, np.int64)
    for e in range(experts):
        start[kind[e] + 1] += 1
    for d in range(kinds):
        start[d + 1] += start[d]
    sums = np.empty(
        experts + kinds
    )  # of the first k of each kind, k = 0..: those of kind d from start[d] + d
    number = np.empty(kinds, np.int64)
    favourite = np.empty(kinds, np.int64)  # the number that is best at the price
    beyond = np.empty(kinds + 1)  # what the kinds from d on are worth at most, beside the price of the room
    chosen = np.empty(kinds, np.int64)  # of a search in depth: the number that is tried next
    rising = np.empty(kinds, np.bool_)
    left = np.empty(kinds + 1, np.int64)
    reached = np.empty(kinds + 1)
    density = np.empty(experts)
    taken = np.empty(kinds, np.int64)  # the numbers of the best x
    total = 0.0
    for m in range(profit.shape[0]):
        for e in range(experts):
            density[e] = profit[m, e] / size[kind[e]]
        order = np.argsort(-density, kind="mergesort")
        for d in range(kinds):
            number[d] = taken[d] = 0
            sums[start[d] + d] = 0.0
        price = 0.0
        used = np.int64(0)
        full = False
        best = 0.0
        for e in order:
            if profit[m, e] <= 0.0:
                break
            d = kind[e]
            at = start[d] + d + number[d]
            sums[at + 1] = sums[at] + profit[m, e]
            number[d] += 1
            if used + size[d] <= room[m]:
                used += size[d]
                best += profit[m, e]
                taken[d] += 1
            elif not full:
                full = True
                price = density[e]
        beyond[kinds] = 0.0
        for d in range(kinds - 1, -1, -1):
            number[d] = min(number[d], room[m] // size[d])
            base = start[d] + d
            k = 0
            while k < number[d] and sums[base + k + 1] - sums[base + k] > price * size[d]:
                k += 1
            favourite[d] = k
            beyond[d] = beyond[d + 1] + sums[base + k] - price * size[d] * k
        promised = best
        left[0] = room[m]
        reached[0] = 0.0
        chosen[0] = favourite[0]
        rising[0] = False
        tried = 0
        d = 0 if full else -1
        while d >= 0:
            k = chosen[d]
            rest = room[m]
            value = worth = 0.0
            inside = 0 <= k <= number[d]
            if inside:
                base = start[d] + d
                rest = left[d] - k * size[d]
                value = reached[d] + sums[base + k]
                worth = value + price * max(0, rest) + beyond[d + 1]
                inside = worth > promised
            if not inside:  # nor is any number further on in this direction
                if rising[d]:
                    d -= 1
                    if d < 0:
                        break
                    chosen[d] += 1 if rising[d] else -1
                else:
                    rising[d] = True
                    chosen[d] = favourite[d] + 1
                continue
            tried += 1
            if rest < 0:  # too many: fewer may fit, more do not
                if rising[d]:
                    chosen[d] = number[d] + 1
                else:
                    chosen[d] -= 1
            elif d >= kinds - 2 or tried > branches:
                most = np.int64(0)
                if d == kinds - 2:  # of the smallest kind all that fit are best
                    most = min(number[d + 1], rest // size[d + 1])
                    worth = value + sums[start[d + 1] + d + 1 + most]
                elif d == kinds - 1:
                    worth = value
                promised = max(promised, worth)
                if d >= kinds - 2 and worth > best:
                    best = worth
                    for i in range(d + 1):
                        taken[i] = chosen[i]
                    if d == kinds - 2:
                        taken[d + 1] = most
                chosen[d] += 1 if rising[d] else -1
            else:
                left[d + 1] = rest
                reached[d + 1] = value
                d += 1
                chosen[d] = favourite[d]
                rising[d] = False
        for e in order:
            held[m, e] = 0.0
            if taken[kind[e]] > 0 and profit[m, e] > 0.0:
                taken[kind[e]] -= 1
                held[m, e] = 1.0
        total += promised
    return total
