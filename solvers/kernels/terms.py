"""Kernel that writes the saving of one node, in one block, as a weighted sum over subsets of experts.

With the other nodes fixed, the saving of the set A held by node n is
    sum over e in A of modular[e] + sum over terms T inside A of weight[T].
`sum`: modular only. `slowest`: sort the experts of a route by what they cost without n, dearest first;
holding the first j of them lowers the maximum to the (j+1)-th cost (never below the call to n), so each
prefix is a term. `colocated`: a route is one term; where neither a host nor an origin serves it, its experts
also save one by one.
"""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.kernels.evaluation import COLOCATED, SUM, nearest_host
from solvers.problem import Float64, Int32, Int64, UInt8


@compiled
def build_terms(
    coupling: int,
    n: int,
    start: int,
    stop: int,
    node: Int32,
    experts: Int32,
    rate: Float64,
    costs: Float64,
    latency: Float64,
    nearest: Int64,
    origin: Float64,
    first: int,
    holds: UInt8,
    modular: Float64,
    term_experts: Int32,
    term_size: Int32,
    term_weight: Float64,
) -> int:
    """Terms of node n from the routes [start, stop) of one block; returns how many were written.

    node int32[R], experts int32[R, K] (-1 pads at the end), rate float64[R]; costs float64[N, E_b]: finite
    serving costs without n; latency float64[N, N]; nearest int64[N, N]; origin float64[N] (inf = none);
    `first` is the block's first column in holds uint8[N, E]. Adds to modular float64[E_b]; writes
    term_experts int32[M, K], term_size int32[M], term_weight float64[M] with M >= (stop - start) * max(K,
    1). O(routes K^2), and O(routes (N K + K)) for `colocated`.
    """
    count = 0
    width = experts.shape[1]
    ranked = np.empty(width, np.int32)
    for r in range(start, stop):
        m = node[r]
        call = latency[m, n]
        if call == np.inf:
            continue
        size = 0
        while size < width and experts[r, size] >= 0:
            size += 1
        if coupling == SUM:
            for k in range(size):
                e = experts[r, k]
                if costs[m, e] > call:
                    modular[e] += rate[r] * (costs[m, e] - call)
        elif coupling == COLOCATED:
            best = min(nearest_host(holds, latency, nearest, n, m, first, experts[r]), origin[m])
            weight = best - call
            if best == np.inf:
                weight = -call
                for k in range(size):
                    e = experts[r, k]
                    weight += costs[m, e]
                    if costs[m, e] > call:
                        modular[e] += rate[r] * (costs[m, e] - call)
                        weight -= costs[m, e] - call
            elif weight < 0.0:
                weight = 0.0
            if size == 1:
                modular[experts[r, 0]] += rate[r] * weight
            elif weight != 0.0:
                for k in range(size):
                    term_experts[count, k] = experts[r, k]
                term_size[count] = size
                term_weight[count] = rate[r] * weight
                count += 1
        else:
            kept = 0  # experts dearer than the call, dearest first; the lower id first among equals
            for k in range(size):
                e = experts[r, k]
                if costs[m, e] <= call:
                    continue
                position = kept
                while position > 0 and costs[m, ranked[position - 1]] < costs[m, e]:
                    ranked[position] = ranked[position - 1]
                    position -= 1
                ranked[position] = e
                kept += 1
            for j in range(1, kept + 1):
                below = costs[m, ranked[j]] if j < kept else call
                weight = rate[r] * (costs[m, ranked[j - 1]] - below)
                if weight <= 0.0:
                    continue
                if j == 1:
                    modular[ranked[0]] += weight
                    continue
                for k in range(j):
                    term_experts[count, k] = ranked[k]
                term_size[count] = j
                term_weight[count] = weight
                count += 1
    return count
