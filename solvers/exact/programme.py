"""The placement problem as a mixed integer linear programme, for `exact`.

Only x[n, e], who holds what, must be whole. The costs follow as levels: node n has the distinct latencies
D_1 < ... < D_p below its origin's, M_i are the nodes within D_i, and

    c(n, e) = D_1 + sum over i of (D_{i+1} - D_i) z[n, e, i]
    z[n, e, i] >= 1 - sum over m in M_i of x[m, e]

with D_{p+1} the origin's latency; without an origin the sum ends at p - 1 and somebody in M_p must hold e.

    sum:       the calls' rates times the c(n, e).
    slowest:   the same with t[r, i] >= z[n, e, i] for every e of the route, for the maximum of the c is at a
               level exactly where one of them is.
    colocated: t[r, i] >= 1 - sum over m in M_i of h[S, m], h[S, m] <= x[m, e] for every e of S. Without an
               origin, u[r] = 1 where the single calls, each with its level times u, take the place of the
               host's: where they cost less, and where no node within reach holds all of S.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt
from scipy import optimize, sparse

from solvers.cost.evaluate import opening_costs
from solvers.feasible.packing import packable_bytes, packs_within_bytes
from solvers.feasible.repair import allowance
from solvers.problem import Coupling, Float64, Int64, PlacementProblem
from solvers.traffic import Traffic


class TooLarge(Exception):
    """The programme would have more variables than allowed."""


@dataclass(frozen=True, eq=False)
class Programme:
    """minimise constant + cost @ v subject to rows; the first N * E variables are x, row by row."""

    constant: float
    cost: Float64
    lower: Float64
    upper: Float64
    integrality: Int64
    rows: Any  # sparse
    least: Float64
    most: Float64

    def within(self, lower: Float64, upper: Float64) -> Programme:
        """The same with other bounds on its variables."""
        return replace(self, lower=lower, upper=upper)

    def minimise(
        self, scale: float, seconds: float, gap: float, branches: int | None = None
    ) -> optimize.OptimizeResult:
        """HiGHS on cost / scale, for at most about `seconds` and so many `branches`. Its bound and value
        don't have the constant."""
        options: Any = {"time_limit": seconds, "mip_rel_gap": gap}
        if branches is not None:
            options["node_limit"] = branches
        answer: optimize.OptimizeResult = optimize.milp(
            self.cost / scale,
            integrality=self.integrality,
            bounds=optimize.Bounds(self.lower, self.upper),
            constraints=optimize.LinearConstraint(self.rows, self.least, self.most),
            options=options,
        )
        return answer


def programme(problem: PlacementProblem, traffic: Traffic, variable_limit: int) -> Programme:
    """The programme of a problem; `TooLarge` above `variable_limit` variables. It is infeasible too where
    every feasible placement leaves some traffic unserved. Variables: N E + at most N^2 E + R N, times K for
    `colocated` without an origin."""
    return _Builder(problem, traffic, variable_limit).build()


