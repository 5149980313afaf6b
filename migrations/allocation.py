"""Which sender should carry what: a fractional allocation, and prices that prove how good it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from migrations.diff import Difference
from migrations.kernels.assignment import assign
from migrations.kernels.spreading import shortest_paths, spread_all
from migrations.model import Limits
from migrations.timing import copy_rates
from solvers.problem import Float64, Int64, PlacementProblem

_STEPS: Final = 80
_STEPS_AROUND: Final = 60  # the same for prices of ways through third nodes
_LEAST_PRICE: Final = 1e-9
_LOOK_EVERY: Final = 4  # steps between two evaluations of the bound
_SHARPNESS: Final = (8.0, 150.0)  # of the prices, from the first step to the last
_CLOSE: Final = 1.02  # times the bound: below, ways through third nodes are not looked for
_MANY_NODES: Final = 160  # in whose allocation ways through third nodes are too many to look at
_WORK: Final = 3e6  # steps of spreading experts exactly, at one set of prices
_ENOUGH: Final = 1.005  # times the bound: an allocation this good is not improved

_Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Allocation:
    """bound_seconds: no schedule is shorter. seconds: the busiest link, if copies were divisible.

    sender int64[N, E]: who should send each missing copy so that the busiest link is about as busy, N for the
    origin; -1 where nothing is missing.
    """

    bound_seconds: float
    seconds: float
    sender: Int64


def allocate(
    problem: PlacementProblem, difference: Difference, limits: Limits, enough: float = 0.0
) -> Allocation:
    """Share the missing copies among the senders so that the busiest link is least busy.

    The programme: minimise T over the sources x of all copies, where each node receives for at most T
    seconds, and each node and the origin send for at most T, slots counted. Prices on links that sum to one
    turn it into one cheapest way per copy; their sum is a bound on T for any prices (weak duality), whatever
    the schedule. In the bound, a way may pass through nodes that neither hold nor need the expert, and the
    ways of one expert share their steps; in the allocation, neither. The prices follow the loads of the
    averaged allocation (Frank-Wolfe on a soft maximum), and where that stays above the bound, those of the
    cheapest ways (multiplicative weights). None of this goes on once the busiest link is within 1.005 of
    `enough` seconds, which something else proves to be needed, or of the bound.

    Nothing is shared, and the bound is 0, where nothing is missing or where some copy cannot but come through
    a third node. O(steps (copies * holders + N^3 + `_WORK`)), without the latter two above 160 nodes.
    """
    copies = _Copies(problem, difference, limits)
    if not copies.straight:
        return Allocation(0.0, 0.0, np.full((problem.nodes, problem.experts), -1))
    bound, seconds, share = 0.0, np.inf, np.zeros(len(copies.pair))
    load = np.zeros(2 * problem.nodes + 1)
    for step in range(_STEPS):
        cost = copies.costs(_prices(load, step))
        if step % _LOOK_EVERY == 0 or step == _STEPS - 1:
            if seconds <= enough * _ENOUGH:
                break
            bound = max(bound, copies.through_others(cost)[0])
            if seconds <= bound * _ENOUGH:
                break
        chosen = copies.cheapest(copies.direct(cost))
        share += 2.0 / (step + 2.0) * (chosen - share)
        load = copies.loads(share)
        seconds = float(load.max())
    if seconds > max(bound, enough) * _CLOSE:
        bound = max(bound, _bound_through_others(copies, _prices(load, _STEPS // 2)))
    return Allocation(bound, seconds, copies.senders(share, seconds))


def _bound_through_others(copies: _Copies, price: Float64) -> float:
    """The bound at prices that rise with the loads of the cheapest ways, and at the mean of these prices."""
    bound, mean = 0.0, np.zeros_like(price)
    weight = np.log(np.maximum(price, _LEAST_PRICE))
    for step in range(1, _STEPS_AROUND + 1):
        price = np.exp(np.maximum(weight - weight.max(), np.log(_LEAST_PRICE)))
        price /= price.sum()
        mean += price
        found, load = copies.through_others(copies.costs(price))
        bound = max(bound, found)
        weight += load / (found * np.sqrt(step))
    return max(bound, copies.through_others(copies.costs(mean / mean.sum()))[0])


def _prices(load: Float64, step: int) -> Float64:
    sharp = _SHARPNESS[0] * (_SHARPNESS[1] / _SHARPNESS[0]) ** (step / _STEPS)
    most = float(load.max())
    price = np.exp(sharp * (load / most - 1.0)) if most > 0 else np.ones_like(load)
    return np.asarray(price / price.sum())


class _Copies:
    """The missing copies, by expert, and the senders each may come from.

    One row per missing (expert, node): `expert`, `node`, `size`; one entry per row and sender: `pair` (the
    row), `sender` (N = the origin), `held` (the sender has the expert from the start). An entry may have no
    link, and an infinite price: the copy comes through others then.
    """

    def __init__(self, problem: PlacementProblem, difference: Difference, limits: Limits) -> None:
        nodes = self._nodes = problem.nodes
        self._experts = problem.experts
        rates = copy_rates(problem, limits)
        with np.errstate(divide="ignore"):
            self._pace: Float64 = 1.0 / rates  # seconds per byte; inf where there is no link
        slots = np.full(nodes + 1, float(limits.max_sends))
        slots[nodes] = limits.origin_max_sends
        self._receive_slots, self._send_slots = float(limits.max_receives), slots
        self.expert, self.node = np.nonzero(difference.missing.T)
        self.size: Float64 = problem.column_bytes[self.expert].astype(np.float64)
        self._first: Int64 = np.flatnonzero(np.diff(self.expert, prepend=-1))  # the first row of each expert
        held = np.vstack([difference.source.holds, np.ones((1, problem.experts), np.uint8)]).astype(bool)
        comes = held.copy()
        comes[:nodes] |= difference.missing
        link = np.isfinite(self._pace)
        apart = self.node[:, None] != np.arange(nodes + 1)[None, :]
        self.pair, self.sender = np.nonzero(comes.T[self.expert] & apart)
        linked = link[self.sender, self.node[self.pair]]
        self.held: _Bools = held[self.sender, self.expert[self.pair]]
        # Every row has a sender, and one row of each expert a sender that has it from the start.
        rows, sources = np.unique(self.pair[linked]), np.unique(self.expert[self.pair[self.held & linked]])
        self.straight = 0 < len(self.expert) == len(rows) and len(sources) == len(self._first)
        if not self.straight:
            return
        self._start: Int64 = np.searchsorted(self.pair, np.arange(len(self.expert)))
        self._of: Int64 = np.searchsorted(self._first, np.arange(len(self.expert)), side="right") - 1
        goals = np.bincount(self._of)
        self._most = self._most_exact(goals)
        self._many = (goals > self._most)[self._of]
        self._ends = np.append(self._first, len(self.expert))
        self._holds = np.ascontiguousarray(held.T[self.expert[self._first]].astype(np.uint8))
        self._expert_size = self.size[self._first]
        self._key = self.sender * nodes + self.node[self.pair]
        self._seconds = np.where(linked, self.size[self.pair] * self._pace.reshape(-1)[self._key], 0.0)

    def costs(self, price: Float64) -> Float64:
        """float64[N + 1, N]: the price of a byte from each sender to each node."""
        nodes = self._nodes
        per_second = price[None, :nodes] / self._receive_slots
        per_second = per_second + (price[nodes:] / self._send_slots)[:, None]
        return np.asarray(self._pace * per_second)

    def direct(self, cost: Float64) -> Float64:
        """float64[entries]: the price of a byte straight from the sender."""
        return np.asarray(cost.reshape(-1)[self._key])

    def cheapest(self, entry: Float64) -> Float64:
        """float64[entries]: each row's share of each sender, the cheapest; of each expert, one row at least
        comes from a node that has it from the start."""
        any_ = np.minimum.reduceat(entry, self._start)
        first = np.where(self.held, entry, np.inf)
        from_held = np.minimum.reduceat(first, self._start)
        penalty = from_held - any_
        least = np.minimum.reduceat(penalty, self._first)
        forced = np.flatnonzero(penalty == least[self._of])
        forced = forced[np.unique(self._of[forced], return_index=True)[1]]
        best = any_.copy()
        best[forced] = from_held[forced]
        must = np.zeros(len(any_), bool)
        must[forced] = True
        chosen = (np.where(must[self.pair], first, entry) == best[self.pair]).astype(np.float64)
        return np.asarray(chosen / np.add.reduceat(chosen, self._start)[self.pair])

    def loads(self, share: Float64) -> Float64:
        """float64[2 N + 1]: seconds each node receives, then each node and the origin send."""
        seconds = share * self._seconds
        into = np.bincount(self.node[self.pair], seconds, self._nodes) / self._receive_slots
        out = np.bincount(self.sender, seconds, self._nodes + 1) / self._send_slots
        return np.concatenate([into, out])

    def senders(self, share: Float64, seconds: float) -> Int64:
        """int64[N, E]: one sender for each copy, -1 where nothing is missing."""
        fresh = ~self.held
        before = np.full(len(self.pair), -1)
        row = self.expert * self._nodes + self.node  # ascending
        before[fresh] = np.searchsorted(row, (self.expert[self.pair] * self._nodes + self.sender)[fresh])
        taken = self.size[self.pair] * self._pace.reshape(-1)[self._key] / seconds
        receive, send = taken / self._receive_slots, taken / self._send_slots[self.sender]
        start = np.append(self._start, len(self.pair))
        chosen = assign(start, self.sender, before, self.node, receive, send, share)
        sender = np.full((self._nodes, self._experts), -1)
        sender[self.node, self.expert] = np.where(chosen >= 0, self.sender[chosen], -1)
        return sender

    def through_others(self, cost: Float64) -> tuple[float, Float64]:
        """The least that all copies cost, in whatever way they come, and the loads of these ways.

        Exact for experts that few nodes miss; of others, and in large fleets, only the last steps count.
        """
        flow = np.zeros_like(cost)
        bound = 0.0
        if self._most:
            path, toward = shortest_paths(cost)
            given = self._ends, self.node, self._holds, self._expert_size
            bound = float(spread_all(path, toward, *given, self._most, flow))
        seconds = flow * np.where(flow > 0, self._pace, 0.0)
        load = np.concatenate(
            [seconds.sum(axis=0) / self._receive_slots, seconds.sum(axis=1) / self._send_slots]
        )
        if self._many.any():
            bound += float((cost.min(axis=0)[self.node] * self.size)[self._many].sum())
            load += self.loads(np.where(self._many[self.pair], self.cheapest(self.direct(cost)), 0.0))
        return bound, load

    def _most_exact(self, goals: Int64) -> int:
        """Up to how many goals experts are spread exactly within `_WORK`; 0 in large fleets."""
        nodes, most = self._nodes, 0
        if nodes > _MANY_NODES:
            return 0
        work = 0.0
        for k in range(1, int(goals.max()) + 1):
            work += int((goals == k).sum()) * (3.0**k * nodes + 2.0**k * nodes * nodes)
            if work > _WORK:
                break
            most = k
        return most
