"""The part of the way from one placement to another that is worth most for a limited number of copies."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Final

import numpy as np

from solvers.cost.coupling import FORMS
from solvers.cost.evaluate import (
    checked_holds,
    nearest_nodes,
    opening_costs,
    route_latencies,
    serving_costs,
)
from solvers.feasible.packing import pack
from solvers.kernels import evaluation
from solvers.problem import Float64, Int32, Int64, PlacementProblem, UInt8
from solvers.stopping import Stopping, never
from solvers.traffic import compile_traffic

Cell = tuple[int, int]
"""(node, column)"""


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be received, over all nodes; None: no limit."""

    copies: int | None = None
    bytes: int | None = None

    @property
    def unlimited(self) -> bool:
        return self.copies is None and self.bytes is None

    def covers(self, copies: int, size: int) -> bool:
        return (self.copies is None or copies <= self.copies) and (self.bytes is None or size <= self.bytes)


UNLIMITED: Final = Budget()


def instalment(
    problem: PlacementProblem, start: UInt8, goal: UInt8, budget: Budget, stopping: Stopping = never
) -> UInt8:
    """uint8[N, E] between `start` and `goal`: every cell is as in one of the two.

    `goal` is feasible. The result is, too, and receives (against `problem.current`) no more than `budget`,
    but for what feasibility itself asks for where `start` is not feasible: that is never held back. `goal`
    itself where the budget covers it.

    Lazy greedy by what is saved of J + M / H per byte received. Candidates are single copies, and all copies
    of one block at one node together: with all other nodes fixed, the saving of one node is supermodular in
    its own set and separable over blocks, so that half of a group may be worth nothing. Each candidate
    brings the drops that make its room, and the copies that keep what is dropped covered: every repair goes
    towards `goal`, which is feasible, so it always ends. Nothing that saves nothing is taken. No constant is
    claimed. Candidates are evaluated exactly, on the routes that they change.

    `stopping` ends it early, with what has been taken by then. O(A (N^2 k + R_k K)) for A candidate
    evaluations that change k columns with R_k routes, N (B + E) of them at first.
    """
    way = _Way(problem, start, goal)
    way.take(way.repaired([]))
    if budget.unlimited or way.affordable(budget, way.left()):
        return goal.copy()
    taken = True
    while taken and not stopping():  # what was worth nothing may be worth something by now
        taken = False
        heap = [(-float("inf"), number, cells) for number, cells in enumerate(way.candidates())]
        while heap and not stopping():
            _, number, cells = heapq.heappop(heap)
            wanted = [cell for cell in cells if not way.holds[cell]]
            if not wanted:
                continue
            changes = way.repaired(wanted)
            if not way.affordable(budget, [cell for cell in changes if not way.holds[cell]]):
                continue
            worth = way.worth(changes)
            if worth <= 0:
                continue
            if heap and -heap[0][0] > worth:
                heapq.heappush(heap, (-worth, number, cells))
                continue
            way.take(changes)
            taken = True
    return way.holds