class _Builder:
    def __init__(self, problem: PlacementProblem, traffic: Traffic, variable_limit: int) -> None:
        self._problem = problem
        self._traffic = traffic
        self._limit = variable_limit
        self._variables = 0
        self._rows = 0
        self._costs: list[Float64] = []
        self._uppers: list[Float64] = []
        self._whole: list[Int64] = []
        self._entries: list[tuple[Int64, Int64, Float64]] = []
        self._leasts: list[Float64] = []
        self._mosts: list[Float64] = []
        self._constant = 0.0
        counts = np.diff(traffic.start)
        self._block = np.repeat(np.arange(problem.blocks), counts)
        offset = problem.block_offset[self._block][:, None]
        self._columns: Int64 = np.where(traffic.experts >= 0, offset + traffic.experts, -1).astype(np.int64)
        if self._columns.shape[1] == 0:
            self._columns = np.full((len(traffic.node), 1), -1)
        self._size = (self._columns >= 0).sum(axis=1)

    def build(self) -> Programme:
        problem, traffic = self._problem, self._traffic
        nodes, experts = problem.nodes, problem.experts
        opening = opening_costs(problem)
        opening = (
            np.zeros_like(opening) if problem.horizon_seconds is None else opening / problem.horizon_seconds
        )
        self._x = self._add(opening.reshape(-1), whole=True).reshape(nodes, experts)
        self._constraints()
        hosts = None
        match problem.coupling:
            case Coupling.SUM:
                weight, several = traffic.activity, np.zeros(len(traffic.node), np.bool_)
            case Coupling.SLOWEST:
                weight, several = self._single_calls(), self._size > 1
            case Coupling.COLOCATED:
                weight, several = self._single_calls(), self._size > 1
                hosts = self._hosts()
            case _:
                assert_never(problem.coupling)
        for n in range(nodes):
            self._node(n, weight[n], np.flatnonzero((traffic.node == n) & several), hosts)
        allowed = allowance(problem).reshape(-1)
        lower, upper = np.zeros(self._variables), np.concatenate(self._uppers)
        lower[: nodes * experts] = allowed == 1
        upper[: nodes * experts] = allowed >= 0
        row, column, value = (np.concatenate(parts) for parts in zip(*self._entries, strict=True))
        return Programme(
            constant=self._constant,
            cost=np.concatenate(self._costs),
            lower=lower,
            upper=upper,
            integrality=np.concatenate(self._whole),
            rows=sparse.csr_array((value, (row, column)), shape=(self._rows, self._variables)),
            least=np.concatenate(self._leasts),
            most=np.concatenate(self._mosts),
        )

    def _single_calls(self) -> Float64:
        """float64[N, E]: calls per second by routes of one expert."""
        traffic = self._traffic
        weight = np.zeros(traffic.activity.shape)
        alone = self._size == 1
        np.add.at(weight, (traffic.node[alone], self._columns[alone, 0]), traffic.rate[alone])
        return weight

    def _add(self, cost: Float64, whole: bool = False, upper: float = 1.0) -> Int64:
        """New variables, as many as `cost` has; their indices in its shape."""
        first, count = self._variables, cost.size
        self._variables += count
        if self._variables > self._limit:
            raise TooLarge
        self._costs.append(cost.reshape(-1))
        self._uppers.append(np.full(count, upper))
        self._whole.append(np.full(count, int(whole)))
        return np.arange(first, first + count).reshape(cost.shape)

    def _require(self, terms: list[tuple[Int64, float]], least: float, most: float = np.inf) -> None:
        """A row per index along the first axis of the terms: least <= sum of coefficient * variables <= most.
        Each term int64[rows] or int64[rows, any] of variables; negative ones are left out."""
        rows = len(terms[0][0])
        if rows == 0:
            return
        for variables, coefficient in terms:
            flat = variables.reshape(rows, -1)
            row = np.repeat(np.arange(self._rows, self._rows + rows), flat.shape[1])
            column = flat.reshape(-1)
            present = column >= 0
            self._entries.append((row[present], column[present], np.full(int(present.sum()), coefficient)))
        self._leasts.append(np.full(rows, least))
        self._mosts.append(np.full(rows, most))
        self._rows += rows

    def _constraints(self) -> None:
        problem = self._problem
        self._require([(self._x.T, 1.0)], float(problem.min_replicas))
        unit = int(np.gcd.reduce(problem.expert_bytes)) if problem.blocks else 1
        sizes = np.unique(problem.expert_bytes[problem.experts_per_block > 0]).tolist()
        if packs_within_bytes(problem):
            room = packable_bytes(problem)
            for n in range(problem.nodes):
                terms = [(self._x[n : n + 1, problem.column_bytes == size], size / unit) for size in sizes]
                if terms:
                    self._require(terms, -np.inf, float(room[n] // unit))
            return
        # several devices and several sizes: how many experts of each size a device takes must be whole too
        device_node, device_capacity = problem.devices
        number = {size: int((problem.column_bytes == size).sum()) for size in sizes}
        taken = {
            size: self._add(np.zeros(len(device_node)), whole=True, upper=number[size]) for size in sizes
        }
        for d, capacity in enumerate(device_capacity.tolist()):
            self._require(
                [(taken[size][d : d + 1], size / unit) for size in sizes], -np.inf, capacity // unit
            )
        for n in range(problem.nodes):
            for size in sizes:
                held = self._x[n : n + 1, problem.column_bytes == size]
                self._require([(taken[size][device_node == n][None, :], 1.0), (held, -1.0)], 0.0)

    def _hosts(self) -> tuple[Int64, Int64]:
        """h int64[sets, N], and the set of each route, -1 where it has one expert."""
        problem, traffic = self._problem, self._traffic
        several = np.flatnonzero(self._size > 1)
        of_route = np.full(len(traffic.node), -1)
        sets, inverse = np.unique(self._columns[several], axis=0, return_inverse=True)
        of_route[several] = inverse.reshape(-1)
        h = self._add(np.zeros((len(sets), problem.nodes)))
        for m in range(problem.nodes):
            for k in range(sets.shape[1]):
                real = np.flatnonzero(sets[:, k] >= 0)
                self._require([(self._x[m, sets[real, k]], 1.0), (h[real, m], -1.0)], 0.0)
        return h, of_route

    def _node(
        self, n: int, weight: Float64, routes: npt.NDArray[np.intp], hosts: tuple[Int64, Int64] | None
    ) -> None:
        """What the calls and the routes of node n cost. weight float64[E]: of single calls."""
        problem, traffic = self._problem, self._traffic
        origin = float(problem.origin_latency_seconds[n])
        latency = problem.latency_seconds[n]
        reachable = latency[np.isfinite(latency) & (latency < origin)]
        rate = traffic.rate[routes]
        levels = np.unique(reachable)
        if len(levels) == 0:
            self._constant += origin * float(weight.sum() + rate.sum())
            return
        within = [np.flatnonzero(latency <= level) for level in levels]
        has_origin = origin < np.inf
        gap = np.diff(np.append(levels, origin)) if has_origin else np.diff(levels)
        nearest = float(levels[0])
        self._constant += nearest * float(weight.sum() + rate.sum())
        needed = weight > 0
        if hosts is None or not has_origin:
            used = self._columns[routes]
            needed[used[used >= 0]] = True
        called = np.flatnonzero(needed)
        z = np.full((problem.experts, len(gap)), -1)
        z[called] = self._add(weight[called, None] * gap)
        for i in range(len(gap)):
            self._require([(z[called, i], 1.0), (self._x[within[i]][:, called].T, 1.0)], 1.0)
        if not has_origin:
            self._require([(self._x[within[-1]][:, called].T, 1.0)], 1.0)
        if len(routes) == 0:
            return
        t = self._add(rate[:, None] * gap)
        if hosts is None:
            self._above(t, z, routes)
            return
        h, of_route = hosts
        host = h[of_route[routes]]
        instead: list[tuple[Int64, float]] = []
        if not has_origin:
            u = self._alone(z, routes, nearest, gap)
            instead = [(u, 1.0)]
            self._require([(host[:, within[-1]], 1.0), *instead], 1.0)
        for i in range(len(gap)):
            self._require([(t[:, i], 1.0), (host[:, within[i]], 1.0), *instead], 1.0)

    def _above(self, t: Int64, z: Int64, routes: npt.NDArray[np.intp]) -> None:
        """t[r, i] >= z[e, i] for every expert e of the route."""
        for k in range(self._columns.shape[1]):
            real = self._columns[routes, k] >= 0
            above, below = t[real], z[self._columns[routes[real], k]]
            self._require([(above.reshape(-1), 1.0), (below.reshape(-1), -1.0)], 0.0)

    def _alone(self, z: Int64, routes: npt.NDArray[np.intp], nearest: float, gap: Float64) -> Int64:
        """u int64[routes]: which part of a route makes single calls. They are added to the cost, beyond the
        nearest latency that every route pays once."""
        rate = self._traffic.rate[routes]
        u = self._add(rate * (self._size[routes] - 1) * nearest)
        for k in range(self._columns.shape[1]):
            real = np.flatnonzero(self._columns[routes, k] >= 0)
            v = self._add(rate[real, None] * gap)
            for i in range(len(gap)):
                level = z[self._columns[routes[real], k], i]
                self._require([(v[:, i], 1.0), (level, -1.0), (u[real], -1.0)], -1.0)
        return u
