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

from solvers.dual.pdhg import Ascent, hosts_are_too_many
from solvers.exact.programme import TooLarge
from solvers.feasible.repair import NoPlacement
from solvers.heuristics.popularity import random
from solvers.heuristics.sgd import sgd
from solvers.multipliers import Multipliers
from solvers.params import CertifiedParams, SgdParams
from solvers.problem import Coupling, PlacementProblem, UInt8
from solvers.search.destroy import THRESHOLDS, Destroyer
from solvers.search.incumbent import Incumbent
from solvers.search.neighbourhood import Neighbourhood
from solvers.stopping import FirstOf, MaxRuntime, Stopping, never
from solvers.tolerances import CERTAIN
from solvers.traffic import Traffic, calls_are_single, sample

_EFFORT_UNIT = 1_000_000  # units of `Incumbent.work` per unit of effort
_WORK_PER_SECOND = 150_000_000  # units of work in a second of two cores, to foresee what a time limit allows
_WARM_SHARE = 0.1  # of the effort is spent where a start is given
_FIRST_SHARE = 0.1  # of the effort is what one sweep over the true routes may take, to begin with sweeps
_TIMED_SHARE = 0.25  # the same share of what a time limit allows
_FLEET_SHARE = 0.4  # of what a time limit allows may one sweep by the tables of large fleets take
_LOOSE_GOAL = 0.02  # a goal gap above which the bound comes first: less is to be found than to be proved
_LOOSE_SHARE = 0.06  # the share that stands for the two before where the goal is so loose
_SWEEPING_SHARE = 0.4  # of the time, after which the sweeps from the empty placement end
_FIRST_CELLS = 100_000_000  # nodes^3 times experts, up to which single calls always begin with sweeps
_MANY_NODES = 16  # above which the climb begins with the empty placement
_MOST_ROUTES = 750_000  # that the search looks at: of more it takes a sample; cost and bound are of all
_FIRST_CLIMB = 20  # steps of the dual before the first placement made from it; then twice as many each time
_SLACK = 0.02  # relative; how much worse than the best a placement may be that the search goes on from
_PATIENCE = 40  # rounds without an improvement before worse placements are gone on from; all after twice that
_EXACT_SHARE = 0.2  # of the rounds of a small problem let HiGHS choose a part anew
_GIVEN_UP = 80  # rounds without an improvement, after which a small problem begins elsewhere
_ROUND_WORK, _EXACT_WORK = 50_000, 3_000_000  # units of work of every round beside its sweeps; of HiGHS
_NOTABLE = 0.01  # of the gap: rounds that save less do not count as improvements for the patience
_LONGER = 0.5  # of the work of all rounds up to the last improvement: the search goes on at least so long
_LEAST_WORK = 80_000_000  # units of work that the search goes on at least, where rounds cost little
_FLAT = 0.03  # of the gap: a climb that closes less of it has ended
_FLAT_COARSE = 0.1  # of the gap: the same in a large fleet, where a step of the dual and a rounding take long
_FLAT_ALONE = 0.25  # of the goal gap: the same before there is a placement worth a comparison
_MOST_FLAT = 20  # climbs, the first of which may prove nothing yet; a later one that is flat is the last
_NEARLY_FLAT = 2.0  # of the goal gap: below this a rounding may reach the goal, at the cost of the steps
_ASTRAY = 0.2  # relative gap from which on carried multipliers are those of another traffic
_SMALL_GAIN = 0.1  # of the goal gap: sweeps that save less have ended, where a sweep takes long
_CLIMB_SHARE = 0.6  # of the effort, or of the time, that the first climb may take
_ROUND_SHARE = 0.2  # of the rounds of the search start from a rounding


class Certified(NamedTuple):
    """A feasible placement uint8[N, E] and the climb of the dual beside it."""

    holds: UInt8
    ascent: Ascent


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
    search = _Search(problem, traffic, params, generator, start, seconds, stopping, report)
    search.resume(begun)
    search.place_first()
    search.climb_first()
    search.prove_all_routes()
    search.improve()
    assert search.best.holds is not None
    return Certified(search.best.holds, search.ascent)


