"""`certified` on a large fleet: bounds area by area, then best responses of all nodes (*ours*).

Where a fleet has so many nodes that a climb on the dual of the whole is not affordable, the areas of
`solvers.dual.clusters` are climbed one by one. Their bounds add up to one of the whole; their relaxed
placements, rounded, are the search's first placement; the nodes of the whole fleet respond to it and to each
other by `solvers.response.fleet`, with true costs, also across areas. What is pooled for the bound is never
taken for the truth.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from solvers.cost.evaluate import total_cost
from solvers.dual.cells import CellCalls
from solvers.dual.clusters import AreaProblems, areas
from solvers.dual.pdhg import Ascent
from solvers.dual.replicas import Reduced, reduced, with_coverage
from solvers.feasible.packing import packable_bytes
from solvers.feasible.repair import PROOF_SECONDS, NoPlacement, allowance, make_feasible
from solvers.heuristics.popularity import filled_up
from solvers.kernels.cells import cover
from solvers.multipliers import AreaMultipliers, Multipliers, RegionMultipliers
from solvers.params import CertifiedParams
from solvers.problem import Coupling, Float64, Int8, Int64, PlacementProblem, UInt8
from solvers.response.fleet import MOST_NODES, FleetResponse
from solvers.stopping import FirstOf, MaxRuntime, Stopping, never
from solvers.tolerances import SAME_COST
from solvers.traffic import Traffic, compile_traffic

_MANY_CALLS = 60_000_000  # N^2 E, of which a step of the climb looks at every one
_SIDE_BY_SIDE = 2  # areas, each with its arrays
_NEAR = 0.01  # relative; servers of an area this alike in latency are one level of its bound
_STEPS = 300  # of the climb of an area at most
_LOOK_EVERY = 15  # steps between two looks at what the climb gains
_FLAT = 1e-3  # relative gain of the bound in that many steps: the climb has ended
_CLIMB_SHARE = 0.65  # of the time or the effort
_KNOWN_SHARE = 0.3  # of the time, for sweeps from placements that are known
_NEAR_ENOUGH = 0.06  # relative gap of a known placement, which the relaxed ones are not better than
_SWEEPS = 8  # of all nodes at most, per start
_SOME_SHARE, _SOME_BLOCKS = 0.5, 0.3  # of the ruins are of some blocks alone, of so many of them
_EFFORT_UNIT = 1_000_000  # units of work, about 10 ns each, per unit of effort and area
_WARM_SHARE = 0.1  # of the effort, where a start is given
_MOST_KEPT = 50_000_000  # numbers of the multipliers of all areas, four bytes each


class Regional(NamedTuple):
    """A feasible placement uint8[N, E], a lower bound on the cost of any, and where the areas' climbs ended;
    None where that is too much to keep."""

    holds: UInt8
    bound: float
    multipliers: RegionMultipliers | None


class _Area(NamedTuple):
    """What the climb of one area has found: its bound, where coverage is left out, or what it is with it; the
    relaxed rows float64[A, E] of its nodes; the multipliers, for the next solve."""

    members: Int64
    found: Reduced
    held: Float64
    multipliers: Multipliers | None
    work: int


def is_large(problem: PlacementProblem) -> bool:
    """Whether a fleet is solved by areas: N^2 E above 60 million, 64 nodes on the shape of DeepSeek-V3."""
    return problem.nodes**2 * problem.experts > _MANY_CALLS and problem.nodes <= MOST_NODES


def region_bound(problem: PlacementProblem, stopping: Stopping, seconds: float | None) -> float:
    """A lower bound on J + M / H of every feasible placement, from climbs that take about so many seconds, or
    go on until they gain little. Each area climbs a step at least."""
    climbs = _Climbs(problem, areas(problem), stopping, seconds, math.inf, None)
    return with_coverage([area.found for area in climbs])[0]


def solve_region(
    problem: PlacementProblem,
    traffic: Traffic,
    params: CertifiedParams,
    generator: np.random.Generator,
    start: UInt8 | None,
    seconds: float | None,
    stopping: Stopping,
    report: Callable[[str, UInt8], None],
    begun: RegionMultipliers | None = None,
) -> Regional:
    """A feasible placement of a large fleet and a bound.

    From the relaxed placements of the areas, and before them from `start` and from what is in force, where
    there is any, sweeps of best responses; then one area after another is emptied, of all or some blocks,
    and its nodes respond anew, until `patience` of them in a row have found nothing or the relative gap is
    `goal_gap`; without a limit in seconds also until the `effort`, which is of every area, is spent. With the
    multipliers of an earlier solve the areas whose nodes are the same climb on from there. Anytime; raises
    `NoPlacement`. A climb of an area of A nodes costs O(A^2 E) a step, a sweep O(N (B E_b^2 + neighbours'
    routes)): both linear in the number of nodes. Memory O(N E + R K).
    """
    parts = areas(problem)
    effort = float(params.effort) * _EFFORT_UNIT * len(parts) * (1.0 if start is None else _WARM_SHARE)
    if seconds is not None and start is None:
        effort = math.inf  # the time is the limit
    search = _Search(problem, traffic, params, generator, report)
    known = [("start", start)]
    if start is None or problem.current is None or (problem.current != start).any():
        known.append(("current", problem.current))
    early = stopping if seconds is None else FirstOf((stopping, MaxRuntime(_KNOWN_SHARE * seconds)))
    for name, given in known:
        if given is not None and given.any() and not (search.holds is not None and early()):
            search.descend_from(name, given, early)
    climbing = None if seconds is None else _CLIMB_SHARE * seconds
    climbs = _Climbs(problem, parts, stopping, climbing, _CLIMB_SHARE * effort / max(1, len(parts)), begun)
    rounded = np.zeros((problem.nodes, problem.experts), np.uint8)
    room, allowed = packable_bytes(problem), allowance(problem)
    proved: list[Reduced] = []
    kept: list[AreaMultipliers] = []
    for area in climbs:
        proved.append(area.found)
        search.work += area.work
        if area.multipliers is not None:
            kept.append(AreaMultipliers(area.members, area.multipliers))
        rounded[area.members] = _rounded(
            problem, area, traffic.activity[area.members], allowed[area.members], room[area.members]
        )
    bound, price = with_coverage(proved)
    if search.holds is None or not (stopping() or search.near(bound, max(_NEAR_ENOUGH, params.goal_gap))):
        search.descend_from("relaxed", rounded, stopping)
    if search.holds is None:
        assert search.failure is not None
        raise search.failure
    idle = 0
    while idle < params.patience and search.work < effort:
        if stopping() or search.near(bound, params.goal_gap):
            break
        idle = 0 if search.ruin(parts[int(generator.integers(len(parts)))], stopping) else idle + 1
    if stopping():
        search.fill_up()
    multipliers = RegionMultipliers(tuple(kept), price)
    return Regional(search.holds, bound, multipliers if kept and multipliers.numbers <= _MOST_KEPT else None)


class _Search:
    """The best placement so far."""

    def __init__(
        self,
        problem: PlacementProblem,
        traffic: Traffic,
        params: CertifiedParams,
        generator: np.random.Generator,
        report: Callable[[str, UInt8], None],
    ) -> None:
        self._problem, self._traffic, self._params = problem, traffic, params
        self._generator, self._report = generator, report
        self._pinned = (allowance(problem) == 1).astype(np.uint8)
        self._response: FleetResponse | None = None
        self.holds: UInt8 | None = None
        self.cost = np.inf
        self.work = 0
        self.failure: NoPlacement | None = None  # the first of a repair

    def near(self, bound: float, gap: float) -> bool:
        """Whether the best placement is within a relative gap of a bound."""
        return self.cost - bound <= gap * abs(self.cost)

    def descend_from(self, name: str, holds: UInt8, stopping: Stopping) -> None:
        """Sweeps from a placement, made feasible, until no node moves; takes it where it is the best. Nothing
        where it cannot be made feasible."""
        feasible = self._feasible(holds, stopping)
        if feasible is None:
            return
        response = self._respond(feasible)
        for _ in range(_SWEEPS):
            if not self._sweep(response, np.arange(self._problem.nodes), stopping) or stopping():
                break
            response.refresh()
        self._take(name, response.holds)

    def ruin(self, members: Int64, stopping: Stopping) -> bool:
        """Empties the nodes `members` of the best placement, of all blocks or of some, and has them respond
        anew; True where that is better."""
        assert self.holds is not None
        problem = self._problem
        emptied = np.ones(problem.experts, np.bool_)
        if self._generator.random() < _SOME_SHARE:
            chosen = self._generator.random(problem.blocks) < _SOME_BLOCKS
            emptied = chosen[problem.column_block]
        ruined = self.holds.copy()
        part = np.ix_(members, emptied)
        ruined[part] = self._pinned[part]
        feasible = self._feasible(ruined, stopping)
        if feasible is None:
            return False
        response = self._respond(feasible)
        for _ in range(_SWEEPS):
            if not self._sweep(response, members, stopping) or stopping():
                break
        return self._take("repair", response.holds)

    def fill_up(self) -> None:
        """The best placement with its free memory filled: interrupted sweeps leave nodes empty."""
        assert self.holds is not None
        self._take("filled", filled_up(self._problem, self._traffic, self.holds))

    def _feasible(self, holds: UInt8, stopping: Stopping) -> UInt8 | None:
        try:
            return make_feasible(
                self._problem,
                self._traffic,
                holds,
                stopping,
                needed=self.holds is None,
                proof_seconds=PROOF_SECONDS if self.failure is None else 0.0,
            )
        except NoPlacement as reason:
            self.failure = self.failure or reason
            return None

    def _respond(self, holds: UInt8) -> FleetResponse:
        if self._response is None:
            self._response = FleetResponse(self._problem, self._traffic, holds, self._params)
        else:
            self._response.take(holds)
        return self._response

    def _sweep(self, response: FleetResponse, nodes: Int64, stopping: Stopping) -> bool:
        moved = False
        for node in self._generator.permutation(nodes).tolist():
            if stopping():
                break
            before = response.work
            moved |= response.respond(node)
            self.work += response.work - before
        return moved

    def _take(self, name: str, holds: UInt8) -> bool:
        cost = total_cost(self._problem, holds)
        if self.holds is not None and not cost < self.cost * (1.0 - SAME_COST):
            return False
        self.holds, self.cost = holds, cost
        self._report(name, holds)
        return True


class _Climbs:
    """All areas, climbed side by side: the time shared out among those that are left, the effort, in units of
    work, the same for each. In the order of the areas."""

    def __init__(
        self,
        problem: PlacementProblem,
        parts: list[Int64],
        stopping: Stopping,
        seconds: float | None,
        effort: float,
        begun: RegionMultipliers | None,
    ) -> None:
        self._problem, self._parts, self._stopping = problem, parts, stopping
        self._made = AreaProblems(problem)
        self._ends = None if seconds is None else time.monotonic() + seconds
        self._left = len(parts)
        self._effort = effort
        self._begun: dict[tuple[int, ...], Multipliers] = {}
        self._price: Float64 | None = None
        if begun is not None and begun.replica_price.shape == (problem.experts,):
            self._begun = {tuple(area.members.tolist()): area.multipliers for area in begun.areas}
            self._price = begun.replica_price if problem.min_replicas else None

    def __iter__(self) -> Iterator[_Area]:
        with ThreadPoolExecutor(_SIDE_BY_SIDE, thread_name_prefix="area") as threads:
            yield from threads.map(self._climb, self._parts)

    def _climb(self, members: Int64) -> _Area:
        limit: Stopping = never
        if self._ends is not None:
            left = max(0.0, self._ends - time.monotonic())
            limit = MaxRuntime(left * min(_SIDE_BY_SIDE, self._left) / self._left)
        problem, own = self._problem, len(members)
        area = self._made.of(members)
        traffic = compile_traffic(area)
        reward = None
        if self._price is not None and problem.coupling is not Coupling.COLOCATED:
            reward = np.zeros((area.nodes, area.experts))
            reward[:own] = self._price
        stopping = FirstOf((self._stopping, limit))
        ascent, work = _climbed(
            area, traffic, reward, self._begun.get(tuple(members.tolist())), stopping, self._effort
        )
        self._left -= 1
        if problem.min_replicas:
            found = reduced(
                area, own, ascent.best, None if reward is None else reward[:own], problem.min_replicas
            )
        else:
            found = Reduced(ascent.best.bound, np.zeros((0, area.experts)))
        held = ascent.held[:own].copy()
        kept = ascent.multipliers
        if kept is not None:
            kept = replace(kept, held=kept.held.astype(np.float16))
        return _Area(members, found, held, kept, work)


def _climbed(
    area: PlacementProblem,
    traffic: Traffic,
    reward: Float64 | None,
    begun: Multipliers | None,
    stopping: Stopping,
    effort: float,
) -> tuple[Ascent, int]:
    """The climb of an area from where an earlier one ended, unless that proves much less now, and its
    work."""
    nothing = np.zeros((area.nodes, area.experts), np.uint8)

    def ascent_from(begun: Multipliers | None) -> Ascent:
        calls = None
        if area.coupling is not Coupling.COLOCATED:
            calls = CellCalls(area, traffic, _NEAR, reward)
        return Ascent(area, traffic, nothing, np.inf, calls=calls, begun=begun)

    ascent = ascent_from(begun)
    if ascent.resumed and not ascent.best.earned.any():  # they prove less than no multipliers do
        ascent = ascent_from(None)
    work, before = 0, 0.0
    for step in range(_STEPS):
        if ascent.done or (step > 0 and (stopping() or work >= effort)):
            break
        ascent.step()
        work += ascent.work_per_step + area.nodes * area.experts
        if step % _LOOK_EVERY == _LOOK_EVERY - 1:
            gained = ascent.best.bound - before
            if (step > 2 * _LOOK_EVERY or ascent.resumed) and gained < _FLAT * ascent.best.bound:
                break
            before = ascent.best.bound
    ascent.average()
    return ascent, work


def _rounded(problem: PlacementProblem, area: _Area, activity: Float64, allowed: Int8, room: Int64) -> UInt8:
    """uint8[A, E]: the relaxed rows made whole, so that the area holds what it calls where it can. An
    interrupted search has nothing better for the nodes that it has not come to."""
    rows = np.empty(area.held.shape, np.uint8)
    calls = activity.sum(axis=0)
    order = np.argsort(-calls / problem.column_bytes, kind="stable")
    order = order[calls[order] > 0.0].astype(np.int64)
    held = np.ascontiguousarray(area.held)
    cover(held, activity, order, allowed, problem.column_bytes, room, rows)
    return rows
