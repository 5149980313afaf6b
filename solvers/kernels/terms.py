"""Kernel that writes the saving of one node, in one block, as a weighted sum over subsets of experts.

With the other nodes fixed, the saving of the set A held by node n is
    sum over e in A of modular[e] + sum over terms T inside A of weight[T].
`sum`: modular only. `slowest`: sort the experts of a route by what they cost without n, dearest first;
holding the first j of them lowers the maximum to the (j+1)-th cost (never below the call to n), so each
prefix is a term. `colocated`: a route is one term; without an origin the sum of its single calls may cost
less than its nearest host, so that some of its experts may save before all are held, see `_singles`.
"""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.kernels.evaluation import COLOCATED, SLOWEST, SUM, nearest_host, route_latency
from solvers.problem import Float64, Int32, Int64, UInt8

EXACT_MEMBERS = 4  # of a route whose single calls n improves: so many have a term for each of their sets


@compiled
def _singles(
    rate: float,
    slack: float,
    members: Int32,
    gain: Float64,
    kept: int,
    modular: Float64,
    term_experts: Int32,
    term_size: Int32,
    term_weight: Float64,
    count: int,
) -> tuple[int, float]:
    """The terms of max(0, sum over e in A of gain[e] - slack), which a route saves by its single calls where
    its nearest host costs `slack` less than these do without n.

    members, gain: the `kept` experts whose call n improves and by how much, most first. Without slack the
    saving is modular. With up to `EXACT_MEMBERS` members the terms are exact, and some weights negative. With
    more, the first j members are a term for each j: exact for these sets, too little for others. Returns the
    number of terms and the saving of all members. O(K), resp. O(2^EXACT_MEMBERS).
    """
    if slack <= 0.0:
        total = 0.0
        for k in range(kept):
            modular[members[k]] += rate * gain[k]
            total += gain[k]
        return count, total
    if kept > EXACT_MEMBERS:
        total = reached = 0.0
        for j in range(kept):
            total += gain[j]
            saved = max(0.0, total - slack)
            if saved <= reached:
                continue
            if j == 0:
                modular[members[0]] += rate * (saved - reached)
            else:
                for k in range(j + 1):
                    term_experts[count, k] = members[k]
                term_size[count] = j + 1
                term_weight[count] = rate * (saved - reached)
                count += 1
            reached = saved
        return count, reached
    weight = np.zeros(1 << kept)
    for mask in range(1 << kept):
        total = -slack
        for k in range(kept):
            if mask >> k & 1:
                total += gain[k]
        weight[mask] = max(0.0, total)
    whole = float(weight[-1])
    for k in range(kept):
        for mask in range(1 << kept):
            if mask >> k & 1:
                weight[mask] -= weight[mask ^ (1 << k)]
    for mask in range(1, 1 << kept):
        if weight[mask] == 0.0:
            continue
        size = 0
        for k in range(kept):
            if mask >> k & 1:
                term_experts[count, size] = members[k]
                size += 1
        if size == 1:
            modular[term_experts[count, 0]] += rate * weight[mask]
        else:
            term_size[count] = size
            term_weight[count] = rate * weight[mask]
            count += 1
    return count, whole


@compiled
def row_saving(
    n: int,
    start: int,
    stop: int,
    node: Int32,
    experts: Int32,
    rate: Float64,
    costs: Float64,
    latency: Float64,
    nearest: Int64,
    first: int,
    holds: UInt8,
    origin: Float64,
) -> float:
    """What the row of n in holds uint8[N, E] saves under `colocated`, exactly, where `build_terms` may say
    less; arguments as there. O(routes N K)."""
    saved = 0.0
    width = experts.shape[1]
    for r in range(start, stop):
        m = node[r]
        call = latency[m, n]
        before = after = 0.0
        complete = True
        for k in range(width):
            e = experts[r, k]
            if e < 0:
                break
            before += costs[m, e]
            if holds[n, first + e] != 0:
                after += min(costs[m, e], call)
            else:
                after += costs[m, e]
                complete = False
        host = nearest_host(holds, latency, nearest, n, m, first, experts[r])
        best = route_latency(COLOCATED, before, 0.0, host, origin[m])
        if complete:
            host = min(host, call)
        saved += rate[r] * (best - route_latency(COLOCATED, after, 0.0, host, origin[m]))
    return saved


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
    term_experts int32[M, K], term_size int32[M], term_weight float64[M] with M >= (stop - start) *
    `Form.terms`. O(routes K^2), and O(routes (N K + 2^EXACT_MEMBERS)) for `colocated`.
    """
    count = 0
    width = experts.shape[1]
    ranked = np.empty(width, np.int32)
    gain = np.empty(width)
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
            host = nearest_host(holds, latency, nearest, n, m, first, experts[r])
            total = 0.0
            kept = 0  # experts whose own call n improves, most first
            for k in range(size):
                e = experts[r, k]
                total += costs[m, e]
                saved = costs[m, e] - call
                if saved <= 0.0:
                    continue
                position = kept
                while position > 0 and gain[position - 1] < saved:
                    ranked[position] = ranked[position - 1]
                    gain[position] = gain[position - 1]
                    position -= 1
                ranked[position] = e
                gain[position] = saved
                kept += 1
            best = route_latency(COLOCATED, total, 0.0, host, origin[m])
            reached = 0.0
            if origin[m] == np.inf:
                count, reached = _singles(
                    rate[r],
                    total - best,
                    ranked,
                    gain,
                    kept,
                    modular,
                    term_experts,
                    term_size,
                    term_weight,
                    count,
                )
            whole = best - call - reached  # what is saved once all are held, beside that
            if whole <= 0.0:
                continue
            if size == 1:
                modular[experts[r, 0]] += rate[r] * whole
                continue
            for k in range(size):
                term_experts[count, k] = experts[r, k]
            term_size[count] = size
            term_weight[count] = rate[r] * whole
            count += 1
        elif coupling == SLOWEST:
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
