"""Kernel that puts routes in the order solvers read them."""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.problem import Float64, Int32, Int64


@compiled
def _before(left: Int32, right: Int32) -> int:
    """-1, 0 or 1: the order of two rows of ids, the larger id first."""
    for k in range(left.shape[0]):
        if left[k] != right[k]:
            return -1 if left[k] > right[k] else 1
    return 0


@compiled
def cells_of_routes(node: Int32, block: Int32, rate: Float64, nodes: int, first: Int64, order: Int64) -> None:
    """Sorts the routes with a rate above 0 by block, then node, as they come within each.

    node, block int32[R], rate float64[R]. first int64[B nodes + 1], zeros: order[first[c] : first[c + 1]] are
    the routes of cell c = block * nodes + node; order int64[R]. O(R + B nodes).
    """
    cells = first.shape[0] - 1
    for r in range(rate.shape[0]):
        if rate[r] > 0.0:
            first[np.int64(block[r]) * nodes + node[r] + 1] += 1
    for cell in range(cells):
        first[cell + 1] += first[cell]
    cursor = first[:-1].copy()
    for r in range(rate.shape[0]):
        if rate[r] > 0.0:
            cell = np.int64(block[r]) * nodes + node[r]
            order[cursor[cell]] = r
            cursor[cell] += 1


@compiled
def compile_routes(
    from_block: int,
    to_block: int,
    first: Int64,
    order: Int64,
    experts: Int32,
    rate: Float64,
    bits: int,
    block_offset: Int64,
    start: Int64,
    out_node: Int32,
    out_experts: Int32,
    out_rate: Float64,
    activity: Float64,
) -> int:
    """Writes the routes of blocks [from_block, to_block) by block, then node, then ids, equal ones merged.

    first, order: as of `cells_of_routes`; experts int32[R, K] (ids in any order, negative = padding), rate
    float64[R]; `bits` hold any id + 1. Writes start[b] for the blocks, and from out_node, out_experts and
    out_rate[first[from_block * N]] on, up to where it returns: node int32, experts int32[K] (descending ids,
    padding last) and rate of every route; adds the rate of each call to activity float64[N, E].
    O(R (K^2 + log R)).
    """
    nodes = activity.shape[0]
    width = experts.shape[1]
    most = 0
    for cell in range(from_block * nodes, to_block * nodes):
        most = max(most, first[cell + 1] - first[cell])
    rows = np.empty((most, width), np.int32)
    rates = np.empty(most, np.float64)
    packed = min(width, 62 // bits)
    count = first[from_block * nodes]
    for cell in range(from_block * nodes, to_block * nodes):
        if cell % nodes == 0:
            start[cell // nodes] = count
        begin = count
        n = cell % nodes
        column = block_offset[cell // nodes]
        size = first[cell + 1] - first[cell]
        keys = np.empty(size, np.int64)
        for i in range(size):
            r = order[first[cell] + i]
            rates[i] = rate[r]
            for k in range(width):
                e = max(experts[r, k], -1)
                position = k
                while position > 0 and rows[i, position - 1] < e:
                    rows[i, position] = rows[i, position - 1]
                    position -= 1
                rows[i, position] = e
                if e >= 0:
                    activity[n, column + e] += rate[r]
            key = np.int64(0)
            for k in range(packed):
                key = (key << bits) | np.int64(rows[i, k] + 1)
            keys[i] = -key
        sorted_rows = np.argsort(keys, kind="mergesort")
        if packed < width:
            # what the keys leave open: runs of equal keys, short ones unless their rows are equal
            for i in range(1, size):
                row = sorted_rows[i]
                position = i
                while (
                    position > 0
                    and keys[sorted_rows[position - 1]] == keys[row]
                    and _before(rows[row], rows[sorted_rows[position - 1]]) < 0
                ):
                    sorted_rows[position] = sorted_rows[position - 1]
                    position -= 1
                sorted_rows[position] = row
        for i in range(size):
            row = sorted_rows[i]
            if count > begin and _before(rows[row], out_experts[count - 1]) == 0:
                out_rate[count - 1] += rates[row]
                continue
            out_node[count] = n
            out_rate[count] = rates[row]
            for k in range(width):
                out_experts[count, k] = rows[row, k]
            count += 1
    return int(count)


@compiled
def add_activity(
    begin: int,
    end: int,
    node: Int32,
    block: Int32,
    experts: Int32,
    rate: Float64,
    block_offset: Int64,
    activity: Float64,
) -> None:
    """Adds the rate of each call of the routes [begin, end) to activity float64[N, E]. node, block int32[R],
    experts int32[R, K] (negative = padding), rate float64[R]. O((end - begin) K)."""
    for r in range(begin, end):
        column = block_offset[block[r]]
        for k in range(experts.shape[1]):
            if experts[r, k] >= 0:
                activity[node[r], column + experts[r, k]] += rate[r]
