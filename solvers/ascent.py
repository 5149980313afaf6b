"""The climb on the Lagrangian dual; see `solvers.bounds` for what it climbs on."""

from __future__ import annotations

import numpy as np

from solvers.bounds import Dual, Relaxation, cheapest_calls
from solvers.cell_calls import CellCalls
from solvers.hosting import Hosting
from solvers.levels import levels, split
from solvers.problem import Coupling, Float64, PlacementProblem, UInt8
from solvers.single_calls import SingleCalls
from solvers.slowest_calls import SlowestCalls
from solvers.stopping import Stopping
from solvers.traffic import Traffic

# True: with replicas required
_PRIMAL_WEIGHT = {False: 0.2, True: 0.5}  # of the first steps: their length on theta against that on x
_HOSTING_WEIGHT = 1.0  # the first of `colocated`
_CELLS_WEIGHT, _CELLS_BALANCE, _CELLS_RUN = 2.0, 0.3, 20  # the same with the multipliers of cells
_BALANCE = {False: 0.15, True: 0.5}  # of the later ones, in units of what makes both go as far
_FIRST_RUN = {False: 30, True: 60}  # steps before the first restart
_LONGER = {False: 1.5, True: 2.0}  # how much longer each run is
_AVERAGE_EVERY = 10  # steps between two looks at the average
_MOST_HOSTS = 30_000_000  # routes times servers
_MOST_HOSTS_ALONE = 500_000  # without an origin, where hosts are worth less
_ALONE_SHARE = 0.5  # of the calls a route saves with a host; any share in 0..1 is a bound
_FLOOR = {False: 0.01, True: 0.3}  # of the metric of x, in parts of its mean


