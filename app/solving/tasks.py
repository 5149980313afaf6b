"""What the solver process does: pure functions whose arguments and results can be pickled."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from migrations.model import Limits, Plan, PlanStatus
from migrations.naming import Names
from migrations.planner import plan
from migrations.verify import verify
from migrations.warm import warm as warm_planner
from solvers.feasibility import shortfalls
from solvers.objective import Breakdown, breakdown, evaluate, migration_cost
from solvers.placement import Placement
from solvers.problem import Float64, PlacementProblem, UInt8
from solvers.result import SolveResult
from solvers.solve import solve
from solvers.warm import warm


@dataclass(frozen=True, eq=False)
class SolveRequest:
    """`in_force` uint8[N, E]: what the generation in force gives to the nodes; None before the first."""

    problem: PlacementProblem
    in_force: UInt8 | None
    algorithm: str
    params: Mapping[str, Any]
    seed: int
    time_limit_seconds: float


@dataclass(frozen=True)
class Standing:
    """How a placement does on the problem: J, and M of getting there from what nodes hold."""

    latency_cost: float
    migration_seconds: float
    shortfalls: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class SolveOutcome:
    """`copies` and `migration_bytes`: what nodes would have to receive to hold the new placement."""

    result: SolveResult
    found: Standing | None
    in_force: Standing | None
    copies: int
    migration_bytes: int


@dataclass(frozen=True)
class PlanOutcome:
    """`refusals`: the rules that the plan would break; a plan with any is not carried out."""

    plan: Plan
    refusals: tuple[str, ...]


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


def warm_task() -> None:
    """Load every compiled kernel."""
    warm()
    warm_planner()


def solve_task(request: SolveRequest) -> SolveOutcome:
    problem = request.problem
    in_force = None if request.in_force is None else _standing(problem, request.in_force)
    start = None
    if in_force is not None and not in_force.shortfalls and request.in_force is not None:
        start = Placement(request.in_force)
    result = solve(
        problem,
        request.algorithm,
        params=request.params or None,
        seed=request.seed,
        time_limit_seconds=request.time_limit_seconds,
        start=start,
    )
    if result.placement is None:
        return SolveOutcome(result, None, in_force, 0, 0)
    holds = result.placement.holds
    held = np.zeros_like(holds) if problem.current is None else problem.current
    arriving = (holds == 1) & (held == 0)
    return SolveOutcome(
        result=result,
        found=_standing(problem, holds),
        in_force=in_force,
        copies=int(arriving.sum()),
        migration_bytes=int(arriving.sum(axis=0, dtype=np.int64) @ problem.column_bytes),
    )


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


def _standing(problem: PlacementProblem, holds: UInt8) -> Standing:
    return Standing(evaluate(problem, holds), migration_cost(problem, holds), shortfalls(problem, holds))


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
    is nearer; O(N^2 E)."""
    served = np.zeros(problem.nodes)
    for node in range(problem.nodes):
        left = calls[node].copy()
        latency = problem.latency_seconds[node]
        for holder in np.argsort(latency, kind="stable").tolist():
            if latency[holder] > problem.origin_latency_seconds[node] or np.isinf(latency[holder]):
                break
            here = held[holder] == 1
            served[holder] += left[here].sum()
            left[here] = 0.0
    return served
