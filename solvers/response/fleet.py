"""Best responses in a large fleet: what `decomposition.BestResponse` does, at a cost per node that does not
grow with the fleet.

A node's response needs what every call costs without it, and only of nodes that it could serve better than
others do. So the two nearest holders of every expert are kept for every node, in step with the placement, and
with them an upper bound on what the calls of each node cost. Tables of blocks of more than `exact_limit`
experts come from greedy-drop alone, whose sets are nested; the knapsack over blocks, where its table would be
large, from their hulls, filled up.
"""

from __future__ import annotations

import numpy as np

from solvers.chunks import even_ranges, ranges, side_by_side
from solvers.cost.coupling import FORMS
from solvers.cost.evaluate import nearest_nodes, opening_costs
from solvers.feasible.packing import pack, packable_bytes, packs_within_bytes
from solvers.feasible.repair import allowance, finite_fallback
from solvers.kernels import fleet as kernel
from solvers.kernels import nearest as nearest_kernel
from solvers.params import CertifiedParams
from solvers.problem import Float32, Float64, Int8, Int16, Int32, Int64, PlacementProblem, UInt8
from solvers.response.knapsack import choose_counts, hull_counts
from solvers.tolerances import SAME_COST_SINGLE
from solvers.traffic import Traffic

_MANY_CELLS = 2_000_000  # of the knapsack of one node, above which it is solved by hulls
MOST_NODES = 2**15 - 1  # whose indices are kept in 16 bits


