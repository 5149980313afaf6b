"""Kernels of (max, +)-convolution: any with any, any with concave, and profiles of value against memory."""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.problem import Float64, Int32, Int64


@compiled
def max_plus(a: Float64, b: Float64, out: Float64) -> None:
    """out[i] = max over j of a[i - j] + b[j], float64[len(a) + len(b) - 1]. O(len(a) len(b))."""
    for i in range(out.shape[0]):
        out[i] = -np.inf
    for i in range(a.shape[0]):
        for j in range(b.shape[0]):
            out[i + j] = max(out[i + j], a[i] + b[j])


@compiled
def max_plus_concave(
    a: Float64, first: int, step: int, b: Float64, out: Float64, taken: Int32, best: Int32
) -> None:
    """With a_i = a[first + i * step]: for every row i, the maximum over k of a_(i - k) + b[k] goes to out and
    the smallest such k to taken, both at first + i * step, as long as they go on.

    a must be finite and b concave: then the arg-max does not fall from row to row, and the rows between two
    known ones search only what lies between theirs. Rows beyond the end of a combine what of a there is.
    best int32[rows or more] is scratch. O(rows log rows + len(b)).
    """
    columns = (a.shape[0] - first + step - 1) // step
    rows = (out.shape[0] - first + step - 1) // step
    longest = b.shape[0] - 1
    best[0] = 0
    out[first] = a[first] + b[0]
    taken[first] = 0
    stride = 1
    while 2 * stride < rows:
        stride *= 2
    while stride > 0:
        row = stride  # the odd multiples; the even ones are known
        while row < rows:
            low = max(0, row - longest)
            high = min(row, columns - 1)
            low = max(low, best[row - stride])
            if row + stride < rows and best[row + stride] < high:
                high = best[row + stride]
            top = -np.inf
            chosen = high
            for j in range(high, low - 1, -1):
                value = a[first + j * step] + b[row - j]
                if value > top:
                    top = value
                    chosen = j
            best[row] = chosen
            out[first + row * step] = top
            taken[first + row * step] = row - chosen
            row += 2 * stride
        stride //= 2


@compiled
def merge_profiles(
    value_a: Float64,
    weight_a: Int64,
    value_b: Float64,
    weight_b: Int64,
    room: int,
    price: float,
    least_net: float,
    lowest: float,
    unit: float,
    value: Float64,
    weight: Int64,
    from_a: Int32,
    from_b: Int32,
) -> int:
    """The pairs of one entry of each profile that no other pair, of no less value, weighs as little as: the
    sum of their values and of their weights, both ascending, and which two they are. Returns how many.

    Left out are pairs that weigh more than `room`, pairs whose value less price times weight is below
    `least_net`, and, of those whose values lie within one of the intervals of length `unit` from `lowest` on,
    all but the lightest. Profiles: value float64[P], weight int64[P], both ascending. Writes the four, which
    have an entry per interval. O(P_a P_b + intervals).
    """
    intervals = value.shape[0]
    for v in range(intervals):
        weight[v] = -1
    for i in range(value_a.shape[0]):
        for j in range(value_b.shape[0]):
            heavy = weight_a[i] + weight_b[j]
            if heavy > room:
                break
            total = value_a[i] + value_b[j]
            if total - price * heavy < least_net:
                continue
            v = min(intervals - 1, max(0, int((total - lowest) / unit)))
            if weight[v] < 0 or heavy < weight[v] or (heavy == weight[v] and total > value[v]):
                weight[v] = heavy
                value[v] = total
                from_a[v] = i
                from_b[v] = j
    # from the most valuable interval down, what weighs less than all above it; written to the end first
    kept = intervals
    for v in range(intervals - 1, -1, -1):
        if weight[v] >= 0 and (kept == intervals or weight[v] < weight[kept]):
            kept -= 1
            value[kept], weight[kept] = value[v], weight[v]
            from_a[kept], from_b[kept] = from_a[v], from_b[v]
    return int(intervals - kept)
