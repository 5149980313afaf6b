"""Kernels of best responses where every call counts by itself: the two nearest holders of every expert, from
every node, and what a node's replicas save."""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.problem import Float64, Int8, Int32, Int64, UInt8


@compiled
def find_two(
    columns: Int64, holds: UInt8, latency: Float64, best: Float64, second: Float64, who: Int32
) -> None:
    """For the given columns int64[C]: best[n, e] = least latency from n to a node that holds e, who[n, e] =
    that node, second[n, e] = least to another one; inf and -1 where there is none.

    holds uint8[N, E], latency float64[N, N]; best, second float64[N, E], who int32[N, E], of which only the
    given columns are written. O(N^2 C).
    """
    nodes = holds.shape[0]
    holders = np.empty(nodes, np.int64)
    for c in range(columns.shape[0]):
        e = columns[c]
        count = 0
        for m in range(nodes):
            if holds[m, e] != 0:
                holders[count] = m
                count += 1
        for n in range(nodes):
            first = np.inf
            other = np.inf
            at = -1
            for i in range(count):
                call = latency[n, holders[i]]
                if call < first:
                    other = first
                    first = call
                    at = holders[i]
                elif call < other:
                    other = call
            best[n, e] = first
            second[n, e] = other
            who[n, e] = at


@compiled
def replica_gains(
    node: int,
    activity: Float64,
    latency: Float64,
    fallback: Float64,
    best: Float64,
    second: Float64,
    who: Int32,
    gain: Float64,
) -> None:
    """gain[e] += what a replica at `node` saves all calls of e per second, its own replica left out of what
    there is. activity float64[N, E] calls per second, fallback float64[N]: what a call costs at most; the
    others as of `find_two`; gain float64[E]. O(N E)."""
    for n in range(activity.shape[0]):
        call = latency[n, node]
        if call == np.inf:
            continue
        for e in range(gain.shape[0]):
            now = second[n, e] if who[n, e] == node else best[n, e]
            saved = min(now, fallback[n]) - call
            gain[e] += activity[n, e] * max(0.0, saved)


@compiled
def rank(block_offset: Int64, gain: Float64, state: Int8, values: Float64, order: Int64) -> None:
    """Per block, the forced experts (state 1) first, the forbidden ones (-1) last and by falling gain within
    each, the lower id first among equals: order int64[E], ids within the block; values float64[E + B] are the
    sums of the gains of the first k, k = 0..E_b, -inf where that lacks a forced or has a forbidden one.
    O(E log E)."""
    for b in range(block_offset.shape[0] - 1):
        low = block_offset[b]
        size = block_offset[b + 1] - low
        place = 0
        forced = 0
        by_gain = np.argsort(-gain[low : low + size], kind="mergesort")
        for rule in (1, 0, -1):
            for e in by_gain:
                if state[low + e] == rule:
                    order[low + place] = e
                    place += 1
            if rule == 1:
                forced = place
        total = 0.0
        values[low + b] = 0.0 if forced == 0 else -np.inf
        for k in range(size):
            e = low + order[low + k]
            total += gain[e]
            values[low + b + k + 1] = total if k + 1 >= forced and state[e] >= 0 else -np.inf
