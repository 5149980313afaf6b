"""The knapsack over blocks by (max, +)-convolution, as SlimCaching (arXiv 2507.06567) proposes to accelerate
it.

*Paper*: max-convolution makes the dynamic programme polynomial and fast. *Ours*: two forms of it. Concave
tables: the blocks of one expert size merge by their slopes, and the D distinct sizes by convolution of any
with a concave sequence (Axiotis, Tzamos 2019, arXiv 1802.06440). Any tables: rounded down, merged in a
balanced tree (Chan, SOSA 2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from solvers.kernels import convolution as kernel
from solvers.problem import Float64, Int32, Int64
from solvers.response.knapsack import choose_counts, gain_bounds, gains_over_least

CELL_LIMIT = 2**25  # cells of the table of choices: distinct sizes times units of capacity
UNIT_LIMIT = 2**22  # units of capacity; above, a unit is more than the greatest common divisor of the sizes
_ROUNDING = 1e-9  # relative; slopes that rise by less are equal, and eps is kept with so much to spare


def max_plus(a: Float64, b: Float64) -> Float64:
    """float64[len(a) + len(b) - 1]: out[i] = max over j of a[i - j] + b[j].

    O(n log n) where one of them is concave and the other finite, else O(len(a) len(b)): the fast routine is
    never given what it would get wrong.
    """
    if len(a) == 0 or len(b) == 0:
        return np.zeros(0)
    out = np.empty(len(a) + len(b) - 1)
    for general, concave in ((a, b), (b, a)):
        if is_concave(concave) and bool(np.isfinite(general).all()):
            taken, best = np.empty(len(out), np.int32), np.empty(len(out), np.int32)
            kernel.max_plus_concave(general, 0, 1, concave, out, taken, best)
            return out
    kernel.max_plus(a, b, out)
    return out


def is_concave(values: Float64) -> bool:
    """True where the values are finite and their differences never rise. O(n)."""
    return bool(np.isfinite(values).all()) and bool((np.diff(values, 2) <= 0).all())


def choose_counts_concave(
    values: Float64, start: Int64, size_bytes: Int64, capacity_bytes: int, eps: float
) -> Int32 | None:
    """As `choose_counts`, where every table is concave over the counts that are possible; tables that are not
    go to `choose_counts`.

    Exact, with capacity in units of the greatest common divisor of the sizes. Where that is more than 2^22
    units, or 2^25 over the number of distinct sizes, the unit is larger and every expert beyond the least
    counts takes its size rounded up to it: counts that fit always, and all that fit in a capacity smaller by
    one unit per expert. O(n log n + D C log C) for n = len(values), D distinct sizes, C units.
    """
    blocks = len(size_bytes)
    if blocks == 0:
        return np.zeros(0, np.int32)
    slopes, least = _slopes(values, start)
    if slopes is None or least is None:
        return choose_counts(values, start, size_bytes, capacity_bytes, eps)
    room = capacity_bytes - int(least @ size_bytes)
    if room < 0:
        return None
    sizes = np.unique(size_bytes)
    members = [np.flatnonzero(size_bytes == size) for size in sizes.tolist()]
    merged: list[tuple[Int64, Float64]] = []  # per size: the blocks of the rising slopes, steepest first
    for group in members:
        owner = np.concatenate([np.full(len(slopes[b]), b) for b in group])
        rise = np.concatenate([slopes[b] for b in group])
        order = np.argsort(-rise, kind="stable")
        order = order[rise[order] > 0]
        merged.append((owner[order], rise[order]))
    unit = int(np.gcd.reduce(size_bytes))
    wanted = sum(len(owner) * int(size) for (owner, _), size in zip(merged, sizes.tolist(), strict=True))
    unit = max(unit, -(-min(room, wanted) // min(UNIT_LIMIT, CELL_LIMIT // len(sizes))))
    steps = [-(-int(size) // unit) for size in sizes.tolist()]
    units = min(room // unit, sum(len(owner) * step for (owner, _), step in zip(merged, steps, strict=True)))
    best = np.zeros(units + 1)
    above = np.empty(units + 1)
    taken = np.zeros((len(sizes), units + 1), np.int32)
    scratch = np.empty(units + 1, np.int32)
    for g, step in enumerate(steps):
        prefix = np.concatenate(([0.0], np.cumsum(merged[g][1])))[: units // step + 1]
        for first in range(min(step, units + 1)):
            kernel.max_plus_concave(best, first, step, prefix, above, taken[g], scratch)
        best, above = above, best
    counts = least.astype(np.int32)
    left = units
    for g in range(len(sizes) - 1, -1, -1):
        number = int(taken[g, left])
        left -= number * steps[g]
        counts += np.bincount(merged[g][0][:number], minlength=blocks).astype(np.int32)
    return counts


def _slopes(values: Float64, start: Int64) -> tuple[list[Float64] | None, Int64 | None]:
    """Per block the rises from each possible count to the next, and the least possible count; None twice
    where a table is not concave or has none."""
    slopes: list[Float64] = []
    least = np.zeros(len(start) - 1, np.int64)
    for b in range(len(start) - 1):
        table = values[start[b] : start[b + 1]]
        possible = np.flatnonzero(table > -np.inf)
        if len(possible) == 0 or possible[-1] - possible[0] + 1 != len(possible):
            return None, None
        least[b] = possible[0]
        rise = np.diff(table[possible])
        allowed = _ROUNDING * float(np.abs(table[possible]).max(initial=0.0))
        if (np.diff(rise) > allowed).any():
            return None, None
        slopes.append(np.minimum.accumulate(rise))
    return slopes, least


@dataclass(frozen=True, eq=False)
class _Profile:
    """What a set of blocks can gain, and the least memory for it: value int64[P] in `unit`s, weight int64[P],
    both ascending. A leaf has the counts, another profile the entries of the two it was merged from."""

    unit: float
    leaves: int
    value: Int64
    weight: Int64
    counts: Int64
    parts: tuple[_Profile, _Profile] | None
    chosen: tuple[Int32, Int32] | None


def choose_counts_rounded(
    values: Float64, start: Int64, size_bytes: Int64, capacity_bytes: int, eps: float
) -> Int32 | None:
    """As `choose_counts`, for any tables: what it gains over the least possible counts is >= (1 - eps) of the
    best.

    Profiles of blocks are merged in a balanced tree, each rounded down to multiples of a unit that grows with
    the number of its blocks, so that every level loses the same. With V >= half of the best gain, L levels
    and B blocks, a profile of j blocks has at most 2 B L V / (eps j V) + 1 entries, fewer where no part of
    the blocks can gain everything; a merge costs the product of two. Independent of the capacity.
    """
    blocks = len(size_bytes)
    if blocks == 0:
        return np.zeros(0, np.int32)
    found = gains_over_least(values, start, size_bytes, capacity_bytes)
    if found is None:
        return None
    least, room, gain = found
    counts: Int32 = least.astype(np.int32)
    if not (gain > 0).any():
        return counts
    _, reached = gain_bounds(gain, start, size_bytes, least, room)
    levels = math.ceil(math.log2(blocks)) + 1
    unit = eps * (1.0 - _ROUNDING) * reached / (blocks * levels)
    layer = [
        _leaf(gain[start[b] : start[b + 1]], int(least[b]), int(size_bytes[b]), unit) for b in range(blocks)
    ]
    while len(layer) > 1:
        pairs = [_merge(layer[i], layer[i + 1], unit, room) for i in range(0, len(layer) - 1, 2)]
        layer = pairs + layer[len(layer) - len(layer) % 2 :]
    _collect(layer[0], len(layer[0].value) - 1, counts, 0)
    return counts


def _leaf(gain: Float64, least: int, size: int, unit: float) -> _Profile:
    extra = np.concatenate(([0], np.flatnonzero(gain > 0) - least))
    value = np.floor(np.concatenate(([0.0], gain[gain > 0])) / unit).astype(np.int64)
    keep = _pareto(value, extra)
    return _Profile(unit, 1, value[keep], extra[keep] * size, extra[keep], None, None)


def _merge(a: _Profile, b: _Profile, base: float, room: int) -> _Profile:
    leaves = a.leaves + b.leaves
    unit = base * leaves
    most = int((a.value[-1] * a.unit + b.value[-1] * b.unit) / unit)
    least = np.empty(most + 2, np.int64)  # one to spare for rounding
    from_a, from_b = np.zeros(most + 2, np.int32), np.zeros(most + 2, np.int32)
    kernel.merge_profiles(
        a.value, a.weight, a.unit, b.value, b.weight, b.unit, unit, room, least, from_a, from_b
    )
    reached = np.flatnonzero(least >= 0)
    keep = reached[_pareto(reached, least[reached])]
    return _Profile(unit, leaves, keep, least[keep], keep, (a, b), (from_a[keep], from_b[keep]))


def _pareto(value: Int64, weight: Int64) -> Int64:
    """The entries that no other gives as much for as little, by ascending value."""
    order = np.lexsort((-weight, value))
    lightest_above = np.minimum.accumulate(weight[order][::-1])[::-1]
    beaten = weight[order][:-1] >= lightest_above[1:]
    kept: Int64 = order[np.append(~beaten, True)]
    return kept


def _collect(profile: _Profile, entry: int, counts: Int32, first: int) -> None:
    """Adds to counts int32[B], from block `first` on, what the entry consists of."""
    if profile.parts is None or profile.chosen is None:
        counts[first] += np.int32(profile.counts[entry])
        return
    left, right = profile.parts
    _collect(left, int(profile.chosen[0][entry]), counts, first)
    _collect(right, int(profile.chosen[1][entry]), counts, first + left.leaves)