class _Sums:
    """What the steps since the last restart add up to."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        nodes, experts = shape
        self.steps = 0
        self._constant = 0.0
        self._earned: Float64 = np.zeros((experts, nodes))
        self._price: Float64 = np.zeros(experts)
        self._x: Float64 = np.zeros((nodes, experts))

    def add(self, constant: float, earned: Float64, price: Float64, x: Float64) -> None:
        self.steps += 1
        self._constant += constant
        self._earned += earned
        self._price += price
        self._x += x

    def mean(self) -> tuple[float, Float64, Float64, Float64]:
        steps = self.steps
        return self._constant / steps, self._earned / steps, self._price / steps, self._x / steps


class Ascent:
    """A climb on the dual, from a placement `holds` in the direction of the linear relaxation's optimum.

    The primal-dual hybrid gradient method (Chambolle and Pock 2011) with the averages, restarts, step sizes
    and primal weight of PDLP (Applegate et al. 2021); Euclidean steps on x, in the metric of what a replica
    could earn, and entropic ones on the multipliers. The bound is valid however early it stops. A step costs
    that of the multipliers, see `SlowestCalls` and `Hosting`, and O(N E log).
    """

    def __init__(
        self,
        problem: PlacementProblem,
        traffic: Traffic,
        holds: UInt8,
        objective: float,
        hosting: bool | None = None,
        calls: CellCalls | None = None,
    ) -> None:
        """`hosting`, under `colocated`: with multipliers of hosts; else where they are affordable. `calls`:
        the multipliers to climb with, in place of those the ascent would choose."""
        self._problem = problem
        self._objective = objective
        self._relaxation = Relaxation(problem)
        if hosting is None:
            hosting = not hosts_are_too_many(problem, traffic)
        self._parts = [calls] if calls is not None else _parts(problem, traffic, hosting)
        self._constant = self._fixed(traffic)
        self._covers = problem.min_replicas > 0
        most = np.zeros((problem.experts, problem.nodes))
        for part in self._parts:
            part.most(most)
        self._metric = (
            np.ascontiguousarray(most.T)
            + _FLOOR[self._covers] * float(most.mean() if most.size else 0.0)
            + 1e-300
        )
        self._replica_metric = self._metric.mean(axis=0)
        self._x = self._relaxation.within(holds.astype(np.float64))
        self._before = self._x
        self._price = np.zeros(problem.experts)
        self._profit = np.zeros_like(self._x)
        self._step, self._weight = 1.0, _PRIMAL_WEIGHT[self._covers]
        if problem.coupling is Coupling.COLOCATED:
            self._weight = _HOSTING_WEIGHT
        self._steps, self._run = 0, _FIRST_RUN[self._covers]
        self._balance = _BALANCE[self._covers]
        if calls is not None:
            self._weight, self._balance, self._run = _CELLS_WEIGHT, _CELLS_BALANCE, _CELLS_RUN
        cheapest = cheapest_calls(problem)
        self.best = Dual(cheapest, cheapest, np.zeros_like(most), self._price)
        self.held: Float64 = self._x  # of the relaxation: whole where it is sure
        self.done = problem.experts == 0
        members = 0 if problem.coupling is Coupling.SUM else traffic.experts.size
        # in units of about 10 ns, so that a search can count instead of looking at a clock
        self.work_per_step = problem.nodes * (members // 8 + problem.nodes * problem.experts // 4)
        self._begin()

    def take(self, traffic: Traffic) -> None:
        """Goes on with all routes after a climb on a sample, whose bound was none. Not where `Hosting` is a
        part: its multipliers belong to routes."""
        if self._sums.steps:
            # the average multipliers do better on other routes than the last ones, which follow the sample
            self._restart(self._sums.mean()[2])
        for part in self._parts:
            assert isinstance(part, SlowestCalls)
            part.take(traffic)
        self._constant = self._fixed(traffic)
        cheapest = cheapest_calls(self._problem)
        nothing = np.zeros_like(self.best.earned)
        self.best = Dual(cheapest, cheapest, nothing, np.zeros_like(self._price))
        self._begin()  # an average over both would be a bound on neither
        self.done = False

    def aim(self, objective: float) -> None:
        """A placement of this cost is known: no bound can be above it."""
        self._objective = objective

    def step(self) -> None:
        """One step of the climb; sets `done` where the bound meets the cost of the best placement."""
        tau, sigma = self._step / self._weight, self._step * self._weight
        ahead = 2.0 * self._x - self._before
        held = np.ascontiguousarray(ahead.T)
        earned = np.zeros_like(held)
        constant, far = self._constant, 0.0
        for part in self._parts:
            value, moved = part.step(held, sigma, earned)
            constant += value
            far += moved
        if self._covers:
            price = self._price
            lack = self._problem.min_replicas - ahead.sum(axis=0)
            self._price = np.maximum(0.0, price + sigma * self._replica_metric * lack)
            far += float(((self._price - price) ** 2 / self._replica_metric).sum())
        profit = self._offer(constant, earned, self._price)
        x = self._relaxation.nearest(self._x + tau * (profit / self._metric), tau / self._metric)

        moved_x = x - self._x
        near = float((self._metric * moved_x**2).sum())
        mixed = abs(float(((profit - self._profit) * moved_x).sum()))
        self._before, self._x, self._profit = self._x, x, profit
        self._steps += 1
        if self._steps > 1 and mixed > 0.0:
            limit = 0.5 * (self._weight * near + far / self._weight) / mixed
            k = self._steps + 1.0
            self._step = min((1.0 - k**-0.3) * limit, (1.0 + k**-0.6) * self._step)

        run = self._sums
        run.add(constant, earned, self._price, x)
        ended = run.steps >= self._run
        if ended or run.steps % _AVERAGE_EVERY == 0:
            value, mean, price, self.held = run.mean()
            self._offer(value, mean, price)
            if ended:
                self._restart(price)
        gap = self._objective - self.best.bound
        if np.isfinite(gap) and gap <= 1e-9 * abs(self._objective):
            self.done = True

    def _fixed(self, traffic: Traffic) -> float:
        """What all calls cost at the nearest servers."""
        nearest = levels(self._problem).nearest
        if self._problem.coupling is Coupling.SUM:
            return float((traffic.activity * nearest[:, None]).sum())
        return float((traffic.rate * nearest[traffic.node]).sum())

    def _offer(self, constant: float, earned: Float64, price: Float64) -> Float64:
        """What replicas earn in all, float64[N, E]; keeps the multipliers where their bound is the best."""
        profit, bound = self._relaxation.value(constant, earned, price)
        if bound > self.best.bound:
            self.best = Dual(bound, constant, earned, price)
        return profit

    def _begin(self) -> None:
        self._from = (self._x, self._price)
        self._sums = _Sums(self._x.shape)

    def _restart(self, price: Float64) -> None:
        """Goes on from the averages of the run, with the primal weight that keeps the two distances alike."""
        earned = np.zeros((self._problem.experts, self._problem.nodes))
        constant, far = self._constant, 0.0
        held = np.ascontiguousarray(self.held.T)
        for part in self._parts:
            value, moved = part.restart(held, self._sums.steps, earned)
            constant += value
            far += moved
        self._x = self._before = self.held
        self._price = price
        self._profit = self._offer(constant, earned, price)
        near = float((self._metric * (self._x - self._from[0]) ** 2).sum())
        if self._covers:
            far += float(((price - self._from[1]) ** 2 / self._replica_metric).sum())
        if near > 0.0 and far > 0.0:
            self._weight = float(np.sqrt(self._weight * self._balance * np.sqrt(far / near)))
        self._run = int(self._run * _LONGER[self._covers])
        self._begin()


def hosts_are_too_many(problem: PlacementProblem, traffic: Traffic) -> bool:
    """Where a multiplier per route and server is not affordable, the bound of `slowest` stands in: whoever
    serves a route alone is as far as its slowest call at least."""
    most = _MOST_HOSTS if problem.has_origin else _MOST_HOSTS_ALONE
    return len(traffic.rate) * problem.nodes > most


def _parts(
    problem: PlacementProblem, traffic: Traffic, hosting: bool
) -> list[CellCalls | SlowestCalls | Hosting | SingleCalls]:
    level = levels(problem)
    if problem.coupling is Coupling.SUM:
        return [SingleCalls(traffic.activity, level.order, level.gap)]
    if problem.coupling is Coupling.SLOWEST or not hosting:
        return [SlowestCalls(problem, traffic, level.order, level.gap)]
    # Without an origin a route that no server hosts makes single calls: all but one of them at the nearest
    # server at best, and its slowest. So D is at least the levels of a host up to the second nearest server
    # and a share of those near calls, then the levels of the slowest call, and the other share where no
    # server hosts at all.
    alone = np.full(problem.nodes, np.inf)
    extra = np.zeros(problem.nodes)
    size = (traffic.experts >= 0).sum(axis=1)
    near = np.sort(problem.latency_seconds, axis=1)
    for n in np.flatnonzero(np.isinf(problem.origin_latency_seconds)).tolist():
        several = size[(traffic.node == n) & (size > 1)]
        if len(several):
            others = near[n, 0] * (int(several.min()) - 1)
            alone[n] = near[n, min(1, problem.nodes - 1)] + _ALONE_SHARE * others
            extra[n] = (1.0 - _ALONE_SHARE) * others
    hosted, called = split(level, alone)
    hosted[:, -1] += extra
    parts: list[CellCalls | SlowestCalls | Hosting | SingleCalls] = [
        Hosting(problem, traffic, level.order, hosted)
    ]
    if called.any():
        parts.append(SlowestCalls(problem, traffic, level.order, called))
    return parts


def lagrangian_bound(
    problem: PlacementProblem,
    traffic: Traffic,
    holds: UInt8,
    objective: float,
    steps: int,
    stopping: Stopping,
    begun: Ascent | None = None,
) -> Dual:
    """The best dual after at most `steps` steps of an `Ascent`, the one `begun` or a new one; at least one
    step is made."""
    ascent = begun or Ascent(problem, traffic, holds, objective)
    ascent.aim(objective)
    for step in range(steps):
        if ascent.done or (stopping() and step > 0):
            break
        ascent.step()
    best = ascent.best
    return Dual(max(0.0, min(best.bound, objective)), best.constant, best.earned, best.replica_price)
