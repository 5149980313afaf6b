"""Best responses where every call counts by itself: what a node's experts save are numbers that add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from solvers.kernels import nearest_two as kernel
from solvers.params import SgdParams
from solvers.problem import Float64, Int8, Int32, Int64, PlacementProblem, UInt8
from solvers.response.best_response import BestResponse, Memory, Table
from solvers.stopping import Stopping
from solvers.traffic import Traffic


@dataclass(frozen=True, eq=False)
class _Ranking:
    """A `Table` whose best sets are those of the highest ranks; order int64[E_b]."""

    values: Float64
    order: Int64

    def chosen(self, count: int, experts: int) -> UInt8:
        held = np.zeros(experts, np.uint8)
        held[self.order[:count]] = 1
        return held


class SingleResponse(BestResponse):
    """`BestResponse` under `sum`, or for routes of one expert, without any routes: the activity says it all.

    It keeps the two nearest holders of every expert, from every node, so that a response is O(N E + E log E)
    and O(N^2) for every expert whose holders changed.
    """

    def __init__(self, problem: PlacementProblem, traffic: Traffic, params: SgdParams) -> None:
        nothing = Traffic(
            start=np.zeros(problem.blocks + 1, np.int64),
            node=traffic.node[:0],
            experts=traffic.experts[:0],
            rate=traffic.rate[:0],
            activity=traffic.activity,
        )
        super().__init__(problem, nothing, params)
        self._seen: UInt8 = np.zeros((problem.nodes, problem.experts), np.uint8)
        self._best: Float64 = np.full(self._seen.shape, np.inf)
        self._second: Float64 = np.full(self._seen.shape, np.inf)
        self._who: Int32 = np.full(self._seen.shape, -1, np.int32)

    def restart(self) -> None:
        """Nothing is forgotten: what changed is seen at the next response."""

    def remember(self) -> Memory:
        return Memory({}, {}, self._changed_at)

    def recall(self, memory: Memory) -> None:
        """As `restart`."""

    def replaced(self, before: UInt8, after: UInt8) -> None:
        """As `restart`."""

    def _all_tables(
        self, node: int, holds: UInt8, state: Int8, stopping: Stopping
    ) -> tuple[Sequence[Table], Float64] | None:
        if stopping():
            return None
        problem = self._problem
        changed = np.flatnonzero((holds != self._seen).any(axis=0))
        latency = problem.latency_seconds
        kernel.find_two(changed, holds, latency, self._best, self._second, self._who)
        self._seen[:, changed] = holds[:, changed]
        gain = -self._opening[node]
        kernel.replica_gains(
            node,
            self.traffic.activity,
            latency,
            self._fallback,
            self._best,
            self._second,
            self._who,
            gain,
        )
        self.work += (problem.nodes * problem.experts + len(changed) * problem.nodes**2) // 4
        offset, blocks = problem.block_offset, problem.blocks
        values = np.empty(problem.experts + blocks)
        order = np.empty(problem.experts, np.int64)
        kernel.rank(offset, gain, state, values, order)
        own: Float64 = np.zeros(blocks)
        np.add.at(own, problem.column_block, np.where(holds[node] == 1, gain, 0.0))
        edges = offset.tolist()
        ranked = [
            _Ranking(values[edges[b] + b : edges[b + 1] + b + 1], order[edges[b] : edges[b + 1]])
            for b in range(blocks)
        ]
        return ranked, own
