"""The multiple-choice knapsack over blocks, exact or value-scaled."""

from __future__ import annotations

import itertools

import numpy as np

from solvers.kernels import knapsack as kernel
from solvers.problem import Float64, Int32, Int64
from solvers.tolerances import SAME_COST

WORK_LIMIT = 300_000_000  # inner steps of the exact recursion, about half a second
CELL_LIMIT = 100_000_000  # cells of its table of choices


def choose_counts(
    values: Float64, start: Int64, size_bytes: Int64, capacity_bytes: int, eps: float
) -> Int32 | None:
    """int32[B]: experts per block that maximise sum_b values[start[b] + k_b] within the capacity; None if
    none fits.

    values float64[start[B]] holds V_b(k) for k = 0..E_b, -inf where k is not possible; start int64[B + 1],
    size_bytes int64[B]. Exact, with capacity in units of the greatest common divisor of the sizes, where
    that table is small enough; else value-scaled: what it gains over the least possible counts is >= (1 -
    eps) of the best. O(units * len(values)), resp. O(B / eps * len(values)).
    """
    blocks = len(size_bytes)
    if blocks == 0:
        return np.zeros(0, np.int32)
    longest = np.diff(start) - 1
    unit = int(np.gcd.reduce(size_bytes))
    units = min(capacity_bytes, int((longest * size_bytes).sum())) // unit
    choice = np.zeros(blocks, np.int32)
    if unit == size_bytes.max() and _concave(values, start):
        best = kernel.hull_knapsack(values, start, size_bytes // unit, units, choice)
        return choice if best > -np.inf else None
    if (units + 1) * len(values) <= WORK_LIMIT and (units + 1) * blocks <= CELL_LIMIT:
        best = kernel.group_knapsack(values, start, size_bytes // unit, units, choice)
        return choice if best > -np.inf else None
    return _by_value(values, start, size_bytes, capacity_bytes, eps)


def gains_over_least(
    values: Float64, start: Int64, size: Int64, capacity: int
) -> tuple[Int64, int, Float64] | None:
    """The least possible counts int64[B], the bytes they leave, and gain float64[len(values)] of every count
    over them, -1 where it gains nothing or does not fit alone; None where the least don't fit. O(n)."""
    blocks = len(size)
    least = np.array([np.argmax(values[start[b] : start[b + 1]] > -np.inf) for b in range(blocks)])
    room = capacity - int((least * size).sum())
    if room < 0 or not np.isfinite(values[start[:-1] + least]).all():
        return None
    # a count that gains nothing is never better than the least one
    gain = values - np.repeat(values[start[:-1] + least], np.diff(start))
    count = np.arange(len(values)) - np.repeat(start[:-1] + least, np.diff(start))
    affordable = (gain > 0) & (count * np.repeat(size, np.diff(start)) <= room)
    return least, room, np.where(affordable, gain, -1.0)


def hull_counts(values: Float64, start: Int64, size_bytes: Int64, capacity_bytes: int) -> Int32 | None:
    """As `choose_counts`, less than one edge of an upper hull below the best, in O(L log L) whatever the
    capacity."""
    choice = np.zeros(len(size_bytes), np.int32)
    unit = int(np.gcd.reduce(size_bytes)) or 1
    best = kernel.hull_knapsack(values, start, size_bytes // unit, capacity_bytes // unit, choice)
    return choice if best > -np.inf else None


def _concave(values: Float64, start: Int64) -> bool:
    """Whether every table is concave, up to rounding, from its first count that exists."""
    with np.errstate(invalid="ignore"):
        rise = np.diff(values)
        noise = SAME_COST * float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
        bends = rise[1:] > rise[:-1] + noise
    # a bend between the tables of two blocks, or before the first count that exists, is none
    bends[np.isinf(values[:-2])] = False
    across = np.concatenate((start[1:-1] - 1, start[1:-1] - 2))
    bends[across[(across >= 0) & (across < len(bends))]] = False
    ends = np.isinf(values) & np.concatenate(([False], np.isfinite(values[:-1])))
    ends[start[:-1]] = False
    return not bends.any() and not ends.any()


def _by_value(values: Float64, start: Int64, size: Int64, capacity: int, eps: float) -> Int32 | None:
    blocks = len(size)
    found = gains_over_least(values, start, size, capacity)
    if found is None:
        return None
    least, room, gain = found
    affordable = gain > 0
    if not affordable.any():
        return least.astype(np.int32)
    bound, floor = gain_bounds(gain, start, size, least, room)
    scale = eps * floor / blocks
    whole = np.where(affordable, np.floor(gain / scale), -1.0).astype(np.int64)
    whole[start[:-1] + least] = 0
    choice = np.zeros(blocks, np.int32)
    most = int(bound / scale) + 1
    if kernel.group_knapsack_by_value(whole, start, size, capacity, most, choice) < 0:
        return None
    return choice


def gain_bounds(gain: Float64, start: Int64, size: Int64, least: Int64, room: int) -> tuple[float, float]:
    """The optimum of the linear relaxation, from above, and a value that is reached, at least half of it."""
    steps: list[
        tuple[float, float, int]
    ] = []  # slope, gain, bytes: the edges of the upper hull of every block
    for b in range(len(size)):
        hull: list[tuple[int, float]] = [(0, 0.0)]
        for k in range(int(least[b]) + 1, int(start[b + 1] - start[b])):
            value = float(gain[start[b] + k])
            if value <= hull[-1][1]:
                continue
            point = ((k - int(least[b])) * int(size[b]), value)
            while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], point):
                hull.pop()
            hull.append(point)
        steps.extend(
            (_slope(low, high), high[1] - low[1], high[0] - low[0]) for low, high in itertools.pairwise(hull)
        )
    steps.sort(key=lambda step: -step[0])
    reached = 0.0
    for slope, value, weight in steps:
        if weight > room:
            return reached + slope * room, max(reached, float(gain.max()))
        reached += value
        room -= weight
    return reached, max(reached, float(gain.max()))


def _slope(low: tuple[int, float], high: tuple[int, float]) -> float:
    return (high[1] - low[1]) / (high[0] - low[0])
