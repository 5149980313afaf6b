"""Sampled routes and complete counts made one: routes whose calls of every expert are those counted.

Counts say how often each expert is called, routes which experts are called together. Of one layer of one node

1. routes that name an expert which was never counted are left out;
2. the others' rates are raked: each round multiplies the rate of a route by the mean, over its experts, of
   calls counted / calls that the routes make. This climbs to the rates, in proportion to the sample, under
   which the counts are likeliest (the EM algorithm of Vardi and Lee: From image deblurring to optimal
   investments, JRSS B 55(3), 1993);
3. they are lowered until no expert is called more often than counted, and raised again where there is
   room. No route can weigh more than its rarest expert was counted, however odd the sample;
4. what the routes leave of the counts is completed with routes of K experts each. Nobody saw who goes
   with whom there, so chance decides: systematic sampling (Madow: On the theory of systematic sampling II,
   AMS 20, 1949) over the experts in orders drawn for that node and layer. Every expert gets its rest exactly.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from app.statistics.reservoir import hashes
from solvers.compiled import compiled

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Float64 = npt.NDArray[np.float64]

RAKING_ROUNDS = 20
FILLING_ROUNDS = 6

ORDERS = 4
"""Drawn of the experts of a layer, where there is room for as many. With one, each expert would meet so few
others that a solver takes chance for a habit."""

EXACT = 5e-7
"""Of the calls of an expert: what routes leave of them is not completed where it is less."""

NEGLIGIBLE = 1e-9
"""Of the calls of a layer: less is left to rounding."""


class Raked(NamedTuple):
    """rate float64[R]: of the routes given; rest float64[E]: calls that they do not make."""

    rate: Float64
    rest: Float64


class Rated(NamedTuple):
    """block int32[R], ascending; experts int32[R, K], ids within the block, -1 pads; rate float64[R]."""

    block: Int32
    experts: Int32
    rate: Float64


def rake(block: Int32, experts: Int32, weight: Float64, calls: Float64, offset: Int64) -> Raked:
    """Rates of R routes under which no expert is called more often than it was, near their proportions.

    block int32[R], ascending; experts int32[R, K], ids within the block, -1 pads; weight float64[R], relative
    within a block; calls float64[E]: what was counted, block after block; offset int64[B + 1]: first expert
    of each block. O(R K).
    """
    first = np.searchsorted(block, np.arange(len(offset)))
    rate, rest = np.zeros(len(weight)), np.zeros(len(calls))
    _rake(first, experts, weight, calls, offset, rate, rest)
    return Raked(rate, rest)


def complete(rest: Float64, offset: Int64, k: Int64, most: int, seed: int) -> Rated:
    """Routes of at most k int64[B] experts, and of k wherever the calls allow it, that make the calls `rest`
    float64[E].

    Where a block takes more than `most` of them, it gets that many of equal rate: each expert is then called
    as often as it should be to within one of these rates. seed: names the node and the model. O(E log E).
    """
    blocks, width = len(offset) - 1, int(k.max(initial=1))
    called = np.bincount(np.repeat(np.arange(blocks), np.diff(offset)), rest > 0, minlength=blocks)
    room = called.astype(np.int64) + k
    orders = np.where(called > 0, np.minimum(most // room, ORDERS), 0)
    rows = int(np.where(called > 0, np.maximum(orders * room, most * (orders == 0)), 0).sum())
    drawn = hashes(seed, max(1, int(orders.max(initial=0))) * len(rest)).reshape(-1, len(rest))
    block = np.zeros(rows, np.int32)
    experts = np.full((rows, width), -1, np.int32)
    rate = np.zeros(rows)
    made = _complete(rest, offset, k, orders, most, drawn, block, experts, rate)
    return Rated(block[:made], experts[:made], rate[:made])


@compiled
def _rake(
    first: Int64, experts: Int32, weight: Float64, calls: Float64, offset: Int64, rate: Float64, rest: Float64
) -> None:
    """Writes rate and rest."""
    width = experts.shape[1]
    for b in range(len(offset) - 1):
        low, high = first[b], first[b + 1]
        counted = calls[offset[b] : offset[b + 1]]
        rest[offset[b] : offset[b + 1]] = counted
        load = np.zeros(len(counted))
        made = 0.0
        for s in range(low, high):
            rate[s] = weight[s]
            for j in range(width):
                if experts[s, j] >= 0 and counted[experts[s, j]] <= 0.0:
                    rate[s] = 0.0
            for j in range(width):
                if experts[s, j] >= 0:
                    load[experts[s, j]] += rate[s]
                    made += rate[s]
        if made <= 0.0:
            continue
        named = np.flatnonzero(load > 0.0)
        wanted = 0.0
        for e in named:
            wanted += counted[e]
        for s in range(low, high):
            rate[s] *= wanted / made
        for _ in range(RAKING_ROUNDS):
            if _ratios(low, high, experts, rate, counted, named, load) <= NEGLIGIBLE:
                break
            for s in range(low, high):
                if rate[s] > 0.0:
                    factor, size = 0.0, 0
                    for j in range(width):
                        if experts[s, j] >= 0:
                            factor += load[experts[s, j]]
                            size += 1
                    rate[s] *= factor / size
        _ratios(low, high, experts, rate, counted, named, load)
        for s in range(low, high):
            if rate[s] > 0.0:
                rate[s] *= min(1.0, _least(experts[s], load))
        for _ in range(FILLING_ROUNDS):
            if _ratios(low, high, experts, rate, counted, named, load) <= NEGLIGIBLE:
                break
            for s in range(low, high):
                if rate[s] > 0.0:
                    rate[s] *= max(1.0, _least(experts[s], load))
        _ratios(low, high, experts, rate, counted, named, load)
        for e in named:
            left = counted[e] - counted[e] / load[e]
            rest[offset[b] + e] = left if left > EXACT * counted[e] else 0.0


@compiled
def _ratios(
    low: int, high: int, experts: Int32, rate: Float64, counted: Float64, named: Int64, ratio: Float64
) -> float:
    """ratio float64[experts] of those that are `named`: calls counted / calls made, written. Returns the
    largest distance from 1."""
    for e in named:
        ratio[e] = 0.0
    for s in range(low, high):
        if rate[s] > 0.0:
            for j in range(experts.shape[1]):
                if experts[s, j] >= 0:
                    ratio[experts[s, j]] += rate[s]
    worst = 0.0
    for e in named:
        ratio[e] = counted[e] / ratio[e]
        worst = max(worst, abs(ratio[e] - 1.0))
    return worst


@compiled
def _least(experts: Int32, ratio: Float64) -> float:
    """The lowest ratio of a route's experts."""
    least = np.inf
    for j in range(len(experts)):
        if experts[j] >= 0:
            least = min(least, ratio[experts[j]])
    return least