class FleetResponse:
    """Rows of one placement improved node by node, the others fixed.

    `holds` uint8[N, E] is the placement, feasible if it was at first. Under `colocated` without an origin the
    responses are those of `slowest`. Memory: 15 bytes per node and expert beside the problem's own.
    """

    def __init__(
        self, problem: PlacementProblem, traffic: Traffic, holds: UInt8, params: CertifiedParams | None = None
    ) -> None:
        self._problem = problem
        self._params = params or CertifiedParams()
        self.work = 0  # in units of about 10 ns
        self._traffic = traffic
        form = FORMS[FORMS[problem.coupling].with_origin(problem.has_origin)]
        self._hosting, self._code = form.hosted, form.code
        self._fallback = finite_fallback(problem)
        self._nearest = nearest_nodes(problem)
        self._capacity = packable_bytes(problem)
        self._always_packs = packs_within_bytes(problem)
        self._allowed: Int8 = allowance(problem)
        self._horizon = problem.horizon_seconds
        self._opening = None if problem.horizon_seconds is None else opening_costs(problem)
        nodes, experts, blocks = problem.nodes, problem.experts, problem.blocks
        number = np.diff(traffic.start)
        block = np.repeat(np.arange(blocks), number)
        self._edges = np.searchsorted(
            block * np.int64(nodes) + traffic.node, np.arange(blocks * nodes + 1)
        ).astype(np.int64)
        self._edges = self._edges[np.arange(blocks)[:, None] * nodes + np.arange(nodes + 1)]
        self._active: UInt8 = np.ascontiguousarray((traffic.activity > 0.0).T).astype(np.uint8)
        self._column = problem.block_offset[block]
        self._values_start: Int64 = problem.block_offset + np.arange(blocks + 1)
        size = problem.experts_per_block.astype(np.int64)
        tables = np.where(size <= self._params.exact_limit, size * (size + 1), 0)
        self._exact: Int64 = np.concatenate(([0], np.cumsum(tables))).astype(np.int64)
        self._table_work = int((size**2).sum()) // 4
        # a node's own calls, and its neighbours', are what its table is made of
        self._blocks = ranges(number + size**2)
        self._worst: Float32 = np.empty((blocks, nodes), np.float32)
        shape = (experts, nodes)
        self._costs, self._others = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self._hosts, self._seconds = np.empty(shape, np.int16), np.empty(shape, np.int16)
        routes = len(traffic.rate) if self._hosting else 0
        self._route_costs, self._route_others = np.empty(routes, np.float32), np.empty(routes, np.float32)
        self._route_hosts, self._route_seconds = np.empty(routes, np.int16), np.empty(routes, np.int16)
        self.take(holds)

    @property
    def holds(self) -> UInt8:
        """The placement, uint8[N, E]; a copy."""
        return np.ascontiguousarray(self._held_by.T)

    def take(self, holds: UInt8) -> None:
        """Goes on from another placement. O(N E sqrt(N))."""
        problem = self._problem
        self._held_by: UInt8 = np.ascontiguousarray(holds.T)
        self._replicas = holds.sum(axis=0, dtype=np.int64)
        offset = np.empty(problem.experts + 1, np.int64)
        holders = nearest_kernel.holders_of(holds, offset)

        def some(first: int, last: int) -> None:
            nearest_kernel.two_nearest(
                self._held_by,
                holders,
                offset,
                self._nearest,
                problem.latency_seconds,
                self._fallback,
                first,
                last,
                self._costs,
                self._others,
                self._hosts,
                self._seconds,
            )

        side_by_side(some, even_ranges(problem.experts, problem.nodes))
        if self._hosting:
            routes = len(self._traffic.rate)
            side_by_side(
                lambda first, last: kernel.route_hosts(first, last, *self._host_arguments()),
                even_ranges(routes, problem.nodes),
            )
        self.refresh()

    def refresh(self) -> None:
        """Makes the upper bounds on the costs of calls exact again. O(N E)."""
        kernel.worst_calls(self._problem.block_offset, self._active, self._costs, self._worst)

    def respond(self, node: int) -> bool:
        """Replaces the node's row by a better one; False where it stays. Experts whose other replicas are
        fewer than `min_replicas` stay where they are. O(B E_b^2) and O(routes K^2) of whom it could serve."""
        problem = self._problem
        row = np.ascontiguousarray(self._held_by[:, node])
        state = self._allowed[node].copy()
        state[(row == 1) & (self._replicas - row < problem.min_replicas)] = 1
        values = np.empty(int(self._values_start[-1]))
        level: Int32 = np.zeros(problem.experts, np.int32)
        sets = np.empty(int(self._exact[-1]), np.uint8)
        own = np.empty(problem.blocks)
        opening: Float64 = (
            np.zeros(problem.experts)
            if self._opening is None or self._horizon is None
            else self._opening[node] / self._horizon
        )

        def some(first: int, last: int) -> int:
            return kernel.respond(
                self._code,
                node,
                first,
                last,
                problem.block_offset,
                self._edges,
                self._traffic.experts,
                self._traffic.rate,
                problem.latency_seconds,
                self._costs,
                self._others,
                self._hosts,
                self._route_costs,
                self._route_others,
                self._route_hosts,
                self._worst,
                state,
                opening,
                row,
                self._exact,
                values,
                level,
                sets,
                own,
            )

        self.work += self._table_work + sum(side_by_side(some, self._blocks))
        new = self._best_row(node, row, values, level, sets, own)
        if new is None or (new == row).all():
            return False
        per_block = np.add.reduceat(new, problem.block_offset[:-1], dtype=np.int64)
        per_block[problem.experts_per_block == 0] = 0
        number = np.add.reduceat(new != row, problem.block_offset[:-1])
        changed = (number > 0) & (problem.experts_per_block > 0)
        reached = np.where(changed, values[self._values_start[:-1] + per_block], own)
        old, gained = float(own.sum()), float(reached.sum())
        if gained <= old + SAME_COST_SINGLE * max(abs(old), abs(gained)):
            return False
        self._replace(node, row, new)
        return True

    def _best_row(
        self, node: int, row: UInt8, values: Float64, level: Int32, sets: UInt8, own: Float64
    ) -> UInt8 | None:
        problem = self._problem
        capacity = int(self._capacity[node])
        held = np.add.reduceat(row, problem.block_offset[:-1], dtype=np.int64)
        while True:
            counts = self._counts(values, capacity)
            if counts is None:
                return None
            new = (level <= np.repeat(counts, problem.experts_per_block)).astype(np.uint8)
            for b in np.flatnonzero(np.diff(self._exact)).tolist():
                first, last = problem.block_offset[b : b + 2].tolist()
                begin = int(self._exact[b]) + int(counts[b]) * (last - first)
                new[first:last] = sets[begin : begin + last - first]
            reached = values[self._values_start[:-1] + counts]
            # an equally good set moves nothing
            same = (held == counts) & (own >= reached - SAME_COST_SINGLE * np.abs(reached))
            stays = np.repeat(same, problem.experts_per_block)
            new[stays] = row[stays]
            if self._always_packs:
                return new
            columns = np.flatnonzero(new).astype(np.int64)
            if pack(problem, node, columns) is not None:
                return new
            used = int(problem.column_bytes[columns].sum())
            capacity = min(used - 1, int(capacity * 0.98))

    def _counts(self, values: Float64, capacity: int) -> Int32 | None:
        """Experts per block within so many bytes; None where what must be held does not fit."""
        size = self._problem.expert_bytes
        units = min(capacity, int(self._problem.column_bytes.sum())) // max(1, int(np.gcd.reduce(size)))
        if units * len(values) <= _MANY_CELLS:
            return choose_counts(values, self._values_start, size, capacity, self._params.eps)
        counts = hull_counts(values, self._values_start, size, capacity)
        if counts is not None:
            room = capacity - int((counts * size).sum())
            kernel.fill_up(values, self._problem.block_offset, size, room, counts)
        return counts

    def _replace(self, node: int, row: UInt8, new: UInt8) -> None:
        problem = self._problem
        self._replicas += new.astype(np.int64) - row
        kernel.change_row(
            node,
            new,
            self._held_by,
            problem.column_block,
            problem.latency_seconds,
            self._fallback,
            self._active,
            self._costs,
            self._others,
            self._hosts,
            self._seconds,
            self._worst,
        )
        if self._hosting:
            start = self._traffic.start
            touched = np.unique(problem.column_block[new != row]).tolist()
            for block in touched:
                kernel.change_hosts(node, int(start[block]), int(start[block + 1]), *self._host_arguments())

    def _host_arguments(
        self,
    ) -> tuple[Int64, Int32, Int32, UInt8, Int64, Float64, Float64, Float32, Float32, Int16, Int16]:
        problem, traffic = self._problem, self._traffic
        return (
            self._column,
            traffic.node,
            traffic.experts,
            self._held_by,
            self._nearest,
            problem.latency_seconds,
            problem.origin_latency_seconds,
            self._route_costs,
            self._route_others,
            self._route_hosts,
            self._route_seconds,
        )
