"""The climb on the Lagrangian dual; see `solvers.dual.relaxation` for what it climbs on."""

from __future__ import annotations

import numpy as np

from solvers.dual.cells import CellCalls
from solvers.dual.hosted import Hosting
from solvers.dual.radius import levels, split
from solvers.dual.relaxation import Dual, Relaxation, State
from solvers.dual.single import SingleCalls
from solvers.dual.slowest import SlowestCalls
from solvers.multipliers import Multipliers
from solvers.problem import Coupling, Float64, PlacementProblem, UInt8
from solvers.result import bound_of
from solvers.stopping import FirstOf, MaxRuntime, Stopping, seconds_left
from solvers.tolerances import CERTAIN, TINY
from solvers.traffic import Traffic, calls_are_single

_PRIMAL_WEIGHT = 1.0  # of the first steps: their length on the multipliers against that on x
_BALANCE = 0.5  # of the later ones, in units of what makes both go as far
_FIRST_RUN = 5  # steps before the first restart
_LONGER = 1.4  # how much longer each run is
_AVERAGE_EVERY = 5  # steps between two looks at the average
_FLOOR = 0.1  # of the metric of x, in parts of its mean
_MOST_HOSTS = 30_000_000  # routes times servers
_MOST_HOSTS_ALONE = 500_000  # without an origin, where hosts are worth less
_ALONE_SHARE = 0.5  # of the calls a route saves with a host; any share in 0..1 is a bound
_MOST_SINGLE_CALLS = 50_000_000  # nodes times experts times levels; with more, far servers share a level
_MOST_CALLS = 15_000_000  # experts of routes times levels; with more, far servers share a level
_LEAST_LEVELS = 8
_SETTLINGS = 4  # each from the averages of the one before
_SETTLED = 0.3  # of the time of a last climb, which is left for steps on whole knapsacks
_PATIENCE, _SHORTER = 6, 0.7  # steps on whole knapsacks without a better bound, after which they get shorter
_NEAR = 0.1  # relative; servers of a node this alike in latency share a level while the climb begins
_MANY_NODES = 16  # above which it begins so, for a step costs as much as there are levels
_MOST_KEPT = 25_000_000  # numbers of the multipliers that another climb may go on from

_Part = CellCalls | SlowestCalls | Hosting | SingleCalls


