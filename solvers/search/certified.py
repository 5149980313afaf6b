"""`certified`: sweeps of best responses, ruin and repair, guided by the Lagrangian dual (*ours*).

The dual of `solvers.dual.relaxation` climbs beside the search. Its multipliers are the search's guide: where
routes couple their experts, theta says which of them decide a route, so that the sum of single calls
weighted by theta is a good surrogate; its knapsacks are placements to start from. The dynamic programme over
blocks of `sgd` is the engine: from the best placement, part of the replicas are taken out and the nodes
respond anew.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np

from solvers.cost.evaluate import total_cost
from solvers.dual.pdhg import Ascent, hosts_are_too_many
from solvers.exact.programme import TooLarge
from solvers.feasible.repair import PROOF_SECONDS, NoPlacement, allowance, make_feasible
from solvers.heuristics.popularity import fill_by_popularity, filled_up, random
from solvers.heuristics.sgd import sgd
from solvers.kernels import tables
from solvers.multipliers import Multipliers
from solvers.params import CertifiedParams, SgdParams
from solvers.problem import Coupling, Float64, Int8, Int32, Int64, PlacementProblem, UInt8
from solvers.response.best_response import BestResponse, Memory, Subsets
from solvers.response.knapsack import hull_counts
from solvers.response.single import SingleResponse
from solvers.search.neighbourhood import Neighbourhood
from solvers.stopping import FirstOf, MaxRuntime, Stopping, never
from solvers.tolerances import CERTAIN, SAME_COST
from solvers.traffic import Traffic, calls_are_single, sample

_EFFORT_UNIT = 1_000_000  # units of work of `BestResponse` per unit of effort
_WARM_SHARE = 0.1  # of the effort, where a start is given
_SWEEPS = 6  # of all nodes at most, per start or repair
_FIRST_SHARE = 0.1  # of the effort, which sweeps over the true routes from the empty placement may take
_FIRST_CELLS = 100_000_000  # nodes^3 times experts: the same where calls are single, whose steps cost little
_MOST_ROUTES = (
    750_000  # that the search looks at; of more it takes a sample, and the cost and bound are of all
)
_FIRST_CLIMB = 20  # steps of the dual before the first placement made from it; then twice as many each time
_THRESHOLDS = (0.15, 0.85)  # of a rounding, drawn per block
_RELAXED_SHARE = 0.5  # of the ruins which take what they replace from the relaxed placement
_EXCHANGED_SHARE = 0.2  # of the ruins, in which nodes exchange what they hold
_PART_SHARE = 0.8  # of the ruins which spare some experts of every block
_PARTS = (0.1, 0.8)  # of the experts that these do not spare
_SLACK = 0.02  # relative; how much worse than the best a placement may be that the search goes on from
_VAIN = 40  # rounds without an improvement, from which on it is; after twice as many, all of that
_EXACT_SHARE = 0.2  # of the rounds of a small problem, in which HiGHS chooses a part anew
_GIVEN_UP = 80  # rounds in vain, after which it begins elsewhere
_ROUND_WORK, _EXACT_WORK = 50_000, 3_000_000  # of every round, whatever it looks at, and of those
_TELLING = 0.01  # of the gap: rounds that save less are in vain
_REST = 0.5  # of the work of all rounds up to the last that was not: the search goes on for that at least,
_LEAST_REST = 80_000_000  # and for so much, where rounds are cheap
_FLAT = 0.03  # of the gap: a climb that closes less of it has ended
_FLAT_ALONE = 0.25  # of the gap that is the goal: the same before there is a placement worth a comparison
_NEARLY_FLAT = 2.0  # of the same: a rounding may reach the goal, where it costs no more than the steps
_ASTRAY = 0.2  # relative gap from which on carried multipliers are those of another traffic
_LITTLE = 0.1  # of the gap that is the goal: sweeps that save less have ended, where a sweep takes long
_CLIMB_SHARE = 0.6  # of the effort, or of the time, that the first climb may take
_ROUND_SHARE = 0.2  # of the rounds of the search that start from a rounding
_MANY_MEMBERS = 6_000  # of the terms of one block at one node, above which the tables are simpler
_MANY_CELLS = 10_000_000  # of the knapsack of one node, above which it is solved by hulls
_RUINS = (  # (share of the nodes, blocks); 0 nodes = two of them, 0 blocks = all
    (0.34, 0),
    (0.67, 0),
    (0.0, 0),
    (0.5, 4),
    (0.5, 8),
    (1.0, 2),
    (1.0, 4),
)


class Certified(NamedTuple):
    """A feasible placement uint8[N, E] and the climb of the dual beside it."""

    holds: UInt8
    ascent: Ascent


class _AtHand(NamedTuple):
    """A placement uint8[N, E] that a ruin begins with, and what the responses know about it."""

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


class _Search:
    """The best placement so far, and the ways to better ones."""

    def __init__(
        self,
        problem: PlacementProblem,
        traffic: Traffic,
        params: CertifiedParams,
        generator: np.random.Generator,
        stopping: Stopping,
        report: Callable[[str, UInt8], None],
    ) -> None:
        self._problem = problem
        self._traffic = traffic
        self._generator = generator
        self._stopping = stopping
        self._report = report
        self.pinned = (allowance(problem) == 1).astype(np.uint8)
        self._tables = SgdParams(exact_limit=params.exact_limit, exchange_steps=0, eps=params.eps)
        self.single = calls_are_single(problem, traffic)
        engine = _Single if self.single else _Coupled
        self._response: BestResponse = engine(problem, traffic, self._tables)
        self.goal = max(params.goal_gap, CERTAIN)
        self.little = 0.0  # seconds per second: sweeps that save less are the last
        self.work = 0
        self.holds: UInt8 | None = None
        self.cost = np.inf
        self.failure: NoPlacement | None = None  # the first of a repair
        self._run_cost = np.inf  # of the best since this run began
        self._at_hand = _AtHand(self.pinned, self._response.remember())
        self._blocks = np.flatnonzero(np.diff(traffic.start) > 0)  # only these can gain anything

    @cached_property
    def _neighbourhood(self) -> Neighbourhood | None:
        try:
            return Neighbourhood(self._problem, self._traffic)
        except TooLarge:
            return None

    @property
    def small(self) -> bool:
        """Whether HiGHS can look at parts of it."""
        return self._neighbourhood is not None

    def descend(self, name: str, start: UInt8, order: Int64 | None = None) -> bool:
        """Sweeps from `start` uint8[N, E], feasible or not, to a feasible placement; True where it's the best
        of the run."""
        self._response.restart()
        return self._settle(name, start.copy(), order)

    def try_as_it_is(self, name: str, holds: UInt8) -> None:
        """Takes a feasible placement uint8[N, E] where it is the best so far."""
        self._response.restart()
        self._take(name, holds)

    def astray(self, ascent: Ascent) -> bool:
        """Whether multipliers that were carried over are those of another traffic: the potentials that a long
        climb has driven apart take longer to come back than a climb from nothing takes."""
        return self.cost - ascent.best.bound > _ASTRAY * abs(self.cost)

    def reached(self, ascent: Ascent) -> bool:
        """Whether the best placement is as near to the bound as is wanted."""
        return self.cost - ascent.best.bound <= self.goal * abs(self.cost)

    def ruin(self, ascent: Ascent, restless: float) -> bool:
        """Takes part of the placement at hand out, has nodes exchange it, or replaces it by the relaxed one,
        rounded; the nodes respond anew; True where that is the best of the run.

        What comes of it is at hand from then on where it is the best, or, the more `restless` 0..1 the search
        is, little worse than that.
        """
        problem, before = self._problem, self._at_hand
        nodes, blocks = problem.nodes, len(self._blocks)
        share, width = _RUINS[int(self._generator.integers(len(_RUINS)))]
        chosen = self._generator.choice(nodes, min(nodes, max(2, round(share * nodes))), replace=False)
        columns = np.ones(problem.experts, np.bool_)
        if 0 < width < blocks:
            # where the relaxation sees it otherwise there is more to find
            doubt = np.abs(ascent.held - before.holds).sum(axis=0)
            weight = 0.1 + np.add.reduceat(doubt, problem.block_offset[self._blocks])
            picked = self._generator.choice(self._blocks, width, replace=False, p=weight / weight.sum())
            columns = np.isin(problem.column_block, picked)
        if self._generator.random() < _PART_SHARE:
            columns &= self._generator.random(problem.experts) < self._generator.uniform(*_PARTS)
        ruined = before.holds.copy()
        part = np.ix_(chosen, columns)
        kind = self._generator.random()
        if kind < _RELAXED_SHARE:
            threshold = self._generator.uniform(*_THRESHOLDS, problem.blocks)[problem.column_block[columns]]
            ruined[part] = np.maximum(ascent.held[part] > threshold, self.pinned[part])
        elif kind < _RELAXED_SHARE + _EXCHANGED_SHARE:
            others = before.holds[np.ix_(self._generator.permutation(chosen), columns)]
            ruined[part] = np.maximum(others, self.pinned[part])
        else:
            ruined[part] = self.pinned[part]
        self._response.recall(before.memory)
        self._response.replaced(before.holds, ruined)
        return self._settle("repair", ruined, slack=_SLACK * restless)

    def repair_exactly(self) -> bool:
        """Has HiGHS choose a part of the placement at hand anew, where the problem is `small`; True where
        that is the best of the run."""
        before = self._at_hand
        assert self._neighbourhood is not None
        self.work += _EXACT_WORK
        part = self._neighbourhood.draw(self._generator)
        found = self._neighbourhood.best(before.holds, self.cost, part)
        if found is None:
            return False
        self._response.recall(before.memory)
        self._response.replaced(before.holds, found)
        return self._settle("repair", found, slack=_SLACK)  # it is no worse than what was at hand

    def affords_sweeps(self, effort: float) -> bool:
        """Whether sweeps over the true calls, before the relaxation guides them, take little of `effort`."""
        problem, traffic = self._problem, self._traffic
        if self.single:
            return problem.nodes**3 * problem.experts <= _FIRST_CELLS
        width = traffic.experts.shape[1]
        sweep = len(traffic.rate) * problem.nodes * (1.0 + width * width)
        sweep += problem.nodes**3 * problem.experts
        return bool(sweep <= _FIRST_SHARE * effort)

    def begin(self, sweeps: bool) -> None:
        """The first placement: by `sweeps` from nothing; by popularity without them, and where they are
        interrupted."""
        problem, traffic = self._problem, self._traffic
        if sweeps:
            order = np.argsort(-problem.capacity_bytes, kind="stable").astype(np.int64)
            self.descend("empty", self.pinned, order)
            if not self._stopping():
                return
        holds = self.pinned.copy()
        for node in range(problem.nodes):
            fill_by_popularity(problem, traffic, node, holds)
        feasible = self.feasible(holds)
        if feasible is not None:
            self._take("popularity", feasible)

    def fill_up(self) -> None:
        """The best placement with its free memory filled: interrupted sweeps leave nodes empty."""
        assert self.holds is not None
        self.try_as_it_is("filled", filled_up(self._problem, self._traffic, self.holds))

    def try_sgd(self) -> None:
        """The result of `sgd`, whose tables are better than those the rounds can afford."""
        try:
            found = sgd(
                self._problem,
                self._traffic,
                SgdParams(exact_limit=self._tables.exact_limit, eps=self._tables.eps),
                self._generator,
                None,
                self._stopping,
                lambda _, __: None,
            )
        except NoPlacement as reason:
            self.failure = self.failure or reason
            return
        self.try_as_it_is("sgd", found)

    def begin_elsewhere(self) -> None:
        """Begins a run from a placement drawn by chance; the best so far is kept."""
        try:
            drawn = random(self._problem, self._traffic, self._generator, self._stopping)
        except NoPlacement as reason:
            self.failure = self.failure or reason
            return
        self._run_cost = np.inf
        self.descend("elsewhere", drawn)

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

    def climb(self, ascent: Ascent, steps: int, stopping: Stopping) -> None:
        """Steps of the dual, which raise the bound and move the relaxed placement."""
        for _ in range(steps):
            if ascent.done or stopping():
                return
            ascent.step()
            self.work += ascent.work_per_step

    def round(self, ascent: Ascent, middle: bool) -> bool:
        """Descends from the relaxed placement, rounded at a half (`middle`) or at a threshold drawn per
        block, which keeps together what is held together; True where that is better."""
        threshold = np.full(self._problem.blocks, 0.5)
        if not middle:
            threshold = self._generator.uniform(*_THRESHOLDS, self._problem.blocks)
        rounded = (ascent.held > threshold[self._problem.column_block]).astype(np.uint8)
        return self.descend("rounded", np.maximum(rounded, self.pinned))

    def _settle(
        self, name: str, holds: UInt8, order: Int64 | None = None, slack: float | None = None
    ) -> bool:
        response = self._response
        before = response.work
        self._sweep(response, holds, order=order)
        feasible = self.feasible(holds)
        if feasible is None:
            self.work += response.work - before
            response.restart()
            return False
        if (feasible != holds).any():
            response.replaced(holds, feasible)
            holds = feasible
            self._sweep(response, holds)
        self.work += response.work - before
        return self._take(name, holds, slack)

    def _take(self, name: str, holds: UInt8, slack: float | None = None) -> bool:
        cost = total_cost(self._problem, holds)
        better = cost < self._run_cost * (1.0 - SAME_COST) or self.holds is None
        if better or (slack is not None and cost <= self._run_cost * (1.0 + slack)):
            self._at_hand = _AtHand(holds, self._response.remember())
        if better:
            self._run_cost = cost
        if self.holds is None or cost < self.cost * (1.0 - SAME_COST):
            self.holds, self.cost = holds, cost
            self._report(name, holds)
        return better

    def _sweep(
        self,
        response: BestResponse,
        holds: UInt8,
        order: Int64 | None = None,
    ) -> None:
        """Best responses of all nodes in `order` int64[N], else in random ones, until none moves."""
        enforce = self._problem.min_replicas > 0
        for _ in range(_SWEEPS):
            moved = False
            before = response.saved
            turn = self._generator.permutation(self._problem.nodes) if order is None else order
            for node in turn.tolist():
                moved |= response.respond(node, holds, enforce, self._stopping)
            if not moved or self._stopping() or response.saved - before < self.little:
                return


def _resumed(
    problem: PlacementProblem, traffic: Traffic, holds: UInt8, hosting: bool, begun: Multipliers
) -> Ascent | None:
    """The climb that goes on where another ended; None where that was of another shape."""
    ascent = Ascent(problem, traffic, holds, np.inf, hosting, begun=begun)
    return ascent if ascent.resumed else None


def certified(
    problem: PlacementProblem,
    traffic: Traffic,
    params: CertifiedParams,
    generator: np.random.Generator,
    start: UInt8 | None,
    seconds: float | None,
    stopping: Stopping,
    report: Callable[[str, UInt8], None],
    begun: Multipliers | None = None,
) -> Certified:
    """A feasible placement by guided search, and the climb of the dual beside it.

    With the multipliers of an earlier climb the bound comes first, of all routes. A `start` that is near
    enough to it is swept only where sweeps take little.

    No constant is promised beyond what the dual proves of each result; that of `sgd` holds where the sweep
    from the empty placement is the first start. Anytime: the best placement so far when `stopping` comes.
    Raises `NoPlacement`.
    """
    single = calls_are_single(problem, traffic)
    hosting = problem.coupling is Coupling.COLOCATED and not hosts_are_too_many(problem, traffic)
    sampled = traffic if hosting or single else sample(traffic, _MOST_ROUTES)
    search = _Search(problem, sampled, params, generator, stopping, report)
    effort = params.effort * _EFFORT_UNIT * (1.0 if start is None else _WARM_SHARE)
    sweeps = search.affords_sweeps(effort)
    if seconds is not None and start is None:
        effort = np.inf  # the time is the limit
    ascent = None if begun is None else _resumed(problem, traffic, search.pinned, hosting, begun)
    resumed = ascent is not None
    if ascent is not None:
        search.little = _LITTLE * search.goal * ascent.best.bound
    for name, given in (("start", start), ("current", problem.current)):
        if given is None or (search.holds is not None and stopping()):
            continue
        feasible = search.feasible(given)
        if feasible is None:
            continue
        if ascent is not None and not sweeps:
            search.try_as_it_is(name, feasible)
            if search.reached(ascent):
                break
        search.descend(name, feasible)
    if search.holds is None or (start is None and not stopping()):
        search.begin(sweeps)
    if search.holds is None:
        assert search.failure is not None
        raise search.failure
    search.little = 0.0
    if ascent is None or search.astray(ascent):
        resumed = False
        ascent = Ascent(problem, sampled, search.holds, search.cost, hosting)
    ascent.aim(search.cost)

    def reached() -> bool:
        return search.reached(ascent)

    # first the bound, as long as it gains: the relaxed placement behind it is the search's best guide
    climbing = FirstOf((stopping, never if seconds is None else MaxRuntime(_CLIMB_SHARE * seconds)))
    steps = _FIRST_CLIMB
    while not (ascent.done or climbing() or reached()) and search.work < _CLIMB_SHARE * effort:
        before = ascent.best.bound
        search.climb(ascent, steps, FirstOf((climbing, reached)) if resumed else climbing)
        gained = ascent.best.bound - before
        near = search.goal * ascent.best.bound
        if sweeps:
            search.round(ascent, middle=True)
            ascent.aim(search.cost)
            steps *= 2
            if gained < _FLAT * (search.cost - before):
                break
        elif single and _FLAT_ALONE * near <= gained < _NEARLY_FLAT * near:
            search.little = _LITTLE * near
            search.round(ascent, middle=True)
            ascent.aim(search.cost)
        elif gained < _FLAT_ALONE * near:
            break
    if sweeps and not (single or start is not None or stopping() or reached()):
        search.try_sgd()
        ascent.aim(search.cost)
    if not (sweeps or stopping() or ((resumed or single) and reached())):
        search.little = _LITTLE * search.goal * ascent.best.bound
        search.round(ascent, middle=True)
        ascent.aim(search.cost)
    if sampled is not traffic and not resumed:
        ascent.take(traffic)
        while not (ascent.done or stopping() or reached()):
            before = ascent.best.bound
            search.climb(ascent, _FIRST_CLIMB // 2, FirstOf((stopping, reached)))
            if ascent.best.bound - before < _FLAT * (search.cost - before):
                break
    idle, vain, begun_at, told_at, mark = 0, 0, search.work, search.work, search.cost
    while search.work < effort and not (stopping() or reached()):
        rest = max(_LEAST_REST, _REST * (told_at - begun_at))
        if idle >= params.patience and search.work - told_at >= rest:
            break
        search.work += _ROUND_WORK
        if vain >= _GIVEN_UP and search.small:
            search.begin_elsewhere()
            vain = 0
        kind = generator.random()
        if kind < _ROUND_SHARE:
            search.climb(ascent, _FIRST_CLIMB // 4, stopping)
            better = search.round(ascent, middle=False)
        elif kind < _ROUND_SHARE + _EXACT_SHARE and search.small:
            better = search.repair_exactly()
        else:
            better = search.ruin(ascent, min(1.0, max(0.0, vain / _VAIN - 1.0)))
        ascent.aim(search.cost)
        idle, vain = idle + 1, 0 if better else vain + 1
        if mark - search.cost > _TELLING * (mark - ascent.best.bound):
            idle, told_at, mark = 0, search.work, search.cost
    if stopping():
        search.fill_up()
    assert search.holds is not None
    return Certified(search.holds, ascent)
