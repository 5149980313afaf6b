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
from solvers.kernels import knapsack
from solvers.problem import Float64, Int32, Int64
from solvers.response.knapsack import choose_counts
from solvers.tolerances import BEND, SPARE

CELL_LIMIT = 2**25  # cells of the table of choices: distinct sizes times units of capacity
UNIT_LIMIT = 2**22  # units of capacity; above, a unit is more than the greatest common divisor of the sizes


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
        allowed = BEND * float(np.abs(table[possible]).max(initial=0.0))
        if (np.diff(rise) > allowed).any():
            return None, None
        slopes.append(np.minimum.accumulate(rise))
    return slopes, least


@dataclass(frozen=True, eq=False)
class _Profile:
    """What a set of blocks can reach, and the least memory for it: value float64[P], weight int64[P], both
    ascending. A leaf has the counts; another profile the entries of the two it was merged from."""

    leaves: int
    value: Float64
    weight: Int64
    counts: Int64
    parts: tuple[_Profile, _Profile] | None = None
    chosen: tuple[Int32, Int32] | None = None


def choose_counts_rounded(
    values: Float64, start: Int64, size_bytes: Int64, capacity_bytes: int, eps: float
) -> Int32 | None:
    """As `choose_counts`, for any tables: what it gains over the least possible counts is >= (1 - eps) of the
    best, whatever the capacity.

    The linear relaxation over the upper hulls of the tables gives a bound U, a price of memory and counts of
    value H. These counts are returned where they are good enough. Otherwise the best counts lose, against the
    price, less than U - H: counts that lose more are left out, of a table and of every merged profile, so
    that few are left. Profiles of blocks are merged in a balanced tree. Of the entries whose values lie
    within a unit of each other only the lightest is kept; the units of all merges together are eps of the
    gain of H.
    """
    blocks = len(size_bytes)
    if blocks == 0:
        return np.zeros(0, np.int32)
    unit = int(np.gcd.reduce(size_bytes))
    size, capacity = size_bytes // unit, capacity_bytes // unit
    bound, price = knapsack.relaxed(values, start, size, capacity)
    counts = np.zeros(blocks, np.int32)
    reached = knapsack.hull_knapsack(values, start, size, capacity, counts)
    if reached == -np.inf:
        return None
    least = _least_counts(values, start)
    margin = eps * (1.0 - SPARE) * (reached - float(values[start[:-1] + least].sum()))
    lost = bound - reached  # at most, by the best counts, against the price
    if lost <= margin or margin <= 0.0:  # where nothing that fits gains anything, the least counts are best
        return counts
    layer = _leaves(values, start, size, least, capacity, price, lost + margin)
    # the best that every profile has at the price, summed up as the profiles are
    nets = [float((leaf.value - price * leaf.weight).max()) for leaf in layer]
    levels = math.ceil(math.log2(blocks))
    while len(layer) > 1:
        pairs = len(layer) // 2
        step = margin / (levels * pairs)
        merged, best = [], []
        for i in range(pairs):
            net = nets[2 * i] + nets[2 * i + 1]
            lowest = net - lost - margin
            merged.append(_merge(layer[2 * i], layer[2 * i + 1], price, lowest, step, capacity))
            best.append(net)
        layer, nets = merged + layer[2 * pairs :], best + nets[2 * pairs :]
    if len(layer[0].value) == 0 or layer[0].value[-1] <= reached:
        return counts
    counts[:] = 0
    _collect(layer[0], len(layer[0].value) - 1, counts, 0)
    return counts


def _least_counts(values: Float64, start: Int64) -> Int64:
    possible = np.flatnonzero(values > -np.inf)
    first: Int64 = possible[np.searchsorted(possible, start[:-1])] - start[:-1]
    return first


def _leaves(
    values: Float64, start: Int64, size: Int64, least: Int64, capacity: int, price: float, most: float
) -> list[_Profile]:
    """The tables as profiles, without counts that lose more than `most` against the price of memory or do not
    fit beside the `least` counts int64[B] of the other blocks."""
    counts = np.arange(len(values)) - np.repeat(start[:-1], np.diff(start))
    weight = counts * np.repeat(size, np.diff(start))
    net = values - price * weight
    best = np.repeat(np.maximum.reduceat(net, start[:-1]), np.diff(start))
    room = capacity - int(least @ size)
    kept = (net >= best - most) & (weight - np.repeat(least * size, np.diff(start)) <= room)
    leaves = []
    for b in range(len(size)):
        some = start[b] + np.flatnonzero(kept[start[b] : start[b + 1]])
        before = np.maximum.accumulate(np.concatenate(([-np.inf], values[some])))[:-1]
        some = some[values[some] > before]
        leaves.append(_Profile(1, values[some], weight[some], counts[some]))
    return leaves


def _merge(a: _Profile, b: _Profile, price: float, least_net: float, unit: float, room: int) -> _Profile:
    lowest = float(a.value[0] + b.value[0])
    intervals = int((a.value[-1] + b.value[-1] - lowest) / unit) + 1
    value, weight = np.empty(intervals), np.empty(intervals, np.int64)
    from_a, from_b = np.empty(intervals, np.int32), np.empty(intervals, np.int32)
    number = kernel.merge_profiles(
        a.value,
        a.weight,
        b.value,
        b.weight,
        room,
        price,
        least_net,
        lowest,
        unit,
        value,
        weight,
        from_a,
        from_b,
    )
    kept = slice(intervals - number, intervals)
    nothing = np.zeros(0, np.int64)
    chosen = (from_a[kept].copy(), from_b[kept].copy())
    return _Profile(a.leaves + b.leaves, value[kept].copy(), weight[kept].copy(), nothing, (a, b), chosen)


def _collect(profile: _Profile, entry: int, counts: Int32, first: int) -> None:
    """Adds to counts int32[B], from block `first` on, what the entry consists of."""
    if profile.parts is None or profile.chosen is None:
        counts[first] += np.int32(profile.counts[entry])
        return
    left, right = profile.parts
    _collect(left, int(profile.chosen[0][entry]), counts, first)
    _collect(right, int(profile.chosen[1][entry]), counts, first + left.leaves)
