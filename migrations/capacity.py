"""Ways out of a capacity cycle: full nodes, each waiting for another to make room."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from migrations.cluster import Cluster, members
from migrations.schedule import Schedule
from solvers.feasible.packing import pack
from solvers.problem import PlacementProblem

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
    """Chooses, at a standstill, the cheapest single way to make room; never the same twice, so it ends."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._evicted: set[tuple[int, int]] = set()
        self._parked: set[tuple[int, int]] = set()
        # Per node: bytes that are free, and that could be freed by drops, at the present standstill.
        self._free: list[int] = []
        self._spare: list[int] = []

    def next(self, schedule: Schedule) -> Eviction | Parking | None:
        """The way that copies the fewest additional bytes; None where none is left. O(N E) at most."""
        cluster = self._cluster
        self._free = [sum(room.free.values()) for room in cluster.rooms]
        self._spare = [sum(cluster.size[c] for c in cluster.droppable(n)) for n in range(cluster.nodes)]
        best: Eviction | Parking | None = None
        least = float("inf")
        for node in range(cluster.nodes):
            sizes: set[int] = set()
            for column in schedule.waiting(node):
                size = cluster.size[column]
                if size in sizes or not self._has_source(node, column):
                    continue
                sizes.add(size)
                for found, cost in (self._eviction(node, column), self._parking(node, column)):
                    if found is not None and cost < least:
                        best, least = found, cost
        if isinstance(best, Eviction):
            self._evicted.update((best.node, column) for column in best.columns)
        elif isinstance(best, Parking):
            self._parked.add((best.column, best.place))
        return best

    def _has_source(self, node: int, column: int) -> bool:
        return bool((self._cluster.serving[column] | 1 << self._cluster.origin) & self._cluster.reach[node])

    def _need(self, node: int, column: int) -> int:
        """Bytes the node lacks for the expert after all it may drop now."""
        return self._cluster.size[column] - self._free[node] - self._spare[node]

    def _eviction(self, node: int, column: int) -> tuple[Eviction | None, int]:
        cluster, need, columns, cost = self._cluster, self._need(node, column), [], 0
        redundant = [
            c
            for c in members(cluster.held[node])
            if cluster.target[c] >> node & 1 and (node, c) not in self._evicted and cluster.can_drop(node, c)
        ]
        enough = [c for c in redundant if cluster.size[c] >= need]
        if enough:
            chosen = min(enough, key=lambda c: (cluster.size[c], c))
            return Eviction(node, (chosen,), column), cluster.size[chosen]
        for c in sorted(redundant, key=lambda c: (-cluster.size[c], c)):
            columns.append(c)
            cost += cluster.size[c]
            need -= cluster.size[c]
            if need <= 0:
                return Eviction(node, tuple(columns), column), cost
        return None, 0

    def _parking(self, node: int, column: int) -> tuple[Parking | None, int]:
        cluster = self._cluster
        need = self._need(node, column)
        best: Parking | None = None
        least = (float("inf"), 0)
        free, spare = self._free, self._spare
        for c in members(cluster.held[node]):
            if cluster.can_spare(c):
                continue
            size = cluster.size[c]
            cost = size * (2 if cluster.target[c] >> node & 1 else 1)
            # Where one expert is not enough, the largest comes first and the rest follow.
            rank = (cost / min(1.0, size / need) if need > 0 else cost, c)
            if rank >= least:
                continue
            places = [
                p
                for p in members(cluster.allowed[c] & ~cluster.serving[c])
                if p != node
                and free[p] + spare[p] >= size
                and (c, p) not in self._parked
                and cluster.serving[c] & cluster.reach[p]
            ]
            if places:
                place = min(places, key=lambda p: (free[p] < size, -(free[p] + spare[p]), p))
                best, least = Parking(c, node, place), rank
        return best, 0 if best is None else int(min(least[0], 2**62))


def search(problem: PlacementProblem, cluster: Cluster, states: int) -> Searched:
    """A sequence of drops and copies after which fewer experts are missing than now, by best-first search.

    Where every node reaches every other, each move can be undone while an expert keeps a copy, or an origin
    has it, so a standstill without such a sequence means that the whole plan has none: `exhausted` is a
    proof. Above 4,096 pairs of node and expert, only experts that have to move are moved, and nothing is
    proved. O(states N E).
    """
    nodes, experts = cluster.nodes, cluster.experts
    start = tuple(cluster.held)
    goal = sum(mask.bit_count() for mask in cluster.missing)
    whole = nodes * experts <= _SEARCH_CELLS
    reversible = all(
        reach | 1 << n | 1 << cluster.origin == (2 << nodes) - 1 for n, reach in enumerate(cluster.reach)
    )
    moving = [
        c
        for c in range(experts)
        if whole or cluster.missing[c] or any(c in cluster.superfluous[n] for n in range(nodes))
    ]
    welcome = [
        before | after | parked
        for before, after, parked in zip(cluster.source, cluster.target, cluster.allowed, strict=True)
    ]
    capacity = problem.capacity_bytes.tolist()
    several = [room.several_devices for room in cluster.rooms]

    packings = [0]

    @lru_cache(maxsize=100_000)
    def has_room(node: int, held: int) -> bool:
        columns = list(members(held))
        if sum(cluster.size[c] for c in columns) > capacity[node]:
            return False
        if several[node]:
            packings[0] += 1
        return not several[node] or pack(problem, node, np.array(columns, np.int64)) is not None

    came: dict[_State, tuple[_State, _SearchStep] | None] = {start: None}
    away = sum(cluster.size[c] * mask.bit_count() for c, mask in enumerate(cluster.missing))
    queue: list[tuple[int, int, int, int, int, _State]] = [(0, 0, 0, away, goal, start)]
    while queue:
        _, _, spent, away, missing, state = heapq.heappop(queue)
        if missing < goal:
            return Searched(_path(came, state), exhausted=False)
        if len(came) > states or packings[0] > _SEARCH_PACKINGS:
            return Searched((), exhausted=False)
        for column in moving:
            size, bit, goals = cluster.size[column], 1 << column, cluster.target[column]
            holders = sum(1 << n for n, held in enumerate(state) if held & bit)
            may_drop = holders.bit_count() > cluster.keep[column]
            for node, held in enumerate(state):
                wanted = goals >> node & 1
                step: _SearchStep
                if held & bit:
                    if not may_drop:
                        continue
                    step, after, sign = (None, node, column), held & ~bit, 1
                else:
                    sources = (holders | 1 << cluster.origin) & cluster.reach[node]
                    after, sign = held | bit, -1
                    if not sources or not welcome[column] >> node & 1 or not has_room(node, after):
                        continue
                    rates = [(cluster.rate[m][node], -m) for m in members(sources)]
                    step = (-max(rates)[1], node, column)
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