@compiled
def _complete(
    rest: Float64,
    offset: Int64,
    k: Int64,
    orders: Int64,
    most: int,
    drawn: UInt64,
    block: Int32,
    experts: Int32,
    rate: Float64,
) -> int:
    """Writes block, experts and rate; how many rows. orders int64[B]: 0 where there is room for `most` only;
    drawn uint64[orders, E]: a number for each expert, different in each order."""
    made = 0
    ids = np.uint64(0xFFFF)  # in place of the low bits: to sort numbers is faster than to sort places
    for b in range(len(offset) - 1):
        at = offset[b]
        some = np.flatnonzero(rest[at : offset[b + 1]] > 0.0)
        if len(some) == 0:
            continue
        for drawing in range(max(1, orders[b])):
            numbers = np.empty(len(some), np.uint64)
            for i in range(len(some)):
                numbers[i] = (drawn[drawing, at + some[i]] & ~ids) | np.uint64(some[i])
            order = (np.sort(numbers) & ids).astype(np.int64)
            # The experts' calls lie on a line one after another, and the line in pieces below each other:
            # every column is a route.
            calls = rest[at + order] / max(1, orders[b])
            ends = np.cumsum(calls)
            length = max(ends[-1] / k[b], calls.max())
            reached = np.searchsorted(ends, np.arange(min(k[b], len(order))) * length, side="right")
            place, row = 0.0, 0
            while place < length:
                to = length
                if orders[b] == 0:
                    to = (row + 1) / most * length if row + 1 < most else length
                    _reach(reached, ends, length, (row + 0.5) / most * length)
                else:
                    _reach(reached, ends, length, place)
                    for j in range(len(reached)):
                        if reached[j] < len(order):
                            to = min(to, ends[reached[j]] - j * length)
                block[made], rate[made] = b, to - place
                _write(experts[made], order, reached)
                if rate[made] > NEGLIGIBLE * length / len(order) and experts[made, 0] >= 0:
                    made += 1
                else:
                    experts[made] = -1
                place = to
                row += 1
    return made


@compiled
def _reach(reached: Int64, ends: Float64, length: float, place: float) -> None:
    """The expert that lies at `place` of each piece."""
    for j in range(len(reached)):
        while reached[j] < len(ends) and ends[reached[j]] - j * length <= place:
            reached[j] += 1


@compiled
def _write(route: Int32, order: Int64, reached: Int64) -> None:
    """The experts reached, each once: rounding may put the two ends of a full column side by side."""
    size, last = 0, -1
    for j in range(len(reached)):
        if reached[j] < len(order) and reached[j] != last:
            last = reached[j]
            route[size] = order[last]
            size += 1


def warm() -> None:
    """Compiles the kernels, or loads them from numba's cache."""
    offset, calls = np.array([0, 3]), np.array([2.0, 1.0, 1.0])
    raked = rake(np.zeros(1, np.int32), np.array([[0, 1]], np.int32), np.ones(1), calls, offset)
    for most in (1, 100):
        complete(raked.rest, offset, np.array([2]), most, 0)
