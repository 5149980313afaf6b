"""(max, +)-convolution and the knapsack over blocks from their definitions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


def max_plus(a: Float64, b: Float64) -> Float64:
    """out[i] = max over j of a[i - j] + b[j]."""
    out = np.full(len(a) + len(b) - 1, -np.inf)
    for i, left in enumerate(a.tolist()):
        for j, right in enumerate(b.tolist()):
            out[i + j] = max(out[i + j], left + right)
    return out


def knapsack(values: Float64, start: Int64, size: Int64, capacity: int) -> float:
    """The best sum of one value per block, count times size within the capacity; -inf where none fits."""
    best = {0: 0.0}  # by bytes used
    for b in range(len(size)):
        after: dict[int, float] = {}
        for used, value in best.items():
            for k, gain in enumerate(values[start[b] : start[b + 1]].tolist()):
                total = used + k * int(size[b])
                if total <= capacity and gain > -np.inf:
                    after[total] = max(after.get(total, -np.inf), value + gain)
        best = after
    return max(best.values(), default=-np.inf)
