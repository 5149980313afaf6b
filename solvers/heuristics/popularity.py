"""Baselines, expressed on the same instance; each returns a feasible placement or raises `NoPlacement`.

`stopping` ends the repair alone, as in `make_feasible`.
"""

from __future__ import annotations

import numpy as np

from solvers.cost.evaluate import total_cost
from solvers.feasible.packing import pack, packable_bytes, packs_within_bytes
from solvers.feasible.repair import allowance, allowed_at, make_feasible
from solvers.kernels import packing as kernel
from solvers.problem import Float64, PlacementProblem, UInt8
from solvers.stopping import Stopping, never
from solvers.traffic import Traffic


def uniform(problem: PlacementProblem, traffic: Traffic, stopping: Stopping = never) -> UInt8:
    """Round robin: the experts in order, each `min_replicas` times (once where that is 0), each replica on
    the next node in turn that may hold it and has the memory. O(E N)."""
    allowed = allowance(problem)
    holds = (allowed == 1).astype(np.uint8)
    free = packable_bytes(problem) - holds.astype(np.int64) @ problem.column_bytes
    turn = 0
    for column, size in enumerate(problem.column_bytes.tolist()):
        wanted = max(1, problem.min_replicas) - int(holds[:, column].sum())
        for _ in range(max(0, wanted)):
            for step in range(problem.nodes):
                node = (turn + step) % problem.nodes
                if not holds[node, column] and allowed[node, column] == 0 and free[node] >= size:
                    holds[node, column] = 1
                    free[node] -= size
                    turn = node + 1
                    break
    return make_feasible(problem, traffic, holds, stopping)


def local_popularity(problem: PlacementProblem, traffic: Traffic, stopping: Stopping = never) -> UInt8:
    """Each node holds the experts its own tokens call most often per byte, while its memory lasts; then
    coverage is repaired, which may displace the least useful. O(N E log E)."""
    holds = (allowance(problem) == 1).astype(np.uint8)
    for node in range(problem.nodes):
        fill_by_popularity(problem, traffic, node, holds)
    return make_feasible(problem, traffic, holds, stopping)


def fill_by_popularity(problem: PlacementProblem, traffic: Traffic, node: int, holds: UInt8) -> None:
    """Adds to row `node` of holds uint8[N, E] what its own tokens call most often per byte and still fits.
    O(E log E)."""
    _fill_row(problem, traffic.activity[node], node, holds)


def filled_up(problem: PlacementProblem, traffic: Traffic, holds: UInt8) -> UInt8:
    """A feasible placement with, in the memory that it leaves free, what each node's own tokens call most
    often per byte; `holds` itself where that does not cost less, which is where moving costs more than it
    saves. O(N E log E) and two evaluations."""
    full = holds.copy()
    free = packable_bytes(problem) - holds.astype(np.int64) @ problem.column_bytes
    bytes_suffice = packs_within_bytes(problem)
    for node in np.flatnonzero(free >= problem.column_bytes.min(initial=1)).tolist():
        fill_by_popularity(problem, traffic, node, full)
        columns = np.flatnonzero(full[node]).astype(np.int64)
        if not bytes_suffice and pack(problem, node, columns) is None:
            full[node] = holds[node]
    return full if total_cost(problem, full) < total_cost(problem, holds) else holds


def global_popularity(problem: PlacementProblem, traffic: Traffic, stopping: Stopping = never) -> UInt8:
    """Each node holds the experts that all nodes together call most often per byte, while its memory lasts:
    one ranking for everybody; then coverage is repaired. O(N E log E)."""
    holds = (allowance(problem) == 1).astype(np.uint8)
    calls = traffic.activity.sum(axis=0)
    for node in range(problem.nodes):
        _fill_row(problem, calls, node, holds)
    return make_feasible(problem, traffic, holds, stopping)


def redundance(problem: PlacementProblem, traffic: Traffic, stopping: Stopping = never) -> UInt8:
    """`uniform`, then replicas in the memory left over: the experts in the order of their calls by all
    nodes, each on the node with the most free memory that has it not yet; again from the first, until
    nothing fits. O(N E) per pass, at most N passes."""
    room = _Room(problem, uniform(problem, traffic, stopping))
    calls = traffic.activity.sum(axis=0)
    ranked = [e for e in np.argsort(-calls, kind="stable").tolist() if calls[e] > 0]
    while ranked:
        ranked = [e for e in ranked if room.add_where_roomiest(e)]
    return room.holds


def random(
    problem: PlacementProblem, traffic: Traffic, generator: np.random.Generator, stopping: Stopping = never
) -> UInt8:
    """Every expert once on a random node with room, then random replicas until no memory is left; the seed
    fixes both. O(N E)."""
    room = _Room(problem, (allowance(problem) == 1).astype(np.uint8))
    for column in generator.permutation(problem.experts).tolist():
        if not room.holds[:, column].any():
            any(room.add(node, column) for node in generator.permutation(problem.nodes).tolist())
    for pair in generator.permutation(problem.nodes * problem.experts).tolist():
        room.add(*divmod(pair, problem.experts))
    return make_feasible(problem, traffic, room.holds, stopping)


class _Room:
    """A placement that grows by one replica at a time and always packs where it did at first."""

    def __init__(self, problem: PlacementProblem, holds: UInt8) -> None:
        self.holds = holds
        self._problem = problem
        self._allowed = allowance(problem)
        self._free = packable_bytes(problem) - holds.astype(np.int64) @ problem.column_bytes
        self._bytes_suffice = packs_within_bytes(problem)

    def add(self, node: int, column: int) -> bool:
        """Holds the expert there too, if it is absent, allowed and fits."""
        size = int(self._problem.column_bytes[column])
        if self.holds[node, column] or self._allowed[node, column] != 0 or size > self._free[node]:
            return False
        self.holds[node, column] = 1
        if not self._bytes_suffice:
            columns = np.flatnonzero(self.holds[node]).astype(np.int64)
            if pack(self._problem, node, columns) is None:
                self.holds[node, column] = 0
                return False
        self._free[node] -= size
        return True

    def add_where_roomiest(self, column: int) -> bool:
        order = np.argsort(-self._free, kind="stable").tolist()
        return any(self.add(node, column) for node in order)


def _fill_row(problem: PlacementProblem, calls: Float64, node: int, holds: UInt8) -> None:
    """Adds to row `node` the experts of most calls float64[E] per byte that still fit."""
    size = problem.column_bytes
    free = int(packable_bytes(problem)[node] - holds[node].astype(np.int64) @ size)
    wanted = np.flatnonzero((calls > 0) & (allowed_at(problem, node) == 0) & (holds[node] == 0))
    order = wanted[np.argsort(-calls[wanted] / size[wanted], kind="stable")]
    kernel.fill_in_order(order, size, free, holds[node])
