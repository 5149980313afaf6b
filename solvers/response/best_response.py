"""Best responses by tables: what one node should hold while the others hold what they hold.

The serving cost of one node, as a function of its own row, is a sum over blocks. V_b(k) is the best saving of
k experts of block b. A knapsack over the blocks chooses how many experts each block gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from solvers.chunks import ranges, side_by_side
from solvers.cost.coupling import FORMS
from solvers.cost.evaluate import nearest_nodes, opening_costs
from solvers.feasible.packing import pack, packable_bytes, packs_within_bytes
from solvers.feasible.repair import (
    allowance,
    finite_fallback,
)
from solvers.kernels import evaluation, tables, terms
from solvers.params import SgdParams
from solvers.problem import Float64, Int8, Int32, Int64, PlacementProblem, UInt8
from solvers.response.knapsack import choose_counts
from solvers.stopping import Stopping
from solvers.tolerances import SAME_COST
from solvers.traffic import Traffic

Subsets = tuple[Int32, Int32, Float64, int]  # members int32[M, K], size int32[M], weight float64[M], how many
_WORK_PER_TABLE, _WORK_PER_ROUTE, _WORK_PER_MEMBER = 2000, 3, 15


@dataclass(frozen=True, eq=False)
class Memory:
    """What a `BestResponse` knows about one placement."""

    tables: dict[tuple[int, int], _Table]
    own_value: dict[tuple[int, int], float]
    changed_at: Int64


class Table(Protocol):
    """V_b(k) of one node and block, with the set behind each."""

    @property
    def values(self) -> Float64:
        """float64[E_b + 1], -inf where no set of so many is possible."""

    def chosen(self, count: int, experts: int) -> UInt8:
        """The best set of `count` experts, uint8[E_b]."""


@dataclass(frozen=True, eq=False)
class _Table:
    """A `Table` that is valid while no other node changes in the block."""

    made_at: int
    state: bytes  # of the block's experts: which are forced or forbidden
    values: Float64
    sets: UInt8  # packed bits, [E_b + 1, ceil(E_b / 8)]

    def chosen(self, count: int, experts: int) -> UInt8:
        return np.unpackbits(self.sets[count], count=experts)


class Scratch:
    """Room for the terms of one block, for one thread."""

    def __init__(self, nodes: int, experts: int, terms: int, width: int, subsets: int) -> None:
        self.term_experts: Int32 = np.empty((terms, width), np.int32)
        self.term_size: Int32 = np.empty(terms, np.int32)
        self.term_weight: Float64 = np.empty(terms)
        self.costs: Float64 = np.empty((nodes, experts))
        self.subsets: Float64 = np.empty(subsets)


class BestResponse:
    """The best set of one node with the other nodes fixed: tables per block, then a knapsack over blocks.

    For `colocated` with an origin, and for `sum`, a sweep over all nodes from the empty placement reaches
    alpha / (1 + alpha) of the optimal saving where every subproblem is solved within alpha: 1/2 with exact
    tables (blocks of at most `exact_limit` experts), (1 - eps) / (2 - eps) with the value-scaled knapsack;
    coverage, which binds only after that sweep, can take part of it away. For `slowest` no constant exists.
    """

    def __init__(
        self,
        problem: PlacementProblem,
        traffic: Traffic,
        params: SgdParams,
    ) -> None:
        self._problem = problem
        self.traffic = traffic
        self._params = params
        form = FORMS[problem.coupling]
        self._coupling = form.code
        self.work = 0  # units of about 10 ns, counted, so that the same search ends at the same point
        self.saved = 0.0  # by all responses, seconds per second of the traffic it looks at
        self._allowed: Int8 = allowance(problem)
        self._fallback = finite_fallback(problem)
        self._nearest = nearest_nodes(problem)
        self._capacity = packable_bytes(problem)
        self._always_packs = packs_within_bytes(problem)
        self._opening = opening_costs(problem)
        if problem.horizon_seconds is None:
            self._opening[:] = 0.0
        else:
            self._opening /= problem.horizon_seconds
        width = max(1, traffic.experts.shape[1])
        most_routes = int(np.diff(traffic.start).max(initial=0))
        most_terms = most_routes * form.terms(width, problem.has_origin)
        # whether sets may save more than their terms say
        alone = form.hosted and not problem.has_origin
        self._terms_are_less = alone and width > terms.EXACT_MEMBERS
        largest = int(problem.experts_per_block.max(initial=0))
        small = problem.experts_per_block[problem.experts_per_block <= params.exact_limit]
        self._room = (problem.nodes, largest, most_terms, width, 2 ** int(small.max(initial=0)))
        self._scratches: list[Scratch] = []
        self._values_start = np.zeros(problem.blocks + 1, np.int64)
        np.cumsum(problem.experts_per_block + 1, out=self._values_start[1:])
        self._tables: dict[tuple[int, int], _Table] = {}
        self._own_value: dict[tuple[int, int], float] = {}
        self._changed_at = np.zeros((problem.nodes, problem.blocks), np.int64)
        self._clock = 1
        self._terms_made: list[int] = []  # since `work` was last raised

    def restart(self) -> None:
        """Forgets what it knows about the placement it was last called with."""
        self._clock += 1
        self._changed_at[:] = self._clock
        self._tables.clear()
        self._own_value.clear()

    def remember(self) -> Memory:
        """What it knows now, to be recalled when the placement is again as now. O(N B)."""
        return Memory(dict(self._tables), dict(self._own_value), self._changed_at.copy())

    def recall(self, memory: Memory) -> None:
        """Takes up again what it knew. O(N B)."""
        self._tables = dict(memory.tables)
        self._own_value = dict(memory.own_value)
        self._changed_at[:] = memory.changed_at

    def replaced(self, before: UInt8, after: UInt8) -> None:
        """Is told that someone else changed the placement uint8[N, E]. O(N E)."""
        self._clock += 1
        offset = self._problem.block_offset
        differs = before != after
        for block in np.unique(self._problem.column_block[differs.any(axis=0)]).tolist():
            changed = differs[:, offset[block] : offset[block + 1]].any(axis=1)
            for node in np.flatnonzero(changed).tolist():
                self._changed_at[node, block] = self._clock
                self._tables.pop((node, block), None)

    def respond(self, node: int, holds: UInt8, enforce: bool, stopping: Stopping) -> bool:
        """Replaces row `node` of holds uint8[N, E] by a better one; False where it stays or `stopping` came
        first.

        With `enforce`, experts whose other replicas are fewer than `min_replicas` stay where they are. The
        row is replaced only where the saving less the cost of moving grows; O(N^2 E + routes K^2 + tables +
        knapsack).
        """
        problem = self._problem
        state = self._allowed[node].copy()
        if enforce:
            others = holds.sum(axis=0, dtype=np.int64) - holds[node]
            state[(others < problem.min_replicas) & (holds[node] == 1)] = 1
        tables = self._all_tables(node, holds, state, stopping)
        if tables is None:
            return False
        found, own = tables
        values = np.concatenate([table.values for table in found] or [np.zeros(0)])
        row = self._best_row(node, holds[node], values, own, found)
        if row is None or (row == holds[node]).all():
            return False
        changed = np.unique(problem.column_block[row != holds[node]])
        count = np.bincount(problem.column_block[row == 1], minlength=problem.blocks)
        reached = own.copy()
        reached[changed] = values[self._values_start[changed] + count[changed]]
        old, new = float(own.sum()), float(reached.sum())
        respects = bool(((state <= 0) | (holds[node] == 1)).all()) and not (holds[node] & (state < 0)).any()
        respects &= int(problem.column_bytes[holds[node] == 1].sum()) <= int(self._capacity[node])
        if respects and new <= old + SAME_COST * max(abs(old), abs(new)):
            return False
        holds[node] = row
        self.saved += new - old
        self._clock += 1
        self._changed_at[node, changed] = self._clock
        for b in changed.tolist():
            if self._terms_are_less:
                self._tables.pop((node, b), None)  # what the new set saves is computed with its next table
            else:
                self._own_value[node, b] = float(reached[b])
        return True

    def _best_row(
        self, node: int, row: UInt8, values: Float64, own: Float64, found: Sequence[Table]
    ) -> UInt8 | None:
        problem = self._problem
        capacity = int(self._capacity[node])
        while True:
            counts = self._choose_counts(node, values, capacity)
            if counts is None:
                return None
            new = row.copy()
            value = values[self._values_start[:-1] + counts]
            held = np.bincount(problem.column_block[row == 1], minlength=problem.blocks)
            # an equally good set moves nothing
            replaced = (held != counts) | (own < value - SAME_COST * np.abs(value))
            for b in np.flatnonzero(replaced).tolist():
                first, last = problem.block_offset[b : b + 2].tolist()
                new[first:last] = found[b].chosen(int(counts[b]), last - first)
            if self._always_packs:
                return new
            columns = np.flatnonzero(new).astype(np.int64)
            if pack(problem, node, columns) is not None:
                return new
            used = int(problem.column_bytes[columns].sum())
            capacity = min(used - 1, int(capacity * 0.98))

    def _all_tables(
        self, node: int, holds: UInt8, state: Int8, stopping: Stopping
    ) -> tuple[Sequence[Table], Float64] | None:
        """The tables of all blocks of a node, and what it holds now is worth in each, float64[B]; None where
        `stopping` came first. Those that are still valid are kept, the others made on several threads."""
        blocks = self._problem.blocks
        offset = self._problem.block_offset
        changed = self._changed_at
        latest = np.maximum(changed[:node].max(axis=0, initial=0), changed[node + 1 :].max(axis=0, initial=0))
        stale = []
        for b in range(blocks):
            known = self._tables.get((node, b))
            demanded = state[offset[b] : offset[b + 1]].tobytes()
            if known is None or known.state != demanded or latest[b] > known.made_at:
                stale.append(b)
        routes = np.diff(self.traffic.start)[stale]
        parts = ranges(routes * self._room[3] ** 2)
        while len(self._scratches) < len(parts):
            self._scratches.append(Scratch(*self._room))
        scratch_of = {first: self._scratches[i] for i, (first, _) in enumerate(parts)}

        def some(first: int, last: int) -> bool:
            for b in stale[first:last]:
                if stopping():
                    return False
                self._make_table(node, b, holds, state, scratch_of[first])
            return True

        if stale:
            finished = side_by_side(some, parts)
            self.work += _WORK_PER_TABLE * len(stale) + int(routes.sum()) * _WORK_PER_ROUTE
            self.work += sum(self._terms_made) * self._room[3] * _WORK_PER_MEMBER
            self._terms_made.clear()
            if not all(finished):
                return None
        own = np.array([self._own_value[node, b] for b in range(blocks)])
        return [self._tables[node, b] for b in range(blocks)], own

    def _make_table(self, node: int, block: int, holds: UInt8, state: Int8, scratch: Scratch) -> None:
        problem, traffic = self._problem, self.traffic
        first, last = problem.block_offset[block : block + 2].tolist()
        experts = last - first
        evaluation.serving_costs(
            holds, problem.latency_seconds, self._fallback, node, first, last, scratch.costs
        )
        modular = -self._opening[node, first:last]
        count = terms.build_terms(
            self._coupling,
            node,
            int(traffic.start[block]),
            int(traffic.start[block + 1]),
            traffic.node,
            traffic.experts,
            traffic.rate,
            scratch.costs,
            problem.latency_seconds,
            self._nearest,
            problem.origin_latency_seconds,
            first,
            holds,
            modular,
            scratch.term_experts,
            scratch.term_size,
            scratch.term_weight,
        )
        self._terms_made.append(count)
        subsets = (scratch.term_experts, scratch.term_size, scratch.term_weight, count)
        values = np.empty(experts + 1)
        sets = np.zeros((experts + 1, experts), np.uint8)
        key = (node, block)
        self._fill_table(key, state[first:last], modular, subsets, scratch.subsets, values, sets)
        if self._terms_are_less:
            held = holds[node, first:last] == 1
            self._own_value[key] = self._row_saving(node, block, holds, scratch) - float(
                self._opening[node, first:last][held].sum()
            )
        else:
            row = np.ascontiguousarray(holds[node, first:last])
            self._own_value[key] = float(tables.value_of(row, modular, *subsets))
        self._tables[key] = _Table(
            self._clock, state[first:last].tobytes(), values, np.packbits(sets, axis=1)
        )

    def _row_saving(self, node: int, block: int, holds: UInt8, scratch: Scratch) -> float:
        problem, traffic = self._problem, self.traffic
        return float(
            terms.row_saving(
                node,
                int(traffic.start[block]),
                int(traffic.start[block + 1]),
                traffic.node,
                traffic.experts,
                traffic.rate,
                scratch.costs,
                problem.latency_seconds,
                self._nearest,
                int(problem.block_offset[block]),
                holds,
                problem.origin_latency_seconds,
            )
        )

    def _fill_table(
        self,
        key: tuple[int, int],
        state: Int8,
        modular: Float64,
        subsets: Subsets,
        scratch: Float64,
        values: Float64,
        sets: UInt8,
    ) -> None:
        """Writes values float64[E_b + 1] and sets uint8[E_b + 1, E_b] of (node, block) `key`; scratch
        float64[2^E_b] where all subsets are tried."""
        experts = len(modular)
        if subsets[3] > 0 and experts <= self._params.exact_limit:
            tables.exact_table(state, modular, *subsets, scratch, values, sets)
        else:
            steps = self._params.exchange_steps if experts <= self._params.exchange_limit else 0
            tables.greedy_table(state, modular, *subsets, steps, values, sets)

    def _choose_counts(self, node: int, values: Float64, capacity: int) -> Int32 | None:
        """Experts per block of `node`, from the tables of all blocks end to end; None where none fits."""
        return choose_counts(
            values, self._values_start, self._problem.expert_bytes, capacity, self._params.eps
        )