class Ascent:
    """A climb on the dual, from a placement `holds` in the direction of the linear relaxation's optimum.

    The primal-dual hybrid gradient method (Chambolle and Pock 2011) with the averages, restarts, step sizes
    and primal weight of PDLP (Applegate et al. 2021); entropic steps on the multipliers, Euclidean ones on x,
    in the metric of what a replica earned in the run before: what it could earn at most, the first metric, is
    a hundred times more where there are many nodes and an origin far away, and as much slower. The bound is
    valid however early it stops. A step costs that of the multipliers, see `SlowestCalls` and `Hosting`, and
    O(N E log).
    """

    def __init__(
        self,
        problem: PlacementProblem,
        traffic: Traffic,
        holds: UInt8,
        objective: float,
        hosting: bool | None = None,
        calls: CellCalls | None = None,
        begun: Multipliers | None = None,
        coarse: bool = False,
    ) -> None:
        """`hosting`, under `colocated`: with multipliers of hosts; else where they are affordable. `calls`:
        the multipliers to climb with, in place of those the ascent would choose. `begun`: where another climb
        stood, to go on there in place of `holds`; see `resumed`. `coarse`: a large fleet begins with few
        levels; see `refine`."""
        self._problem = problem
        self._objective = objective
        self._relaxation = Relaxation(problem)
        if hosting is None:
            hosting = not hosts_are_too_many(problem, traffic)
        near = _NEAR if coarse and begun is None and problem.nodes > _MANY_NODES else 0.0
        self._parts = [calls] if calls is not None else _parts(problem, traffic, hosting, near)
        self._coarse = near > 0.0 and isinstance(self._parts[0], SlowestCalls)
        self._fixed = self._nearest_calls(traffic)
        self._covers = problem.min_replicas > 0
        self._state = State(self._relaxation.within(holds.astype(np.float64)))
        self._price = self._relaxation.least_price()
        self._copies = float(self._price.mean()) if problem.experts else 0.0
        self._step, self._weight = 1.0, _PRIMAL_WEIGHT
        self._steps, self._run = 0, _FIRST_RUN
        self.best = self._nothing()
        self._trivial = self.best.bound
        self.held: Float64 = self._state.x.copy()  # of the relaxation: whole where it is sure
        self.done = problem.experts == 0
        self.resumed = begun is not None and self._resume(begun)  # False where it was of another shape
        if not self.resumed:
            most = np.zeros((problem.nodes, problem.experts))
            for part in self._parts:
                part.most(most)
            self._measure_by(most)
        self._begin()

    @property
    def work_per_step(self) -> int:
        """In units of about 10 ns, so that a search can count instead of looking at a clock."""
        return sum(part.work for part in self._parts)

    @property
    def multipliers(self) -> Multipliers | None:
        """Where it stands, for another climb to go on from; None where that is too much to keep."""
        parts = tuple(part.multipliers for part in (self._fine_parts() if self._coarse else self._parts))
        held = self._state.x.astype(np.float32)
        kept = Multipliers(parts, self._price.copy(), held, self._weight, self._step, self._steps)
        return kept if kept.numbers <= _MOST_KEPT else None

    @property
    def gains(self) -> bool:
        """Whether its bound is above that of no multipliers: the first steps only bring these into play, and
        say nothing of what the next ones will gain."""
        return self.best.bound > self._trivial

    def refine(self) -> bool:
        """Gives every server a level of its own, which makes the steps dearer and the bound sharper, and goes
        on from the averages; False where they have one already."""
        if not self._coarse:
            return False
        if self._run_steps:
            self.held = self._state.sum_x / self._run_steps
            self._restart(self._sum_price / self._run_steps)
        self._parts = self._fine_parts()
        self._coarse = False
        self._stand(1, self._price)
        self._begin()
        return True

    def _fine_parts(self) -> list[_Part]:
        coarse = self._parts[0]
        assert isinstance(coarse, SlowestCalls)
        level = levels(self._problem, _most_levels(coarse.traffic))
        return [coarse.refined(level.order, level.gap)]

    def take(self, traffic: Traffic) -> None:
        """Goes on with all routes after a climb on a sample, whose bound was none: from the averages, which
        do better on other routes than the last multipliers, which follow the sample. Not where `Hosting` is
        a part: its multipliers belong to routes."""
        for part in self._parts:
            assert isinstance(part, SlowestCalls)
            part.take(traffic)
        self._fixed = self._nearest_calls(traffic)
        self.best = self._nothing()
        self._trivial = self.best.bound
        self.done = False
        if self._run_steps:
            self.held = self._state.sum_x / self._run_steps
            weight = self._weight
            self._restart(self._sum_price / self._run_steps)
            self._weight = weight  # by distances on one traffic, not between two

    def average(self) -> None:
        """Goes to the averages of the steps since the last restart, which prove more than where a step
        ends."""
        if self._run_steps:
            self.held = self._state.sum_x / self._run_steps
            self._restart(self._sum_price / self._run_steps)

    def aim(self, objective: float) -> None:
        """A placement of this cost is known: no bound can be above it."""
        self._objective = objective

    def step(self) -> None:
        """One step of the climb; sets `done` where the bound meets the cost of the best placement."""
        tau, sigma = self._step / self._weight, self._step * self._weight
        state = self._state
        earned = np.zeros_like(state.x)
        constant, far = self._fixed, 0.0
        for part in self._parts:
            value, moved = part.step(state.ahead, sigma, earned)
            constant += value
            far += moved
        if self._covers:
            price = self._price
            lack = self._problem.min_replicas - state.ahead.sum(axis=0)
            self._price = np.maximum(0.0, price + sigma * self._replica_metric * lack)
            far += float(((self._price - price) ** 2 / self._replica_metric).sum())
        near, mixed = self._relaxation.advance(state, earned, self._price, self._metric, tau)
        mixed = abs(mixed)
        self._steps += 1
        if self._steps > 1 and mixed > 0.0:
            limit = 0.5 * (self._weight * near + far / self._weight) / mixed
            k = self._steps + 1.0
            self._step = min((1.0 - k**-0.3) * limit, (1.0 + k**-0.6) * self._step)

        self._run_steps += 1
        self._sum_constant += constant
        self._sum_price += self._price
        ended = self._run_steps >= self._run
        if ended or self._run_steps % _AVERAGE_EVERY == 0 or self._steps == 1:
            self._look()
            if ended:
                self._restart(self._sum_price / self._run_steps)
        gap = self._objective - self.best.bound
        if np.isfinite(gap) and gap <= CERTAIN * abs(self._objective):
            self.done = True

    @property
    def several_sizes(self) -> bool:
        """Whether whole knapsacks may be worth less than fractional ones."""
        return self._relaxation.several_sizes

    def settle(self, steps: int, stopping: Stopping) -> None:
        """At most so many steps of the multipliers against whole knapsacks, which are worth less than the
        fractional ones of the climb where experts have several sizes: a subgradient method with step lengths
        after Polyak, towards the cost of the best placement. It begins and ends at averages, so that the
        climb may go on. Nothing where experts have one size."""
        if not (self._relaxation.several_sizes and np.isfinite(self._objective)) or self.done:
            return
        if self._run_steps:
            self._restart(self._sum_price / self._run_steps)
        price, length, share, idle = self._price, self._step * self._weight, 1.0, 0
        earned = np.zeros_like(self.held)
        constant = self._fixed + sum(part.step(self.held, 0.0, earned)[0] for part in self._parts)
        _, held = self._relaxation.best(constant, earned, price)
        taken, prices = 1, price.copy()
        while taken <= steps and not (self.done or stopping()):
            earned = np.zeros_like(held)
            constant, far = self._fixed, 0.0
            for part in self._parts:
                value, moved = part.step(held, length, earned)
                constant += value
                far += moved
            if self._covers:
                before = price
                lack = self._problem.min_replicas - held.sum(axis=0)
                price = np.maximum(0.0, price + length * self._replica_metric * lack)
                far += float(((price - before) ** 2 / self._replica_metric).sum())
            taken += 1
            prices += price
            bound, held = self._relaxation.best(constant, earned, price)
            idle += 1
            if bound > self.best.bound:
                self.best, idle = Dual(bound, constant, earned, price), 0
            if idle >= _PATIENCE:
                idle, share = 0, share * _SHORTER
            if self._objective - self.best.bound <= CERTAIN * abs(self._objective):
                self.done = True
            if far > 0.0:
                length *= min(2.0, max(0.5, share * (self._objective - bound) * length / far))
        self._stand(taken, prices / taken)
        self._begin()

    def _nearest_calls(self, traffic: Traffic) -> float:
        """What all calls cost at the nearest servers."""
        nearest = levels(self._problem).nearest
        if calls_are_single(self._problem, traffic):
            return float((traffic.activity * nearest[:, None]).sum())
        return float((traffic.rate * nearest[traffic.node]).sum())

    def _nothing(self) -> Dual:
        """No multipliers on calls: every one at its nearest server, and the replicas there must be opened
        where that costs least."""
        earned, price = np.zeros_like(self._state.x), self._relaxation.least_price()
        return Dual(self._relaxation.value(self._fixed, earned, price), self._fixed, earned, price)

    def _measure_by(self, earned: Float64) -> None:
        """Steps of x are measured by what replicas earn, float64[N, E]; and a little by what those cost that
        must be copied, for where nothing is called they earn nothing else."""
        mean = self._copies + (float(earned.mean()) if earned.size else 0.0)
        self._metric = earned + (_FLOOR * mean + TINY)
        self._replica_metric = self._metric.mean(axis=0)

    def _look(self) -> None:
        """At the average of the run so far."""
        steps = self._run_steps
        self.held = self._state.sum_x / steps
        self._offer(self._sum_constant / steps, self._state.sum_earned / steps, self._sum_price / steps)

    def _stand(self, steps: int, price: Float64) -> tuple[Float64, float]:
        """Goes to the averages of so many steps, `held` being theirs; returns what replicas earn there,
        float64[N, E], and how far the parts' multipliers are from where they were at the last restart."""
        state = self._state
        earned = np.zeros_like(state.x)
        constant, far = self._fixed, 0.0
        for part in self._parts:
            value, moved = part.restart(self.held, steps, earned)
            constant += value
            far += moved
        state.x[:] = self.held
        state.ahead[:] = self.held
        state.profit[:] = self._relaxation.profit(earned, price)
        self._price = price
        self._offer(constant, earned, price)
        return earned, far

    def _resume(self, begun: Multipliers) -> bool:
        """Goes to where another climb stood, if it was of this shape."""
        same = begun.held.shape == self.held.shape and len(begun.parts) == len(self._parts)
        for part, given in zip(self._parts, begun.parts, strict=False):
            same = same and part.resume(given)
        if not same:
            return False
        self.held = self._relaxation.within(begun.held.astype(np.float64))
        self._weight, self._step, self._steps = begun.weight, begun.step, begun.steps
        earned, _ = self._stand(1, begun.replica_price if self._covers else self._price)
        self._measure_by(earned)
        return True

    def _offer(self, constant: float, earned: Float64, price: Float64) -> None:
        """Keeps the multipliers where their bound is the best."""
        bound = self._relaxation.value(constant, earned, price)
        if bound > self.best.bound:
            self.best = Dual(bound, constant, earned, price)

    def _begin(self) -> None:
        self._from = (self._state.x.copy(), self._price)
        self._state.sum_x[:] = 0.0
        self._state.sum_earned[:] = 0.0
        self._run_steps = 0
        self._sum_constant = 0.0
        self._sum_price = np.zeros_like(self._price)

    def _restart(self, price: Float64) -> None:
        """Goes on from the averages of the run, measured anew, with the primal weight that keeps the two
        distances alike."""
        state = self._state
        self._measure_by(state.sum_earned / self._run_steps)
        _, far = self._stand(self._run_steps, price)
        near = float((self._metric * (state.x - self._from[0]) ** 2).sum())
        if self._covers:
            far += float(((price - self._from[1]) ** 2 / self._replica_metric).sum())
        if near > 0.0 and far > 0.0:
            self._weight = float(np.sqrt(self._weight * _BALANCE * np.sqrt(far / near)))
        self._run = int(np.ceil(self._run * _LONGER))
        self._begin()