class _Way:
    """The placement on the way, with what its candidates are evaluated on."""

    def __init__(self, problem: PlacementProblem, start: UInt8, goal: UInt8) -> None:
        self._problem = problem
        self._goal = checked_holds(problem, goal)
        self.holds: UInt8 = np.array(checked_holds(problem, start), order="C")
        self._view = checked_holds(problem, self.holds)  # read-only, and follows `holds`
        self._code = FORMS[problem.coupling].code
        self._nearest = nearest_nodes(problem)
        self._costs = serving_costs(problem, self.holds)
        self._latencies = route_latencies(problem, self.holds)
        horizon = problem.horizon_seconds
        self._opening = np.zeros(self.holds.shape) if horizon is None else opening_costs(problem) / horizon
        held = np.zeros_like(self.holds) if problem.current is None else problem.current
        self._received = (self.holds == 0) & (held == 0)
        self._size = problem.column_bytes
        self._used: Int64 = self.holds.astype(np.int64) @ self._size
        self._copies = self.holds.sum(axis=0, dtype=np.int64)
        self._spent_copies = self._spent_bytes = 0
        self._several = np.bincount(problem.devices[0], minlength=problem.nodes) > 1
        self._routes, self._route_offset = _routes_by_column(problem)
        self._activity = compile_traffic(problem).activity

    # --- what there is to do
    def left(self) -> list[Cell]:
        """Copies of the goal that are not there yet."""
        return [(int(n), int(e)) for n, e in np.argwhere((self._goal == 1) & (self.holds == 0))]

    def candidates(self) -> list[list[Cell]]:
        single = [[cell] for cell in self.left()]
        groups: dict[tuple[int, int], list[Cell]] = {}
        for node, column in self.left():
            groups.setdefault((node, int(self._problem.column_block[column])), []).append((node, column))
        return [group for group in groups.values() if len(group) > 1] + single

    def affordable(self, budget: Budget, arriving: list[Cell]) -> bool:
        received = [cell for cell in arriving if self._received[cell]]
        size = sum(int(self._size[column]) for _, column in received)
        return budget.covers(self._spent_copies + len(received), self._spent_bytes + size)

    def repaired(self, wanted: list[Cell]) -> list[Cell]:
        """The cells to flip so that `wanted` arrive and every constraint holds, each towards the goal."""
        flips: list[Cell] = []
        used, copies = self._used.copy(), self._copies.copy()
        nodes = {node for node, _ in wanted}
        columns: set[int] = set()
        if not wanted:  # nothing is wanted but feasibility
            nodes, columns = set(range(self._problem.nodes)), set(range(self._problem.experts))
        pinned = self._problem.pins

        def flip(cell: Cell) -> None:
            node, column = cell
            self.holds[cell] ^= 1
            sign = 1 if self.holds[cell] else -1
            used[node] += sign * int(self._size[column])
            copies[column] += sign
            nodes.add(node)
            columns.add(column)
            flips.append(cell)

        if not wanted:
            drained = self._problem.drained
            wrong = np.zeros(self.holds.shape, np.bool_)
            if pinned is not None:
                wrong |= (pinned != 0) & (self.holds != (pinned == 1))
            if drained is not None:
                wrong |= (drained == 1)[:, None] & (self.holds == 1)
            for node, column in np.argwhere(wrong).tolist():
                flip((node, column))
        for cell in wanted:
            flip(cell)
        while nodes or columns:
            while nodes:
                node = nodes.pop()
                while self._too_full(node, used):
                    flip((node, self._least(node, copies)))
            while columns:
                column = columns.pop()
                while copies[column] < self._problem.min_replicas:
                    able = np.flatnonzero((self._goal[:, column] == 1) & (self.holds[:, column] == 0))
                    near = self._activity[able, column]
                    flip((int(able[int(np.argmax(near))]), column))
        for cell in flips:
            self.holds[cell] ^= 1
        return flips

    def _too_full(self, node: int, used: Int64) -> bool:
        if used[node] > self._problem.capacity_bytes[node]:
            return True
        if not self._several[node]:
            return False
        return pack(self._problem, node, np.flatnonzero(self.holds[node]).astype(np.int64)) is None

    def _least(self, node: int, copies: Int64) -> int:
        """Of what the node holds and the goal does not: what others hold, too, and then the column that the
        node's own tokens call least, per byte."""
        going = np.flatnonzero((self.holds[node] == 1) & (self._goal[node] == 0))
        calls = self._activity[node, going] / self._size[going]
        return int(going[np.lexsort((calls, copies[going] <= self._problem.min_replicas))[0]])

    # --- what it is worth
    def worth(self, changes: list[Cell]) -> float:
        """What `changes` save of J + M / H, per byte received; inf where nothing is received."""
        columns = sorted({column for _, column in changes})
        routes = self._routes_of(columns)
        before = self._latencies[routes]
        kept = self._costs[:, columns].copy()
        after = self._flip(changes, columns, routes)
        opening = sum(self._opening[cell] * (1 if self.holds[cell] else -1) for cell in changes)
        self._unflip(changes)
        self._costs[:, columns] = kept
        saved = self._change(routes, before, after) - opening
        size = sum(int(self._size[c]) for n, c in changes if not self.holds[n, c] and self._received[n, c])
        if saved <= 0:
            return 0.0
        return saved / size if size else float("inf")

    def take(self, changes: list[Cell]) -> None:
        columns = sorted({column for _, column in changes})
        routes = self._routes_of(columns)
        self._latencies[routes] = self._flip(changes, columns, routes)
        for node, column in changes:
            sign = 1 if self.holds[node, column] else -1
            self._used[node] += sign * int(self._size[column])
            self._copies[column] += sign
            if sign > 0 and self._received[node, column]:
                self._spent_copies += 1
                self._spent_bytes += int(self._size[column])

    def _change(self, routes: Int64, before: Float64, after: Float64) -> float:
        rate = self._problem.route_rate[routes]
        unserved = np.isinf(before) & np.isinf(after)
        with np.errstate(invalid="ignore"):
            saved = np.where(unserved, 0.0, before - after)
        return float(np.where(rate > 0, rate, 0.0) @ np.where(rate > 0, saved, 0.0)) if len(routes) else 0.0

    def _flip(self, changes: list[Cell], columns: list[int], routes: Int64) -> Float64:
        """float64[len(routes)]: D of the routes once `changes` are made; they, and the costs, stay made."""
        self._unflip(changes)
        problem = self._problem
        width = np.empty((problem.nodes, 1))
        for column in columns:
            evaluation.serving_costs(
                self._view,
                problem.latency_seconds,
                problem.origin_latency_seconds,
                -1,
                column,
                column + 1,
                width,
            )
            self._costs[:, column] = width[:, 0]
        out = np.empty(len(routes))
        evaluation.route_latencies(
            self._code,
            self._view,
            problem.latency_seconds,
            self._nearest,
            problem.origin_latency_seconds,
            self._costs,
            problem.block_offset,
            _frozen(problem.route_node[routes]),
            _frozen(problem.route_block[routes]),
            _frozen(problem.route_experts[routes]),
            out,
        )
        return out

    def _unflip(self, changes: list[Cell]) -> None:
        for cell in changes:
            self.holds[cell] ^= 1

    def _routes_of(self, columns: list[int]) -> Int64:
        parts = [self._routes[self._route_offset[c] : self._route_offset[c + 1]] for c in columns]
        found: Int64 = np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int64)
        return found


def _frozen(part: Int32) -> Int32:
    """As the kernels are compiled for: the arrays of a problem are read-only."""
    part.flags.writeable = False
    return part


def _routes_by_column(problem: PlacementProblem) -> tuple[Int64, Int64]:
    """Routes that call each column, in order of columns, and where each column's begin, int64[E + 1]."""
    given = problem.route_experts >= 0
    route = np.nonzero(given)[0].astype(np.int64)
    columns = (problem.block_offset[problem.route_block][:, None] + problem.route_experts)[given]
    order = np.argsort(columns, kind="stable")
    offset = np.zeros(problem.experts + 1, np.int64)
    np.cumsum(np.bincount(columns, minlength=problem.experts), out=offset[1:])
    return route[order], offset
