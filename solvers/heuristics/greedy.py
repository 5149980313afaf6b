"""`greedy`: the replica that saves most per byte, one after another (of SlimCaching, arXiv 2507.06567, for
K = 1).

*Paper*: with single calls the saving is monotone submodular, and a greedy algorithm maximises it under
knapsack constraints. *Ours*: lazy evaluation (CELF), cost-benefit against the best single replica, partial
enumeration of seeds, and what happens for K >= 2.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from solvers.cost.coupling import FORMS
from solvers.cost.evaluate import opening_costs, total_cost
from solvers.feasible.packing import pack
from solvers.feasible.repair import NoPlacement, allowance, finite_fallback, make_feasible
from solvers.heuristics.popularity import fill_by_popularity
from solvers.kernels import evaluation
from solvers.kernels import greedy as kernel
from solvers.params import GreedyParams
from solvers.problem import Float64, Int32, Int64, PlacementProblem, UInt8
from solvers.stopping import Stopping
from solvers.tolerances import SAME_COST
from solvers.traffic import Traffic, calls_are_single

_CHUNK = 256  # replicas added between two questions to `stopping`


def greedy(
    problem: PlacementProblem,
    traffic: Traffic,
    params: GreedyParams,
    stopping: Stopping,
    report: Callable[[str, UInt8], None],
) -> UInt8:
    """The best of: greedy by saving per byte; the single replica that saves most; and, with `enumerate` > 0,
    greedy from every set of up to so many replicas that fits. Each then made feasible.

    The saving is that of J over holding nothing, less M / H. For `sum`, and for single-expert routes, gains
    only shrink, so they are evaluated lazily. There, without coverage to keep or moves to pay and with one
    size of experts, the saving is at least 1/2 of the best (matroid, Fisher, Nemhauser, Wolsey 1978); for
    one node, with `enumerate` = 3 and any sizes, at least 1 - 1/e of it (Sviridenko 2004); for several nodes
    1 - 1/e does not hold. For K >= 2 under `slowest` and `colocated` gains grow too, all are kept up to
    date, and there is no guarantee: where no single replica saves anything, the one that saves single calls
    most is taken. O(N E (N + log N E)) for lazy evaluations that are few per replica, else O(N K calls per
    expert) per replica; times C(N E, `enumerate`) runs. Raises `NoPlacement`.
    """
    search = _Search(problem, traffic)
    pinned = (allowance(problem) == 1).astype(np.uint8)
    holds = search.extend(pinned, stopping)
    if holds is None:
        return make_feasible(problem, traffic, pinned, stopping)
    best = make_feasible(problem, traffic, holds, stopping)
    cost = total_cost(problem, best)
    report("by saving per byte", best)
    for name, seed, extended in search.seeds(pinned, params.enumerate):
        if stopping():
            break
        other = search.extend(seed, stopping) if extended else seed
        if other is None:
            continue
        try:
            other = make_feasible(problem, traffic, other, stopping, needed=False)
        except NoPlacement:
            continue
        reached = total_cost(problem, other)
        if reached < cost:
            best, cost = other, reached
            report(name, best)
    return best


class _Search:
    def __init__(self, problem: PlacementProblem, traffic: Traffic) -> None:
        self._problem = problem
        self._traffic = traffic
        self._allowed = allowance(problem)
        self._fallback = finite_fallback(problem)
        self._opening = opening_costs(problem)
        if problem.horizon_seconds is None:
            self._opening[:] = 0.0
        else:
            self._opening /= problem.horizon_seconds
        device_node, self._device_capacity = problem.devices
        self._device_order: Int64 = np.argsort(device_node, kind="stable").astype(np.int64)
        self._device_start = np.zeros(problem.nodes + 1, np.int64)
        np.cumsum(np.bincount(device_node, minlength=problem.nodes), out=self._device_start[1:])
        routes = traffic.experts
        self._form = FORMS[problem.coupling]
        self._lazy = calls_are_single(problem, traffic)
        if not self._lazy:
            offset = np.repeat(problem.block_offset[:-1], np.diff(traffic.start))
            self._columns: Int32 = np.where(routes >= 0, offset[:, None] + routes, -1).astype(np.int32)
            self._incident_start = np.zeros(problem.experts + 1, np.int64)
            self._incident: Int32 = np.empty(int((routes >= 0).sum()), np.int32)
            kernel.incidence(self._columns, self._incident_start, self._incident)

    def extend(self, seed: UInt8, stopping: Stopping) -> UInt8 | None:
        """`seed` with what greedy adds; None where the seed does not pack."""
        problem = self._problem
        free = self._free(seed)
        if free is None:
            return None
        holds = seed.copy()
        costs = np.empty(holds.shape)
        evaluation.serving_costs(
            holds, problem.latency_seconds, self._fallback, -1, 0, problem.experts, costs
        )
        ended = self._add_lazily if self._lazy else self._add_eagerly
        if not ended(holds, costs, free, stopping):
            for node in range(problem.nodes):
                fill_by_popularity(problem, self._traffic, node, holds)  # no time left to do better
        return holds

    def seeds(self, pinned: UInt8, most: int) -> Iterator[tuple[str, UInt8, bool]]:
        """The best single replica, as it is; then sets of up to `most`, to be extended."""
        gains = self._first_gains(pinned)
        free = self._free(pinned)
        assert free is not None
        room = np.zeros(self._problem.nodes, np.int64)
        np.maximum.at(room, np.repeat(np.arange(self._problem.nodes), np.diff(self._device_start)), free)
        gains[self._problem.column_bytes[None, :] > room[:, None]] = 0.0
        if gains.size and gains.max() > 0:
            single = pinned.copy()
            single.reshape(-1)[int(np.argmax(gains))] = 1
            yield "best single", single, False
        open_pairs = np.flatnonzero((self._allowed == 0) & (pinned == 0)).tolist()
        for count in range(1, most + 1):
            for chosen in itertools.combinations(open_pairs, count):
                seed = pinned.copy()
                seed.reshape(-1)[list(chosen)] = 1
                yield f"from {count} chosen", seed, True

    def _free(self, holds: UInt8) -> Int64 | None:
        """int64[D]: free memory of the devices, node by node; None where `holds` does not pack."""
        free = self._device_capacity.copy()
        for node in np.flatnonzero(holds.any(axis=1)).tolist():
            columns = np.flatnonzero(holds[node]).astype(np.int64)
            device = pack(self._problem, node, columns)
            if device is None:
                return None
            np.subtract.at(free, device, self._problem.column_bytes[columns])
        return free[self._device_order]

    def _first_gains(self, pinned: UInt8) -> Float64:
        problem, traffic = self._problem, self._traffic
        costs, gains = np.empty(pinned.shape), np.zeros(pinned.shape)
        evaluation.serving_costs(
            pinned, problem.latency_seconds, self._fallback, -1, 0, problem.experts, costs
        )
        if self._lazy:
            latency = problem.latency_seconds
            kernel.call_gains(traffic.activity, latency, costs, self._opening, self._allowed, pinned, gains)
            return gains
        self._route_gains(pinned, costs, self._hosts(pinned), gains, np.zeros(pinned.shape))
        return np.where((self._allowed == 0) & (pinned == 0), gains - self._opening, 0.0)

    def _add_lazily(self, holds: UInt8, costs: Float64, free: Int64, stopping: Stopping) -> bool:
        problem, traffic = self._problem, self._traffic
        gains = np.empty(holds.shape)
        latency = problem.latency_seconds
        kernel.call_gains(traffic.activity, latency, costs, self._opening, self._allowed, holds, gains)
        key, item = np.empty(holds.size), np.empty(holds.size, np.int64)
        stamp, version = np.empty(holds.size, np.int32), np.zeros(problem.experts, np.int32)
        count = kernel.heapify(gains, problem.column_bytes, key, item, stamp)
        while count > 0 and not stopping():
            count = kernel.lazy_greedy(
                traffic.activity,
                latency,
                costs,
                self._opening,
                problem.column_bytes,
                self._device_start,
                free,
                holds,
                key,
                item,
                stamp,
                version,
                count,
                _CHUNK,
            )
        return count == 0

    def _add_eagerly(self, holds: UInt8, costs: Float64, free: Int64, stopping: Stopping) -> bool:
        problem, traffic = self._problem, self._traffic
        host = self._hosts(holds)
        gain, alone = np.zeros(holds.shape), np.zeros(holds.shape)
        self._route_gains(holds, costs, host, gain, alone)
        best, item = np.zeros((2, problem.blocks)), np.full((2, problem.blocks), -2, np.int64)
        least = SAME_COST * float(traffic.rate @ self._fallback[traffic.node])
        while not stopping():
            added = kernel.eager_greedy(
                self._form.code,
                traffic.node,
                self._columns,
                traffic.rate,
                self._incident_start,
                self._incident,
                problem.block_offset,
                problem.column_block,
                problem.latency_seconds,
                problem.origin_latency_seconds,
                costs,
                self._opening,
                self._allowed,
                problem.column_bytes,
                self._device_start,
                free,
                holds,
                host,
                gain,
                alone,
                best,
                item,
                least,
                _CHUNK,
            )
            if added < _CHUNK:
                return True
        return False

    def _hosts(self, holds: UInt8) -> Float64:
        """float64[R']: latency of the nearest holder of each whole route, inf where there is none."""
        traffic, latency = self._traffic, self._problem.latency_seconds
        host = np.full(len(traffic.node), np.inf)
        padding = self._columns < 0
        for m in np.flatnonzero(holds.any(axis=1)).tolist():
            whole = ((holds[m][self._columns] == 1) | padding).all(axis=1)
            host[whole] = np.minimum(host[whole], latency[traffic.node[whole], m])
        return host

    def _route_gains(
        self, holds: UInt8, costs: Float64, host: Float64, gain: Float64, alone: Float64
    ) -> None:
        problem, traffic = self._problem, self._traffic
        kernel.route_gains(
            self._form.code,
            traffic.node,
            self._columns,
            traffic.rate,
            problem.latency_seconds,
            problem.origin_latency_seconds,
            costs,
            holds,
            host,
            gain,
            alone,
        )