def hosts_are_too_many(problem: PlacementProblem, traffic: Traffic) -> bool:
    """Where a multiplier per route and server is not affordable, the bound of `slowest` stands in: whoever
    serves a route alone is as far as its slowest call at least."""
    most = _MOST_HOSTS if problem.has_origin else _MOST_HOSTS_ALONE
    return len(traffic.rate) * problem.nodes > most


def _most_levels(traffic: Traffic) -> int:
    return max(_LEAST_LEVELS, _MOST_CALLS // max(1, traffic.experts.size))


def _parts(problem: PlacementProblem, traffic: Traffic, hosting: bool, near: float) -> list[_Part]:
    if calls_are_single(problem, traffic):
        cells = problem.nodes * problem.experts
        level = levels(problem, max(_LEAST_LEVELS, _MOST_SINGLE_CALLS // max(1, cells)))
        return [SingleCalls(traffic.activity, problem.block_offset, level.order, level.gap)]
    if problem.coupling is Coupling.SLOWEST or not hosting:
        level = levels(problem, _most_levels(traffic), near)
        return [SlowestCalls(problem, traffic, level.order, level.gap)]
    # Without an origin a route makes single calls where they cost less than its nearest host. At least two
    # servers serve them: all but one of them the nearest server at best, and its slowest. So D is at least
    # the levels of a host up to the second nearest server and a share of those near calls, then the levels
    # of the slowest call, and the other share where no server hosts at all.
    level = levels(problem)
    alone = np.full(problem.nodes, np.inf)
    extra = np.zeros(problem.nodes)
    size = (traffic.experts >= 0).sum(axis=1)
    by_distance = np.sort(problem.latency_seconds, axis=1)
    for n in np.flatnonzero(np.isinf(problem.origin_latency_seconds)).tolist():
        several = size[(traffic.node == n) & (size > 1)]
        if len(several):
            others = by_distance[n, 0] * (int(several.min()) - 1)
            alone[n] = by_distance[n, min(1, problem.nodes - 1)] + _ALONE_SHARE * others
            extra[n] = (1.0 - _ALONE_SHARE) * others
    hosted, called = split(level, alone)
    hosted[:, -1] += extra
    parts: list[_Part] = [Hosting(problem, traffic, level.order, hosted)]
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
    """The best dual after at most `steps` steps of an `Ascent`, the one `begun` or a new one, which makes one
    at least, and as many on whole knapsacks where experts have several sizes."""
    ascent = begun or Ascent(problem, traffic, holds, objective)
    ascent.aim(objective)
    left, climbing = seconds_left(stopping), stopping
    if ascent.several_sizes and np.isfinite(left):
        climbing = FirstOf((stopping, MaxRuntime((1.0 - _SETTLED) * left)))
    for step in range(steps):
        if ascent.done or ((begun is not None or step > 0) and climbing()):
            break
        ascent.step()
    for _ in range(_SETTLINGS):
        ascent.settle(-(-steps // _SETTLINGS), stopping)
    best = ascent.best
    return Dual(max(0.0, bound_of(best.bound, objective)), best.constant, best.earned, best.replica_price)
