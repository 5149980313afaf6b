"""`solve`: the one place that wires an algorithm, its parameters, the bound and the evidence together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from solvers.cost.evaluate import checked_holds, total_cost
from solvers.dual.pdhg import Ascent, lagrangian_bound
from solvers.exact.exact import exact
from solvers.feasible.repair import Infeasible, NoPlacement
from solvers.feasible.violations import shortfalls
from solvers.heuristics import popularity as baselines
from solvers.heuristics.eplb import eplb, smartmoe
from solvers.heuristics.greedy import greedy
from solvers.heuristics.maxconv import maxconv
from solvers.heuristics.prism import prism
from solvers.heuristics.sgd import sgd
from solvers.multipliers import AnyMultipliers, Multipliers, RegionMultipliers
from solvers.params import (
    DEFAULT_ALGORITHM,
    BaselineParams,
    BoundParams,
    CertifiedParams,
    EplbParams,
    ExactParams,
    GreedyParams,
    MaxconvParams,
    SgdParams,
    read_params,
)
from solvers.placement import Placement
from solvers.problem import PlacementProblem, UInt8
from solvers.result import Progress, SolveResult, SolveStatus, bound_of, gap_ratio
from solvers.search.certified import certified
from solvers.search.region import is_large, region_bound, solve_region
from solvers.stopping import FirstOf, MaxRuntime, Stopping, never
from solvers.tolerances import OPTIMALITY_TOLERANCE
from solvers.traffic import Traffic, compile_traffic

_STUCK = 0.02  # relative gap beyond twice the goal
_LEAST_BOUND_SECONDS = 1.0


@dataclass(frozen=True)
class Task:
    """What an algorithm is given. `report` takes a step's name and the best feasible placement so far;
    `certify` takes a valid lower bound, where the algorithm finds one by itself, and `climbed` the climb that
    the bound goes on with; `hand_on` the multipliers of climbs that have ended, where it made them; `begun`
    is where an earlier one stood. `stopping` is either
    `interrupted`, the caller's criterion, or the end of the `seconds` the search has (None = no limit)."""

    problem: PlacementProblem
    traffic: Traffic
    params: Any
    generator: np.random.Generator
    start: UInt8 | None
    stopping: Stopping
    report: Callable[[str, UInt8], None]
    certify: Callable[[float], None]
    climbed: Callable[[Ascent], None]
    hand_on: Callable[[AnyMultipliers | None], None]
    begun: AnyMultipliers | None
    interrupted: Stopping
    seconds: float | None


@dataclass(frozen=True)
class Algorithm:
    """A named algorithm. `run` returns a feasible placement uint8[N, E] or raises `NoPlacement`. One that
    `certifies` has a lower bound of its own, whatever `bound_steps` says."""

    name: str
    summary: str
    params: type[BoundParams]
    run: Callable[[Task], UInt8]
    certifies: bool = False


def _sgd(task: Task) -> UInt8:
    return sgd(
        task.problem,
        task.traffic,
        task.params,
        task.generator,
        task.start,
        task.stopping,
        task.report,
    )


def _certified(task: Task) -> UInt8:
    if is_large(task.problem):
        regional = solve_region(
            task.problem,
            task.traffic,
            task.params,
            task.generator,
            task.start,
            task.seconds,
            task.stopping,
            task.report,
            task.begun if isinstance(task.begun, RegionMultipliers) else None,
        )
        task.certify(regional.bound)
        task.hand_on(regional.multipliers)
        return regional.holds
    found = certified(
        task.problem,
        task.traffic,
        task.params,
        task.generator,
        task.start,
        task.seconds,
        task.stopping,
        task.report,
        task.begun if isinstance(task.begun, Multipliers) else None,
    )
    task.certify(found.ascent.best.bound)
    task.climbed(found.ascent)
    return found.holds


