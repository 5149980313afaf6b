"""Kernels that find the nearest holders of every expert without looking at every pair of nodes."""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.problem import Float32, Float64, Int16, Int32, Int64, UInt8

_STRIP = 16  # experts whose costs are written side by side: a line of the cache or two


@compiled
def holders_of(holds: UInt8, offset: Int64) -> Int32:
    """The nodes that hold each expert, expert after expert: those of e are [offset[e] : offset[e + 1]].

    holds uint8[N, E]; writes offset int64[E + 1]. O(N E).
    """
    nodes, experts = holds.shape
    for e in range(experts + 1):
        offset[e] = 0
    for n in range(nodes):
        for e in range(experts):
            offset[e + 1] += holds[n, e] != 0
    for e in range(experts):
        offset[e + 1] += offset[e]
    cursor = offset[:-1].copy()
    found = np.empty(offset[experts], np.int32)
    for n in range(nodes):
        for e in range(experts):
            if holds[n, e] != 0:
                found[cursor[e]] = n
                cursor[e] += 1
    return found


@compiled
def serving_costs(
    holds: UInt8,
    holders: Int32,
    offset: Int64,
    nearest: Int64,
    latency: Float64,
    fallback: Float64,
    first: int,
    last: int,
    out: Float64,
) -> None:
    """out[n, e] = min(fallback[n], least latency[n, m] to a holder m of e) for e in [first, last).

    holders int32[H] and offset int64[E + 1] as of `holders_of`, nearest int64[N, N] as of `nearest_nodes`. An
    expert with h holders costs a node a look at all of them or, where they are many, at its own neighbours
    in order until it meets one, about N / h: O(N E sqrt(N)) on the whole.
    """
    nodes = holds.shape[0]
    for strip in range(first, last, _STRIP):
        end = min(last, strip + _STRIP)
        for n in range(nodes):
            for e in range(strip, end):
                cost = fallback[n]
                number = offset[e + 1] - offset[e]
                if number * number <= 4 * nodes:
                    for position in range(offset[e], offset[e + 1]):
                        cost = min(cost, latency[n, holders[position]])
                else:
                    for i in range(nodes):
                        m = nearest[n, i]
                        if latency[n, m] >= cost:
                            break
                        if holds[m, e] != 0:
                            cost = latency[n, m]
                            break
                out[n, e] = cost


@compiled
def two_nearest(
    held_by: UInt8,
    holders: Int32,
    offset: Int64,
    nearest: Int64,
    latency: Float64,
    fallback: Float64,
    first: int,
    last: int,
    costs: Float32,
    others: Float32,
    hosts: Int16,
    seconds: Int16,
) -> None:
    """For e in [first, last): costs[e, n] and hosts[e, n], what the nearest holder costs and which it is, -1
    where nobody beats fallback[n]; others[e, n] and seconds[e, n] the same for the one after it.

    held_by uint8[E, N]; the four are [E, N]. As `serving_costs`.
    """
    nodes = held_by.shape[1]
    for e in range(first, last):
        number = offset[e + 1] - offset[e]
        for n in range(nodes):
            best = second = fallback[n]
            host = other = -1
            if number * number <= 8 * nodes:
                for position in range(offset[e], offset[e + 1]):
                    m = holders[position]
                    served = latency[n, m]
                    if served < best:
                        second, other = best, host
                        best, host = served, m
                    elif served < second:
                        second, other = served, m
            else:
                for i in range(nodes):
                    m = nearest[n, i]
                    if latency[n, m] >= fallback[n]:
                        break
                    if held_by[e, m] != 0:
                        if host < 0:
                            best, host = latency[n, m], m
                        else:
                            second, other = latency[n, m], m
                            break
            costs[e, n], others[e, n] = best, second
            hosts[e, n], seconds[e, n] = host, other


@compiled
def first_in_order(held_by: UInt8, order: Int32, columns: Int64, everywhere: int, found: Int32) -> None:
    """found[i]: positions in `order` int32[T] of the first that hold the expert columns[i], -1 where there
    are no more; who stands at position `everywhere` (-1: nobody) holds all.

    held_by uint8[E, N], columns int64[C], found int32[C, most]. O(T) a column at most.
    """
    most = found.shape[1]
    for i in range(columns.shape[0]):
        number = 0
        for position in range(order.shape[0]):
            if number == most:
                break
            if position == everywhere or held_by[columns[i], order[position]] != 0:
                found[i, number] = position
                number += 1
        for rest in range(number, most):
            found[i, rest] = -1