class _Search:
    """One run of `certified`: each phase is a method, called in the order of `certified`."""

    def __init__(
        self,
        problem: PlacementProblem,
        traffic: Traffic,
        params: CertifiedParams,
        generator: np.random.Generator,
        start: UInt8 | None,
        seconds: float | None,
        stopping: Stopping,
        report: Callable[[str, UInt8], None],
    ) -> None:
        self._problem, self._all = problem, traffic
        self._params, self._generator, self._start = params, generator, start
        self._seconds, self._stopping = seconds, stopping
        self._hosting = problem.coupling is Coupling.COLOCATED and not hosts_are_too_many(problem, traffic)
        self._single = calls_are_single(problem, traffic)
        self._traffic = traffic if self._hosting or self._single else sample(traffic, _MOST_ROUTES)
        self.best = Incumbent(problem, self._traffic, params, generator, stopping, report)
        busy = np.flatnonzero(np.diff(self._traffic.start) > 0)  # only these blocks can gain anything
        self._destroyer = Destroyer(problem, busy, self.best.pinned)
        self._goal = max(params.goal_gap, CERTAIN)
        self._effort = params.effort * _EFFORT_UNIT * (1.0 if start is None else _WARM_SHARE)
        timed = np.inf if seconds is None else seconds * _WORK_PER_SECOND
        self._sweeps = self._sweeps_pay(timed)
        loose = params.goal_gap > _LOOSE_GOAL
        self._fleet = (
            not (self._sweeps or self._single)
            and seconds is not None
            and self.best.fleet_sweep_work() <= (_LOOSE_SHARE if loose else _FLEET_SHARE) * timed
        )
        if seconds is not None and start is None:
            self._effort = np.inf  # the time is the limit
        self._ascent: Ascent | None = None
        self._resumed = False

    @property
    def ascent(self) -> Ascent:
        """The climb; there is one once the first placement is known."""
        assert self._ascent is not None
        return self._ascent

    def resume(self, begun: Multipliers | None) -> None:
        """Goes on with the climb of an earlier solve, if that was of this shape."""
        if begun is None:
            return
        ascent = Ascent(self._problem, self._all, self.best.pinned, np.inf, self._hosting, begun=begun)
        if ascent.resumed:
            self._ascent, self._resumed = ascent, True
            self.best.min_gain = _SMALL_GAIN * self._goal * ascent.best.bound

    def place_first(self) -> None:
        """The first placement: from the start, from what is in force, and without a start from nothing."""
        best, stopping = self.best, self._stopping
        for name, given in (("start", self._start), ("current", self._problem.current)):
            if given is None or (best.holds is not None and stopping()):
                continue
            feasible = best.feasible(given)
            if feasible is None:
                continue
            if self._resumed and not self._sweeps:
                best.try_as_it_is(name, feasible)
                if self._reached():
                    break
            best.descend(name, feasible)
        if best.holds is None or (self._start is None and not stopping()):
            self._place_from_nothing()
        if best.holds is None:
            assert best.failure is not None
            raise best.failure
        best.min_gain = 0.0

    def climb_first(self) -> None:
        """The bound, as long as it gains: the relaxed placement behind it is the search's best guide. It is
        rounded on the way, where that takes little."""
        best, problem = self.best, self._problem
        assert best.holds is not None
        many = problem.nodes > _MANY_NODES
        if self._ascent is None or self._is_astray(self._ascent):
            self._resumed = False
            # in a large fleet replicas come into the relaxed placement in half the steps that they go in
            begun = best.pinned if many else best.holds
            self._ascent = Ascent(problem, self._traffic, begun, best.cost, self._hosting, coarse=True)
        ascent = self._ascent
        ascent.aim(best.cost)
        limit = never if self._seconds is None else MaxRuntime(_CLIMB_SHARE * self._seconds)
        climbing = FirstOf((self._stopping, limit))
        steps, climbs = _FIRST_CLIMB, 0
        while not (ascent.done or climbing() or self._reached()) and best.work < _CLIMB_SHARE * self._effort:
            climbs += 1
            before = ascent.best.bound
            self._climb(steps, FirstOf((climbing, self._reached)) if self._resumed else climbing)
            gained = ascent.best.bound - before
            near = self._goal * ascent.best.bound
            if not ascent.gains and climbs < _MOST_FLAT:
                continue  # no guide yet, and no sign of what the next steps gain
            if many and (self._sweeps or self._fleet):
                if gained < _FLAT_COARSE * (best.cost - before) and not ascent.refine():
                    break
            elif self._sweeps:
                self._round(middle=True)
                steps *= 2
                if gained < _FLAT * (best.cost - before):
                    break
            elif self._single and _FLAT_ALONE * near <= gained < _NEARLY_FLAT * near:
                best.min_gain = _SMALL_GAIN * near
                self._round(middle=True)
            elif gained < _FLAT_ALONE * near:
                break
        if self._sweeps and not (
            self._single or self._start is not None or self._stopping() or self._reached()
        ):
            self._try_sgd()
        rounded = (self._sweeps and not many) or ((self._resumed or self._single) and self._reached())
        if not (rounded or self._stopping()):
            best.min_gain = _SMALL_GAIN * self._goal * ascent.best.bound
            self._round(middle=True)

    def prove_all_routes(self) -> None:
        """After a climb on a sample, whose bound is none, goes on with all routes."""
        if self._traffic is self._all or self._resumed:
            return
        ascent = self.ascent
        ascent.take(self._all)
        climbs = 0
        while not (ascent.done or self._stopping() or self._reached()):
            before = ascent.best.bound
            self._climb(_FIRST_CLIMB // 2, FirstOf((self._stopping, self._reached)))
            climbs += 1
            flat = ascent.best.bound - before < _FLAT * (self.best.cost - before)
            if flat and (ascent.gains or climbs >= _MOST_FLAT):
                break

    def improve(self) -> None:
        """Rounds of ruin and repair, until these save little for long, the goal or a limit."""
        best, generator = self.best, self._generator
        idle_rounds, rounds_without_improvement = 0, 0
        begun_at = last_improvement = best.work
        notable_cost = best.cost
        while best.work < self._effort and not (self._stopping() or self._reached()):
            least = max(_LEAST_WORK, _LONGER * (last_improvement - begun_at))
            if idle_rounds >= self._params.patience and best.work - last_improvement >= least:
                break
            best.work += _ROUND_WORK
            if rounds_without_improvement >= _GIVEN_UP and self._neighbourhood is not None:
                self._begin_elsewhere()
                rounds_without_improvement = 0
            kind = generator.random()
            if kind < _ROUND_SHARE:
                self._climb(_FIRST_CLIMB // 4, self._stopping)
                better = self._round(middle=False)
            elif kind < _ROUND_SHARE + _EXACT_SHARE and self._neighbourhood is not None:
                better = self._repair_exactly(self._neighbourhood)
            else:
                restless = min(1.0, max(0.0, rounds_without_improvement / _PATIENCE - 1.0))
                changed = self._destroyer.ruined(best.settled.holds, self.ascent.held, generator)
                better = best.settle_from(best.settled, changed, slack=_SLACK * restless)
            self.ascent.aim(best.cost)
            idle_rounds += 1
            rounds_without_improvement = 0 if better else rounds_without_improvement + 1
            if notable_cost - best.cost > _NOTABLE * (notable_cost - self.ascent.best.bound):
                idle_rounds, last_improvement, notable_cost = 0, best.work, best.cost
        if self._stopping():
            best.fill_up()

    def _sweeps_pay(self, timed: float) -> bool:
        """Whether sweeps over the true calls, before the relaxation guides them, take little of the effort or
        of the work that the time allows."""
        sweep = self.best.sweep_work()
        if self._single and self._problem.nodes**3 * self._problem.experts <= _FIRST_CELLS:
            return True
        loose = self._params.goal_gap > _LOOSE_GOAL
        share = _LOOSE_SHARE if loose else _TIMED_SHARE
        if not self._single and sweep <= _FIRST_SHARE * self._effort:
            return True
        return np.isfinite(timed) and self._start is None and sweep <= share * timed

    def _place_from_nothing(self) -> None:
        best = self.best
        if self._sweeps:
            order = np.argsort(-self._problem.capacity_bytes, kind="stable").astype(np.int64)
            early = None if self._seconds is None else MaxRuntime(_SWEEPING_SHARE * self._seconds)
            best.descend("empty", best.pinned, order, early)
            if not self._stopping():
                return
        best.fill_by_popularity()
        if self._fleet and not self._stopping():
            assert self._seconds is not None
            best.descend_by_fleet(FirstOf((self._stopping, MaxRuntime(_SWEEPING_SHARE * self._seconds))))

    def _try_sgd(self) -> None:
        """The result of `sgd`, whose tables are better than those the rounds can afford."""
        best = self.best
        tables = SgdParams(exact_limit=best.tables.exact_limit, eps=best.tables.eps)
        try:
            found = sgd(
                self._problem,
                self._traffic,
                tables,
                self._generator,
                None,
                self._stopping,
                lambda _, __: None,
            )
        except NoPlacement as reason:
            best.failure = best.failure or reason
            return
        best.try_as_it_is("sgd", found)
        self.ascent.aim(best.cost)

    def _is_astray(self, ascent: Ascent) -> bool:
        """Whether multipliers that were carried over are those of another traffic: the potentials that a long
        climb has driven apart take longer to come back than a climb from nothing takes."""
        return self.best.cost - ascent.best.bound > _ASTRAY * abs(self.best.cost)

    def _reached(self) -> bool:
        """Whether the best placement is as near to the bound as is wanted."""
        return self.best.cost - self.ascent.best.bound <= self._goal * abs(self.best.cost)

    @cached_property
    def _neighbourhood(self) -> Neighbourhood | None:
        """The parts that HiGHS can choose anew; None where the problem is too large."""
        try:
            return Neighbourhood(self._problem, self._traffic)
        except TooLarge:
            return None

    def _repair_exactly(self, neighbourhood: Neighbourhood) -> bool:
        """Has HiGHS choose a part of the settled placement anew; True where that is the best of the run."""
        best = self.best
        before = best.settled
        best.work += _EXACT_WORK
        part = neighbourhood.draw(self._generator)
        found = neighbourhood.best(before.holds, best.cost, part)
        if found is None:
            return False
        return best.settle_from(before, found, slack=_SLACK)  # it is no worse than what was settled

    def _begin_elsewhere(self) -> None:
        """Begins a run from a placement drawn by chance; the best so far is kept."""
        try:
            drawn = random(self._problem, self._traffic, self._generator, self._stopping)
        except NoPlacement as reason:
            self.best.failure = self.best.failure or reason
            return
        self.best.begin_run()
        self.best.descend("elsewhere", drawn)

    def _climb(self, steps: int, stopping: Stopping) -> None:
        """Steps of the dual, which raise the bound and move the relaxed placement."""
        for _ in range(steps):
            if self.ascent.done or stopping():
                return
            self.ascent.step()
            self.best.work += self.ascent.work_per_step

    def _round(self, middle: bool) -> bool:
        """Descends from the relaxed placement, rounded at a half (`middle`) or at a threshold drawn per
        block, which keeps together what is held together; True where that is better."""
        problem = self._problem
        threshold = np.full(problem.blocks, 0.5)
        if not middle:
            threshold = self._generator.uniform(*THRESHOLDS, problem.blocks)
        rounded = (self.ascent.held > threshold[problem.column_block]).astype(np.uint8)
        better = self.best.descend("rounded", np.maximum(rounded, self.best.pinned))
        self.ascent.aim(self.best.cost)
        return better