def _exact(task: Task) -> UInt8:
    return exact(
        task.problem,
        task.traffic,
        task.params,
        task.generator,
        task.start,
        task.seconds,
        task.interrupted,
        task.stopping,
        task.report,
        task.certify,
    )


ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(
    {
        algorithm.name: algorithm
        for algorithm in (
            Algorithm("sgd", "successive greedy decomposition with dynamic programming", SgdParams, _sgd),
            Algorithm(
                "certified",
                "ruin and repair by best responses, guided and certified by the Lagrangian dual",
                CertifiedParams,
                _certified,
                certifies=True,
            ),
            Algorithm(
                "maxconv",
                "as sgd, with the knapsack by max-plus convolution",
                MaxconvParams,
                lambda task: maxconv(
                    task.problem,
                    task.traffic,
                    task.params,
                    task.generator,
                    task.start,
                    task.stopping,
                    task.report,
                ),
            ),
            Algorithm(
                "prism",
                "activation-aware: slots by entropy, each node's most frequent experts, repaired",
                BaselineParams,
                lambda task: prism(task.problem, task.traffic, task.stopping),
            ),
            Algorithm(
                "greedy",
                "the replica that saves most per byte, one after another, lazily",
                GreedyParams,
                lambda task: greedy(task.problem, task.traffic, task.params, task.stopping, task.report),
            ),
            Algorithm(
                "exact",
                "the mixed integer programme through HiGHS, for small instances",
                ExactParams,
                _exact,
                certifies=True,
            ),
            Algorithm(
                "local_popularity",
                "each node holds the experts its own tokens call most",
                BaselineParams,
                lambda task: baselines.local_popularity(task.problem, task.traffic, task.stopping),
            ),
            Algorithm(
                "global_popularity",
                "each node holds the experts all tokens call most",
                BaselineParams,
                lambda task: baselines.global_popularity(task.problem, task.traffic, task.stopping),
            ),
            Algorithm(
                "uniform",
                "round robin, every expert min_replicas times",
                BaselineParams,
                lambda task: baselines.uniform(task.problem, task.traffic, task.stopping),
            ),
            Algorithm(
                "redundance",
                "uniform, then replicas of what is called most",
                BaselineParams,
                lambda task: baselines.redundance(task.problem, task.traffic, task.stopping),
            ),
            Algorithm(
                "random",
                "every expert on a random node, then random replicas",
                BaselineParams,
                lambda task: baselines.random(task.problem, task.traffic, task.generator, task.stopping),
            ),
            Algorithm(
                "eplb",
                "expert-parallel load balancing with replicas, flat or hierarchical, blind to locality",
                EplbParams,
                lambda task: eplb(task.problem, task.traffic, task.params, task.stopping),
            ),
            Algorithm(
                "smartmoe",
                "load balancing without replicas, blind to locality",
                BaselineParams,
                lambda task: smartmoe(task.problem, task.traffic, task.stopping),
            ),
        )
    }
)


