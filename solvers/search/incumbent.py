"""The best placement so far, and the sweeps of best responses that better ones come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from solvers.cost.evaluate import total_cost
from solvers.feasible.repair import PROOF_SECONDS, NoPlacement, allowance, make_feasible
from solvers.heuristics.popularity import fill_by_popularity, filled_up
from solvers.kernels import tables
from solvers.params import CertifiedParams, SgdParams
from solvers.problem import Float64, Int8, Int32, Int64, PlacementProblem, UInt8
from solvers.response.best_response import BestResponse, Memory, Subsets
from solvers.response.fleet import FleetResponse
from solvers.response.knapsack import hull_counts
from solvers.response.single import SingleResponse
from solvers.stopping import Stopping
from solvers.tolerances import SAME_COST
from solvers.traffic import Traffic, calls_are_single

_SWEEPS = 6  # over all nodes at most, from one placement
_FLEET_SWEEPS = 4  # the same with the tables of large fleets, which find little more after so many
_MANY_MEMBERS = 6_000  # experts of the terms of one block at one node, above which the tables are simpler
_MANY_CELLS = 10_000_000  # of the knapsack of one node, above which it is solved by hulls
_FLEET_COST = 0.4  # of a sweep with the tables of large fleets, in parts of one with the usual tables


class Settled(NamedTuple):
    """A placement uint8[N, E] on which the nodes have responded, and what the responses know about it."""

    holds: UInt8
    memory: Memory


class _Affordable(BestResponse):
    """Best responses by the hulls of the tables where the knapsack has many cells."""

    def _choose_counts(self, node: int, values: Float64, capacity: int) -> Int32 | None:
        size = self._problem.expert_bytes
        units = min(capacity, int(self._problem.column_bytes.sum())) // max(1, int(np.gcd.reduce(size)))
        if units * len(values) > _MANY_CELLS:
            return hull_counts(values, self._values_start, size, capacity)
        return super()._choose_counts(node, values, capacity)


class _Coupled(_Affordable):
    """The same, by greedy-drop alone where a block has many terms."""

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
        if subsets[3] * subsets[0].shape[1] > _MANY_MEMBERS:
            tables.drop_table(state, modular, *subsets, values, sets)
        else:
            super()._fill_table(key, state, modular, subsets, scratch, values, sets)


class _Single(_Affordable, SingleResponse):
    """The same, where every call counts by itself."""


class Incumbent:
    """The best placement so far, `holds` uint8[N, E] of this `cost`, and the ways to better ones.

    A run begins anew where the search begins elsewhere; `settled` is what the next round of a run begins
    with. `work` counts units of about 10 ns, so that a search without a time limit ends at the same point on
    every machine.
    """

    def __init__(
        self,
        problem: PlacementProblem,
        traffic: Traffic,
        params: CertifiedParams,
        generator: np.random.Generator,
        stopping: Stopping,
        report: Callable[[str, UInt8], None],
    ) -> None:
        self._problem, self._traffic = problem, traffic
        self._generator, self._stopping, self._report = generator, stopping, report
        self.pinned = (allowance(problem) == 1).astype(np.uint8)
        self.tables = SgdParams(exact_limit=params.exact_limit, exchange_steps=0, eps=params.eps)
        self.single = calls_are_single(problem, traffic)
        engine = _Single if self.single else _Coupled
        self._response: BestResponse = engine(problem, traffic, self.tables)
        self.min_gain = 0.0  # seconds per second: a sweep that saves less is the last of its placement
        self.work = 0
        self.holds: UInt8 | None = None
        self.cost = np.inf
        self.failure: NoPlacement | None = None  # the first of a repair
        self._run_cost = np.inf  # the least of this run
        self.settled = Settled(self.pinned, self._response.remember())

    def begin_run(self) -> None:
        """What costs less than anything since now is the best of the run, whatever was found before."""
        self._run_cost = np.inf

    def sweep_work(self) -> float:
        """What a sweep over all nodes is expected to take, in units of `work`."""
        problem, traffic = self._problem, self._traffic
        if self.single:
            return problem.nodes**3 * problem.experts / 20.0
        width = traffic.experts.shape[1]
        routes = len(traffic.rate) * problem.nodes * (1.0 + width * width)
        return float(routes + problem.nodes**3 * problem.experts / 100.0)

    def fleet_sweep_work(self) -> float:
        """The same of a sweep of `descend_by_fleet`."""
        return _FLEET_COST * self.sweep_work()

    def descend(
        self, name: str, start: UInt8, order: Int64 | None = None, early: Stopping | None = None
    ) -> bool:
        """Sweeps from `start` uint8[N, E], feasible or not, to a feasible placement; True where it's the best
        of the run. `early` ends them between two sweeps."""
        self._response.restart()
        return self._settle(name, start.copy(), order, early=early)

    def descend_by_fleet(self, stopping: Stopping) -> None:
        """Sweeps from nothing with the tables of large fleets, which cost little where a node serves few of
        the others."""
        order = np.argsort(-self._problem.capacity_bytes, kind="stable").tolist()
        begun = self.feasible(self.pinned)
        if begun is None:
            return
        response = FleetResponse(self._problem, self._traffic, begun)
        for _ in range(_FLEET_SWEEPS):
            moved = False
            for node in order:
                if stopping():
                    break
                moved |= response.respond(node)
            if stopping() or not moved:
                break
            response.refresh()
        self.work += int(_FLEET_SWEEPS * self.fleet_sweep_work())
        found = filled_up(self._problem, self._traffic, response.holds) if stopping() else response.holds
        self.try_as_it_is("fleet", found)

    def fill_by_popularity(self) -> None:
        """A first placement at once: each node holds what its own tokens call most."""
        holds = self.pinned.copy()
        for node in range(self._problem.nodes):
            fill_by_popularity(self._problem, self._traffic, node, holds)
        feasible = self.feasible(holds)
        if feasible is not None:
            self.take("popularity", feasible)

    def fill_up(self) -> None:
        """The best placement with its free memory filled: interrupted sweeps leave nodes empty."""
        assert self.holds is not None
        self.try_as_it_is("filled", filled_up(self._problem, self._traffic, self.holds))

    def try_as_it_is(self, name: str, holds: UInt8) -> None:
        """Takes a feasible placement uint8[N, E] where it is the best so far."""
        self._response.restart()
        self.take(name, holds)

    def settle_from(self, before: Settled, changed: UInt8, slack: float) -> bool:
        """Has the nodes respond to changed uint8[N, E], made from `before`; True where the result is the best
        of the run. It is `settled` from then on where it is, or costs at most `slack` more than that."""
        self._response.recall(before.memory)
        self._response.replaced(before.holds, changed)
        return self._settle("repair", changed, slack=slack)

    def feasible(self, holds: UInt8) -> UInt8 | None:
        """A feasible placement near holds uint8[N, E]; None where none was found. After the first failure
        the integer programme, which knows of `holds` nothing, is not tried again."""
        try:
            return make_feasible(
                self._problem,
                self._traffic,
                holds,
                self._stopping,
                needed=self.holds is None,
                proof_seconds=PROOF_SECONDS if self.failure is None else 0.0,
            )
        except NoPlacement as reason:
            self.failure = self.failure or reason
            return None

    def take(self, name: str, holds: UInt8, slack: float | None = None) -> bool:
        """Takes a feasible placement for what it is worth; True where it is the best of the run."""
        cost = total_cost(self._problem, holds)
        better = cost < self._run_cost * (1.0 - SAME_COST) or self.holds is None
        if better or (slack is not None and cost <= self._run_cost * (1.0 + slack)):
            self.settled = Settled(holds, self._response.remember())
        if better:
            self._run_cost = cost
        if self.holds is None or cost < self.cost * (1.0 - SAME_COST):
            self.holds, self.cost = holds, cost
            self._report(name, holds)
        return better

    def _settle(
        self,
        name: str,
        holds: UInt8,
        order: Int64 | None = None,
        slack: float | None = None,
        early: Stopping | None = None,
    ) -> bool:
        response = self._response
        before = response.work
        self._sweep(holds, order, early)
        feasible = self.feasible(holds)
        if feasible is None:
            self.work += response.work - before
            response.restart()
            return False
        if (feasible != holds).any():
            response.replaced(holds, feasible)
            holds = feasible
            self._sweep(holds, None, early)
        self.work += response.work - before
        return self.take(name, holds, slack)

    def _sweep(self, holds: UInt8, order: Int64 | None, early: Stopping | None) -> None:
        """Best responses of all nodes in `order` int64[N], else in random ones, until none moves."""
        response = self._response
        enforce = self._problem.min_replicas > 0
        for _ in range(_SWEEPS):
            moved = False
            before = response.saved
            turn = self._generator.permutation(self._problem.nodes) if order is None else order
            for node in turn.tolist():
                moved |= response.respond(node, holds, enforce, self._stopping)
            if not moved or self._stopping() or response.saved - before < self.min_gain:
                return
            if early is not None and early():
                return
