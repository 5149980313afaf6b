"""Ways out of a deadlock: full nodes, each waiting for another to make room."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from migrations.diff import Difference
from migrations.schedule import Schedule
from solvers.feasible.packing import pack
from solvers.problem import Bools, Float64, Int32, Int64, PlacementProblem, UInt8

SEARCH_STATES: Final = 60_000
"""States the exhaustive search looks at before it gives up."""

_State = tuple[int, ...]  # per node, the mask of the columns it holds
_SearchStep = tuple[int | None, int, int]  # source or None for a drop, node, column

_SEARCH_PACKINGS: Final = 1_000  # layouts over several devices it tries: each may be an integer programme

_SEARCH_CELLS: Final = 4096  # nodes x experts above which the search leaves out experts that need not move


@dataclass(frozen=True, slots=True)
class Eviction:
    """Drop a redundant copy early, to be copied back later, so that `column` can be copied in now."""

    node: int
    columns: tuple[int, ...]
    column: int


@dataclass(frozen=True, slots=True)
class Parking:
    """Copy an expert to a third node for a while, so that its present one may drop it."""

    column: int
    node: int
    place: int


@dataclass(frozen=True, slots=True)
class Searched:
    """The outcome of `search`: (source or None for a drop, node, column) in order; empty where it found none.

    `exhausted`: every reachable state was seen, so that no order of moves exists at all.
    """

    steps: tuple[_SearchStep, ...]
    exhausted: bool


class Relief:
    """Chooses, at a deadlock, the cheapest single way to make room; never the same twice, so it ends.

    `rates` float64[N + 1, N]: bytes per second of a copy, 0 where there is no link.
    """

    def __init__(self, problem: PlacementProblem, change: Difference, rates: Float64) -> None:
        self._problem = problem
        self._size = problem.column_bytes
        self._target: Bools = change.target.holds.astype(bool)
        self._links: Bools = rates > 0
        self._allowed = _allowed(problem)
        self._evicted: set[tuple[int, int]] = set()
        self._parked: set[tuple[int, int]] = set()
        # At the present deadlock, per node: bytes that are free, and that could be freed by drops.
        self._free: Int64 = np.zeros(0, np.int64)
        self._droppable: Int64 = np.zeros(0, np.int64)
        self._serving: Bools = np.zeros((0, 0), bool)
        self._spare: Bools = np.zeros(0, bool)

    def next(self, schedule: Schedule) -> Eviction | Parking | None:
        """The way that copies the fewest additional bytes; None where none is left. O(N E) at most."""
        nodes = range(self._problem.nodes)
        self._free = np.array([schedule.free_bytes(n) for n in nodes], np.int64)
        self._droppable = np.array([self._size[schedule.droppable(n)].sum() for n in nodes], np.int64)
        self._serving = schedule.serving()
        self._spare = schedule.state.columns["spare"] > 0
        reading = schedule.state.pairs["reading"]
        best: Eviction | Parking | None = None
        least = float("inf")
        for node in nodes:
            sizes: set[int] = set()
            for column in schedule.waiting(node):
                size = int(self._size[column])
                if size in sizes or not self._has_source(node, column):
                    continue
                sizes.add(size)
                need = size - int(self._free[node]) - int(self._droppable[node])
                for found, cost in (
                    self._eviction(node, column, need, reading[node]),
                    self._parking(node, need),
                ):
                    if found is not None and cost < least:
                        best, least = found, cost
        if isinstance(best, Eviction):
            self._evicted.update((best.node, column) for column in best.columns)
        elif isinstance(best, Parking):
            self._parked.add((best.column, best.place))
        return best

    def _has_source(self, node: int, column: int) -> bool:
        links = self._links[:, node]
        return bool(links[-1] or (links[:-1] & self._serving[:, column]).any())

    def _eviction(self, node: int, column: int, need: int, reading: Int32) -> tuple[Eviction | None, float]:
        """`need`: bytes the node lacks for the expert after all it may drop now."""
        redundant = [
            c
            for c in np.flatnonzero(
                self._serving[node] & self._target[node] & self._spare & (reading == 0)
            ).tolist()
            if (node, c) not in self._evicted
        ]
        enough = [c for c in redundant if self._size[c] >= need]
        if enough:
            chosen = min(enough, key=lambda c: (self._size[c], c))
            return Eviction(node, (chosen,), column), float(self._size[chosen])
        columns, cost = [], 0
        for c in sorted(redundant, key=lambda c: (-self._size[c], c)):
            columns.append(c)
            cost += int(self._size[c])
            if cost >= need:
                return Eviction(node, tuple(columns), column), cost
        return None, 0.0

    def _parking(self, node: int, need: int) -> tuple[Parking | None, float]:
        best: Parking | None = None
        least = (float("inf"), 0)
        room = self._free + self._droppable
        for c in np.flatnonzero(self._serving[node] & ~self._spare).tolist():
            size = int(self._size[c])
            cost = size * (2 if self._target[node, c] else 1)
            # Where one expert is not enough, the largest comes first and the rest follow.
            rank = (cost / min(1.0, size / need) if need > 0 else cost, c)
            if rank >= least:
                continue
            servers = self._serving[:, c]
            reached = self._links[:-1][servers].any(axis=0)
            able = self._allowed[:, c] & ~servers & (room >= size) & reached
            able[node] = False
            places = [p for p in np.flatnonzero(able).tolist() if (c, p) not in self._parked]
            if places:
                place = min(places, key=lambda p: (self._free[p] < size, -room[p], p))
                best, least = Parking(c, node, place), rank
        return best, 0.0 if best is None else least[0]


def search(
    problem: PlacementProblem, change: Difference, rates: Float64, schedule: Schedule, states: int
) -> Searched:
    """A sequence of drops and copies after which fewer experts are missing than now, by best-first search.

    Where every node reaches every other, each move can be undone while an expert keeps a copy, or an origin
    has it, so a deadlock without such a sequence means that the whole plan has none: `exhausted` is a
    proof. Above 4,096 pairs of node and expert, only experts that have to move are moved, and nothing is
    proved. O(states N E).
    """
    nodes, experts = problem.nodes, problem.experts
    links = rates > 0
    lacking, serving = schedule.missing(), schedule.serving()
    start = tuple(_mask(row) for row in serving)
    goal = int(lacking.sum())
    whole = nodes * experts <= _SEARCH_CELLS
    reversible = bool((links[:nodes] | np.eye(nodes, dtype=bool)).all())
    moving = list(range(experts))
    if not whole:
        moving = np.flatnonzero((lacking | schedule.superfluous()).any(axis=0)).tolist()
    target = [_mask(row) for row in change.target.holds.T]
    welcome = [
        _mask(row)
        for row in (change.source.holds.astype(bool) | change.target.holds.astype(bool) | _allowed(problem)).T
    ]
    reach = [_mask(row) for row in links.T]
    rate: list[list[float]] = rates.tolist()
    keep: list[int] = change.keep.tolist()
    size_of: list[int] = problem.column_bytes.tolist()
    capacity = problem.capacity_bytes.tolist()
    several = np.bincount(problem.devices[0], minlength=nodes) > 1

    packings = [0]

    @lru_cache(maxsize=100_000)
    def has_room(node: int, held: int) -> bool:
        columns = list(_members(held))
        if sum(size_of[c] for c in columns) > capacity[node]:
            return False
        if several[node]:
            packings[0] += 1
        return not several[node] or pack(problem, node, np.array(columns, np.int64)) is not None

    came: dict[_State, tuple[_State, _SearchStep] | None] = {start: None}
    away = int((lacking @ problem.column_bytes).sum())
    queue: list[tuple[int, int, int, int, int, _State]] = [(0, 0, 0, away, goal, start)]
    while queue:
        _, _, spent, away, missing, state = heapq.heappop(queue)
        if missing < goal:
            return Searched(_path(came, state), exhausted=False)
        if len(came) > states or packings[0] > _SEARCH_PACKINGS:
            return Searched((), exhausted=False)
        for column in moving:
            size, bit, goals = size_of[column], 1 << column, target[column]
            holders = sum(1 << n for n, held in enumerate(state) if held & bit)
            may_drop = holders.bit_count() > keep[column]
            for node, held in enumerate(state):
                wanted = goals >> node & 1
                step: _SearchStep
                if held & bit:
                    if not may_drop:
                        continue
                    step, after, sign = (None, node, column), held & ~bit, 1
                else:
                    sources = (holders | 1 << nodes) & reach[node]
                    after, sign = held | bit, -1
                    if not sources or not welcome[column] >> node & 1 or not has_room(node, after):
                        continue
                    rated = [(rate[m][node], -m) for m in _members(sources)]
                    step = (-max(rated)[1], node, column)
                following = (*state[:node], after, *state[node + 1 :])
                if following in came:
                    continue
                came[following] = (state, step)
                cost = spent + (size if sign < 0 else 0)
                left, count = (away + sign * size, missing + sign) if wanted else (away, missing)
                heapq.heappush(queue, (cost + 2 * left, len(came), cost, left, count, following))
    return Searched((), exhausted=whole and reversible)


def _path(came: dict[_State, tuple[_State, _SearchStep] | None], state: _State) -> tuple[_SearchStep, ...]:
    steps: list[_SearchStep] = []
    while (link := came[state]) is not None:
        state, step = link
        steps.append(step)
    return tuple(reversed(steps))


def _allowed(problem: PlacementProblem) -> Bools:
    """bool[N, E]: where an expert may be for a while: not drained, and not kept away by a pin."""
    allowed = np.ones((problem.nodes, problem.experts), bool)
    if problem.drained is not None:
        allowed[problem.drained == 1] = False
    if problem.pins is not None:
        allowed[problem.pins == -1] = False
    return allowed


def _mask(row: UInt8 | Bools) -> int:
    return int.from_bytes(np.packbits(row, bitorder="little").tobytes(), "little")


def _members(mask: int) -> Iterator[int]:
    """The set bits of `mask`, lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