def solve(
    problem: PlacementProblem,
    algorithm: str = DEFAULT_ALGORITHM,
    *,
    params: Mapping[str, Any] | BoundParams | None = None,
    seed: int = 0,
    time_limit_seconds: float | None = None,
    start: Placement | None = None,
    multipliers: AnyMultipliers | None = None,
    progress: Callable[[Progress], None] | None = None,
    stopping: Stopping = never,
) -> SolveResult:
    """Places the experts of `problem`.

    Minimises J(X) + M(X0, X) / H subject to memory, packing, coverage, pins and drained nodes. The placement
    returned is feasible whatever stopped the search: `time_limit_seconds` (which covers the bound too; a
    first feasible placement is made even where that takes longer) or `stopping`, which is asked often and
    must be cheap. `start`, a placement of the problem's shape, need not be feasible; the baselines make no
    use of it, nor of the limit. With the `multipliers` of an earlier result, for the same fleet at other
    rates, `certified` begins its bound where that one ended. `progress` is called with each better placement.
    The same seed gives the same placement where no limit cuts the search short.

    Raises `ValueError` for an unknown algorithm, a negative seed or limit, `ParamsError` for a bad parameter,
    `ProblemError` for a `start` of another shape. That no placement is feasible, or that none was found
    within the limit, is a status, with the shortfall in words.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm: is {algorithm!r:.60}, expected one of {', '.join(ALGORITHMS)}")
    if seed < 0:
        raise ValueError(f"seed: is {seed}, expected at least 0")
    if time_limit_seconds is not None and not time_limit_seconds >= 0:
        raise ValueError(f"time_limit_seconds: is {time_limit_seconds}, expected at least 0")
    chosen = ALGORITHMS[algorithm]
    settings = read_params(chosen.params, params)
    first = None if start is None else checked_holds(problem, start.holds)
    began = time.monotonic()
    share = settings.bound_share if settings.bound_steps else 0.0
    seconds = None if time_limit_seconds is None else time_limit_seconds * (1.0 - share)
    search = never if seconds is None else MaxRuntime(seconds)

    def tell(step: str, objective: float | None, bound: float | None) -> None:
        if progress is not None:
            progress(Progress(algorithm, step, objective, bound, time.monotonic() - began))

    def report(step: str, holds: UInt8) -> None:
        if progress is not None:
            tell(step, total_cost(problem, holds), None)

    bounds: list[float] = []
    climbs: list[Ascent] = []
    handed: list[AnyMultipliers | None] = []
    traffic = compile_traffic(problem)
    limit = FirstOf((stopping, search))
    generator = np.random.default_rng(seed)
    try:
        holds = chosen.run(
            Task(
                problem=problem,
                traffic=traffic,
                params=settings,
                generator=generator,
                start=first,
                stopping=limit,
                report=report,
                certify=bounds.append,
                climbed=climbs.append,
                hand_on=handed.append,
                begun=multipliers,
                interrupted=stopping,
                seconds=seconds,
            )
        )
    except NoPlacement as reason:
        runtime = time.monotonic() - began
        why = SolveStatus.INFEASIBLE if isinstance(reason, Infeasible) else SolveStatus.TIME_LIMIT
        return SolveResult(None, why, algorithm, None, None, None, runtime, str(reason))
    cut_short = limit()
    broken = shortfalls(problem, holds)
    if broken:
        raise RuntimeError(f"{algorithm} broke a constraint: {broken[0]}")
    objective = total_cost(problem, holds)
    bound = bound_of(max(bounds), objective) if bounds else None
    tell("bound", objective, bound)
    gap = gap_ratio(objective, bound)
    if settings.bound_steps and (gap is None or gap > max(settings.goal_gap, OPTIMALITY_TOLERANCE)):
        if time_limit_seconds is None:
            used = time.monotonic() - began
            bounding = max(_LEAST_BOUND_SECONDS, used * share / (1.0 - share))
        else:
            left = max(0.0, time_limit_seconds - (time.monotonic() - began))
            bounding = min(left, time_limit_seconds * share)
        limit = FirstOf((stopping, MaxRuntime(bounding)))
        if not is_large(problem):
            begun = climbs[-1] if climbs else None
            steps = settings.bound_steps
            found = lagrangian_bound(problem, traffic, holds, objective, steps, limit, begun).bound
            bound = found if bound is None else max(bound, found)
        elif bound is None:
            bound = bound_of(region_bound(problem, limit, bounding), objective)
    gap = gap_ratio(objective, bound)
    if gap is not None and gap <= OPTIMALITY_TOLERANCE:
        status = SolveStatus.OPTIMAL
    else:
        status = SolveStatus.TIME_LIMIT if cut_short else SolveStatus.FEASIBLE
    tell("done", objective, bound)
    runtime = time.monotonic() - began
    # A climb that went on where another ended, and came not near, is not gone on from.
    stuck = isinstance(multipliers, Multipliers) and (gap is None or gap > _STUCK + 2.0 * settings.goal_gap)
    reached: AnyMultipliers | None = climbs[-1].multipliers if climbs and not stuck else None
    if handed:  # areas that went astray began anew already
        reached = handed[-1]
    return SolveResult(
        Placement(holds), status, algorithm, objective, bound, gap, runtime, multipliers=reached
    )
