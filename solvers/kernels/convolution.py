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
    value_a: Int64,
    weight_a: Int64,
    unit_a: float,
    value_b: Int64,
    weight_b: Int64,
    unit_b: float,
    unit: float,
    room: int,
    least: Int64,
    from_a: Int32,
    from_b: Int32,
) -> None:
    """least[v]: the least weight at which one entry of each profile together reach v units, rounded down;
    -1 where none within `room` does. from_a and from_b int32[len(least)] tell which. Profiles: value int64[P]
    in their units, weight int64[P], both ascending. O(P_a P_b)."""
    for v in range(least.shape[0]):
        least[v] = -1
    for i in range(value_a.shape[0]):
        for j in range(value_b.shape[0]):
            weight = weight_a[i] + weight_b[j]
            if weight > room:
                break
            v = int((value_a[i] * unit_a + value_b[j] * unit_b) / unit)
            if least[v] < 0 or weight < least[v]:
                least[v] = weight
                from_a[v] = i
                from_b[v] = j
