"""What the solver process does: pure functions whose arguments and results can be pickled."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from app.solver_process.standing import Standing, worth_it
from migrations.model import Limits, Plan, PlanStatus
from migrations.naming import BY_INDEX, Names
from migrations.planner import plan
from migrations.verify import verify
from migrations.warm import warm as warm_planner
from solvers.algorithms import solve
from solvers.confidence import Judged, judge
from solvers.cost.evaluate import Breakdown, breakdown, evaluate, migration_cost
from solvers.feasible.shortage import Shortage, shortage
from solvers.feasible.violations import shortfalls
from solvers.multipliers import AnyMultipliers
from solvers.placement import Placement
from solvers.precompile import warm
from solvers.problem import Float64, PlacementProblem, UInt8
from solvers.response.holders import nearest_holder
from solvers.response.partial import UNLIMITED, Budget, instalment
from solvers.result import SolveResult, SolveStatus
from solvers.stopping import MaxRuntime

FIRST_TRIAL_SECONDS = 5.0
"""For the trial of a first placement, which decides nothing and says how optimistic the cost is."""


@dataclass(frozen=True, eq=False)
class SolveRequest:
    """`in_force` uint8[N, E]: what the generation in force gives to the nodes; None before the first.

    `budget`: what nodes may receive for the new placement, but for what must be. `names`: what words call
    nodes and experts. `multipliers`: of the solve before, so that the bound begins where that one's ended.
    """

    problem: PlacementProblem
    in_force: UInt8 | None
    algorithm: str
    params: Mapping[str, Any]
    seed: int
    time_limit_seconds: float
    min_improvement: float = 0.0
    budget: Budget = UNLIMITED
    names: Names = BY_INDEX
    multipliers: AnyMultipliers | None = None


@dataclass(frozen=True)
class Trial:
    """A placement made from one half of the traffic and the one in force, where there is one, both judged on
    the other half. `in_sample`: J of the former on its own half."""

    found: Standing
    in_force: Standing | None
    in_sample: float


@dataclass(frozen=True, eq=False)
class SolveOutcome:
    """`holds` uint8[N, E]: the placement proposed, the solver's or the part of it that the budget allows.

    `copies` and `migration_bytes`: what nodes would have to receive to hold it; `withheld_copies`: what more
    for the solver's. `rebalance_copies`: what they would have to receive for the one that balances load as
    EPLB does; None where that has none, nothing is worth moving, or nothing was in force. `to_be_tried`: it
    is a first placement, or pays by `min_improvement` on all of the traffic. `trial`: None where none was
    made. `shortage`: what the fleet lacks, where it is proved that no placement exists.
    """

    result: SolveResult
    found: Standing | None
    in_force: Standing | None
    copies: int
    migration_bytes: int
    holds: UInt8 | None = None
    shortage: Shortage | None = None
    withheld_copies: int = 0
    rebalance_copies: int | None = None
    to_be_tried: bool = False
    trial: Trial | None = None

    @property
    def copies_avoided(self) -> int | None:
        return None if self.rebalance_copies is None else self.rebalance_copies - self.copies


@dataclass(frozen=True)
class PlanOutcome:
    """`refusals`: the rules that the plan would break; a plan with any is not carried out."""

    plan: Plan
    refusals: tuple[str, ...]

    @property
    def failure(self) -> str | None:
        """In words, why it is not to be carried out."""
        if self.plan.status is PlanStatus.INFEASIBLE:
            return self.plan.reason
        if self.refusals:
            return f"refused by verification ({len(self.refusals)} violations): {self.refusals[0]}"
        return None


@dataclass(frozen=True, eq=False)
class AnalysisOutcome:
    """objective: J of what nodes hold; desired_objective: of what they are to hold.

    calls float64[N, E]: calls per second that tokens of each node make; served float64[N]: calls per second
    that each node serves for all nodes.
    """

    objective: float
    desired_objective: float | None
    breakdown: Breakdown
    calls: Float64
    served: Float64


def warm_solver_task() -> None:
    """Load every compiled kernel that a solve uses."""
    warm()


def warm_planner_task() -> None:
    """Load every compiled kernel that a plan uses; the few of an analysis come with the first."""
    warm_planner()


def solve_task(request: SolveRequest) -> SolveOutcome:
    problem = request.problem
    in_force = None if request.in_force is None else _standing(problem, request.in_force, request.names)
    feasible = in_force is not None and not in_force.shortfalls
    result = _solved(request, problem, request.in_force if feasible else None)
    if result.placement is None:
        lack = shortage(problem) if result.status is SolveStatus.INFEASIBLE else None
        return SolveOutcome(result, None, in_force, 0, 0, shortage=lack)
    holds = _part(request, problem, result.placement.holds)
    found = _standing(problem, holds, request.names)
    copies = _copies(problem, holds)
    rebalance_copies = None
    pays = in_force is not None and _pays(request, found, in_force)
    if in_force is not None and (in_force.shortfalls or pays):
        rebalance_copies = _rebalance_copies(problem)
    return SolveOutcome(
        result=result,
        found=found,
        in_force=in_force,
        copies=copies,
        migration_bytes=_received_bytes(problem, holds),
        holds=holds,
        withheld_copies=_copies(problem, result.placement.holds) - copies,
        rebalance_copies=rebalance_copies,
        to_be_tried=in_force is None or (feasible and pays),
    )


def _solved(request: SolveRequest, problem: PlacementProblem, start: UInt8 | None) -> SolveResult:
    return solve(
        problem,
        request.algorithm,
        params=request.params or None,
        seed=request.seed,
        time_limit_seconds=request.time_limit_seconds,
        start=None if start is None else Placement(start),
        multipliers=request.multipliers,
    )


def _part(request: SolveRequest, problem: PlacementProblem, goal: UInt8) -> UInt8:
    """What of the way to `goal` is within the budget; all of it where nothing is in force."""
    if request.in_force is None or request.budget.unlimited:
        return goal
    stopping = MaxRuntime(request.time_limit_seconds)
    return instalment(problem, request.in_force, goal, request.budget, stopping)


def trial_task(request: SolveRequest, first: PlacementProblem, second: PlacementProblem) -> Trial | None:
    """The solve made again with the traffic of one half of the time and judged on that of the other; None
    where the first half has no placement.

    Begun from what is in force a search may end there although the whole was improved from it; then it begins
    anew, so that being stuck is not taken for noise.
    """
    names, in_force = request.names, request.in_force
    # nobody asks how good this one is
    request = replace(request, params={**request.params, "bound_steps": 0})
    if in_force is None:  # the first placement does not wait for it long
        request = replace(request, time_limit_seconds=min(FIRST_TRIAL_SECONDS, request.time_limit_seconds))
        result = _solved(request, first, None)
        if result.placement is None:
            return None
        holds = result.placement.holds
        return Trial(_standing(second, holds, names), None, evaluate(first, holds))
    standing, holds = _standing(first, in_force, names), in_force
    for start in (in_force, None):
        result = _solved(request, first, start)
        if result.placement is None:
            return None
        holds = _part(request, first, result.placement.holds)
        if _pays(request, _standing(first, holds, names), standing):
            break
    return Trial(_standing(second, holds, names), _standing(second, in_force, names), evaluate(first, holds))


def _pays(request: SolveRequest, found: Standing, in_force: Standing) -> bool:
    horizon = request.problem.horizon_seconds
    if horizon is None:
        return found.latency_cost < in_force.latency_cost
    return worth_it(found, in_force, horizon, request.min_improvement)


def _rebalance_copies(problem: PlacementProblem) -> int | None:
    balanced = solve(problem, "eplb", params={"bound_steps": 0}).placement
    return None if balanced is None else _copies(problem, balanced.holds)


def _arriving(problem: PlacementProblem, holds: UInt8) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    held = np.zeros_like(holds) if problem.current is None else problem.current
    arriving: np.ndarray[Any, np.dtype[np.bool_]] = (holds == 1) & (held == 0)
    return arriving


def _copies(problem: PlacementProblem, holds: UInt8) -> int:
    return int(_arriving(problem, holds).sum())


def _received_bytes(problem: PlacementProblem, holds: UInt8) -> int:
    return int(_arriving(problem, holds).sum(axis=0, dtype=np.int64) @ problem.column_bytes)


def plan_task(
    problem: PlacementProblem, source: UInt8, target: UInt8, limits: Limits, names: Names
) -> PlanOutcome:
    found = plan(problem, source, target, limits=limits, names=names)
    if found.status is PlanStatus.INFEASIBLE:
        return PlanOutcome(found, ())
    violations = verify(problem, source, target, found, limits, names=names)
    return PlanOutcome(found, tuple(str(violation) for violation in violations))


def analysis_task(problem: PlacementProblem, held: UInt8, desired: UInt8 | None) -> AnalysisOutcome:
    calls = _calls(problem)
    return AnalysisOutcome(
        objective=evaluate(problem, held),
        desired_objective=None if desired is None else evaluate(problem, desired),
        breakdown=breakdown(problem, held),
        calls=calls,
        served=_served(problem, held, calls),
    )


def outcome_task(problem: PlacementProblem, before: UInt8, after: UInt8) -> tuple[float, float]:
    """J of two placements on the same traffic."""
    return evaluate(problem, before), evaluate(problem, after)


def batch_task(problem: PlacementProblem, holds: UInt8, seconds: float) -> Judged | None:
    """A placement on one batch of traffic, with a lower bound that takes about `seconds`."""
    return judge(problem, holds, seconds)


def _standing(problem: PlacementProblem, holds: UInt8, names: Names) -> Standing:
    return Standing(
        evaluate(problem, holds),
        migration_cost(problem, holds),
        shortfalls(problem, holds, node=names.node, expert=names.expert_of),
    )


def _calls(problem: PlacementProblem) -> Float64:
    """float64[N, E]; O(N E + R K)."""
    experts = problem.route_experts
    given = experts >= 0
    columns = problem.block_offset[problem.route_block][:, None] + experts
    cells = problem.route_node[:, None].astype(np.int64) * problem.experts + columns
    rates = np.broadcast_to(problem.route_rate[:, None], experts.shape)
    size = problem.nodes * problem.experts
    calls: Float64 = np.bincount(cells[given], rates[given], minlength=size).astype(np.float64)
    return calls.reshape(problem.nodes, problem.experts)


def _served(problem: PlacementProblem, held: UInt8, calls: Float64) -> Float64:
    """float64[N]: calls that land on each node when each goes to its nearest holder, or the origin where that
    is nearer."""
    within = np.nextafter(problem.origin_latency_seconds, np.inf)  # a node as near as the origin serves
    holder = nearest_holder(problem.latency_seconds, within, held).T
    by_node = holder >= 0
    served: Float64 = np.bincount(holder[by_node], calls[by_node], minlength=problem.nodes).astype(np.float64)
    return served
