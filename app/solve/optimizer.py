"""One solve, from the problem to its adoption, for the service's own reasons or an operator's."""

import asyncio
import time
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import structlog
from redis.asyncio import Redis

from app.migrate.planning import names_of
from app.observability.metrics import (
    COPIES_AVOIDED,
    PLACEMENT_GAP,
    SOLVER_DECISIONS,
    SOLVER_DURATION,
    SOLVER_FAILURES,
    SOLVER_RUNS,
)
from app.observe.holdup import Holdup
from app.observe.observation import Observation
from app.observe.remedies import not_found
from app.optimizations.schemas import OptimizationRequest, OptimizationResult, Overrides
from app.placements.publish import NotPublished
from app.placements.schemas import Evidence, RouteSamples
from app.publish.publication import publish_matrix
from app.solve.adoption import Decision, decide
from app.solve.budget import budget_left
from app.solve.triggers import Reason
from app.solver_process.process import SolverClosed, SolverCrashed, SolverProcess, TaskError, TaskOverran
from app.solver_process.standing import improvement
from app.solver_process.tasks import SolveOutcome, SolveRequest, solve_task, trial_task
from app.statistics.problem import BuiltProblem
from app.storage.clock import server_now
from app.storage.lease import Lease
from solvers.feasible.shortage import unplaced
from solvers.multipliers import AnyMultipliers
from solvers.problem import PlacementProblem
from solvers.response.partial import UNLIMITED
from solvers.result import SolveStatus, gap_ratio

GRACE_SECONDS = 15.0
"""A solver that has not returned this long after its time limit is ended."""

GRACE_FACTOR = 1.5

log = structlog.stdlib.get_logger(__name__)


class UnknownNode(ValueError):
    """An override names a node that is not registered."""


@dataclass(frozen=True)
class Solved:
    """What came of it; `generation` where it was published, which what was worth it may not have been."""

    outcome: SolveOutcome
    decision: Decision
    generation: int | None
    built: BuiltProblem
    not_found: Holdup | None = None
    """Why there is no placement, where the solve found none."""

    def result(self) -> OptimizationResult:
        result = self.outcome.result
        found, in_force = self.outcome.found, self.outcome.in_force
        tokens = self.built.tokens_per_second
        horizon = self.built.problem.horizon_seconds
        before = None
        if in_force is not None:
            before = in_force.latency_cost
            if horizon is not None:
                before += in_force.migration_seconds / horizon
        objective = result.objective
        if found is not None and self.outcome.withheld_copies:  # part of what the solver found
            objective = found.latency_cost
            if horizon is not None:
                objective += found.migration_seconds / horizon
        return OptimizationResult(
            status=result.status,
            algorithm=result.algorithm,
            objective=_finite(objective),
            lower_bound=_finite(result.lower_bound),
            gap_ratio=None
            if found is None or found.shortfalls
            else _finite(gap_ratio(objective, result.lower_bound)),
            mean_latency_seconds=None
            if found is None or tokens <= 0
            else _finite(found.latency_cost / tokens),
            objective_before=_finite(before),
            runtime_seconds=result.runtime_seconds,
            copies=None if found is None else self.outcome.copies,
            migration_bytes=None if found is None else self.outcome.migration_bytes,
            adopted=self.generation is not None,
            generation=self.generation,
            detail=self.decision.detail,
            remedy=None if self.not_found is None else self.not_found.remedy,
        )


async def solve_and_adopt(
    redis: Redis,
    lease: Lease,
    solver: SolverProcess,
    observation: Observation,
    built: BuiltProblem,
    request: OptimizationRequest,
    reason: str,
    multipliers: AnyMultipliers | None = None,
) -> Solved:
    """Solve, and publish what is worth it unless `request.validate_only`. `multipliers`: as of
    `SolveRequest`.

    Raises `TaskError` when the solver fails, crashes or overruns, `UnknownNode`, `LeaseLost`.
    """
    solved_at = server_now()
    settings = observation.cluster.settings
    names = names_of(observation.fleet, observation.usable, observation.live)
    if request.overrides != Overrides():
        built = pretend(built, request.overrides)
    problem = built.problem
    if request.coupling is not None:
        problem = problem.replace(coupling=request.coupling)
    if request.ignore_migration_cost:
        problem = problem.replace(horizon_seconds=None)
    if built.telemetry_until is None and request.overrides.min_replicas is None:
        problem = await asyncio.to_thread(_each_once, problem)
    built = replace(built, problem=problem)
    budget = UNLIMITED
    if not request.ignore_migration_cost and request.overrides == Overrides():
        budget = await budget_left(redis, observation)
    limit = request.time_limit_seconds or settings.time_limit_seconds
    algorithm = request.algorithm or settings.algorithm
    in_force = None if observation.in_force is None else observation.in_force.holds
    begun = time.monotonic()
    asked = SolveRequest(
        problem=problem,
        in_force=in_force,
        algorithm=algorithm,
        params={"goal_gap": settings.goal_gap_ratio, **request.params},
        seed=request.seed,
        time_limit_seconds=limit,
        min_improvement=settings.min_improvement,
        budget=budget,
        names=names,
        multipliers=multipliers,
    )
    # For the solve, and for the part of it that is chosen where what nodes may receive is bounded.
    deadline = (1 if budget.unlimited else 2) * limit * GRACE_FACTOR + GRACE_SECONDS
    try:
        outcome = await solver.run(solve_task, asked, deadline_seconds=deadline)
        # What an operator asks for is judged by the operator.
        if outcome.to_be_tried and reason != Reason.OPERATOR:
            halves = await asyncio.to_thread(built.halves)
            if halves is not None:
                trial = await solver.run(trial_task, asked, *halves, deadline_seconds=2 * deadline)
                outcome = replace(outcome, trial=trial)
    except TaskError as error:
        _count_failure(error)
        raise
    result = outcome.result
    SOLVER_RUNS.labels(result.algorithm, result.status.value).inc()
    SOLVER_DURATION.labels(result.algorithm).observe(result.runtime_seconds)
    horizon, improvement = settings.horizon_seconds, settings.min_improvement
    if request.ignore_migration_cost and outcome.found is not None:
        free = replace(outcome.found, migration_seconds=0.0)
        decision = decide(replace(outcome, found=free), horizon, improvement)
    else:
        decision = decide(outcome, horizon, improvement)
    missing = not_found(observation, outcome)
    if missing is not None and outcome.found is None:
        proved = result.status is SolveStatus.INFEASIBLE
        decision = Decision(False, f"{'infeasible' if proved else 'not found'}: {missing.reason}")
    generation = None
    if decision.adopt and (request.validate_only or request.overrides != Overrides()):
        decision = Decision(False, f"validate_only; otherwise {decision.detail}")
    if decision.adopt and outcome.holds is not None:
        solved = Solved(outcome, decision, None, built)
        try:
            published = await publish_matrix(
                redis,
                lease,
                observation,
                outcome.holds,
                _evidence(solved, reason, solved_at),
                recomputed=reason != Reason.OPERATOR,
            )
            generation = published.metadata.generation
            if outcome.copies_avoided is not None:
                COPIES_AVOIDED.inc(max(0, outcome.copies_avoided))
        except NotPublished as error:
            decision = replace(decision, detail=f"not adopted: {error}")
    solved = Solved(outcome, decision, generation, built, missing)
    if generation is None and request == OptimizationRequest():
        # What stays in force, against what is known now; of what is adopted its evidence says.
        kept = solved.result().objective_before
        # A placement that breaks a constraint may cost less than any that keeps them.
        in_bounds = outcome.in_force is not None and not outcome.in_force.shortfalls
        gap = gap_ratio(kept, result.lower_bound) if in_bounds else None
        PLACEMENT_GAP.set(observation.cluster.cluster_id, gap)
    SOLVER_DECISIONS.labels("kept" if generation is None else "adopted").inc()
    log.info(
        "solved",
        reason=reason,
        algorithm=result.algorithm,
        status=result.status.value,
        objective=result.objective,
        gap_ratio=result.gap_ratio,
        decision=decision.detail,
        generation=generation,
        seconds=round(time.monotonic() - begun, 3),
    )
    return solved


def _each_once(problem: PlacementProblem) -> PlacementProblem:
    """While nothing is known of the traffic every expert is to be held once where there is room, although
    the origin has them all: tokens that come find them near. O(N E)."""
    if problem.min_replicas > 0:
        return problem
    once = problem.replace(min_replicas=1)
    found = unplaced(once)
    return once if found is not None and found.copies == 0 else problem


def _count_failure(error: TaskError) -> None:
    if isinstance(error, SolverClosed):  # the worker ends: nothing failed
        return
    how = "failed"
    if isinstance(error, (TaskOverran, SolverCrashed)):
        how = "overran" if isinstance(error, TaskOverran) else "crashed"
    SOLVER_FAILURES.labels(how).inc()


def pretend(built: BuiltProblem, overrides: Overrides) -> BuiltProblem:
    """The problem of the fleet that `overrides` describe. Raises `UnknownNode`, `ProblemError`."""
    problem, rows = built.problem, built.fleet.rows
    changes: dict[str, Any] = {}
    for node_id in [*overrides.capacity_bytes, *overrides.remove_nodes]:
        if node_id not in rows:
            raise UnknownNode(f"overrides: node {node_id!r} is not registered")
    if overrides.capacity_bytes:
        capacity = problem.capacity_bytes.copy()
        for node_id, size in overrides.capacity_bytes.items():
            capacity[rows[node_id]] = size
        changes |= _devices_of(problem, capacity)
    usable, tokens = built.usable, built.node_tokens_per_second
    if overrides.remove_nodes:
        removed = np.zeros(problem.nodes, np.bool_)
        removed[[rows[node_id] for node_id in overrides.remove_nodes]] = True
        usable, tokens = usable & ~removed, np.where(removed, 0.0, tokens)
        kept = ~removed[problem.route_node]
        drained = np.zeros(problem.nodes, np.uint8) if problem.drained is None else problem.drained
        changes["drained"] = np.where(removed, 1, drained).astype(np.uint8)
        if problem.current is not None:
            changes["current"] = np.where(removed[:, None], 0, problem.current).astype(np.uint8)
        for key in ("route_node", "route_block", "route_experts", "route_rate"):
            changes[key] = getattr(problem, key)[kept]
    if overrides.min_replicas is not None:
        changes["min_replicas"] = overrides.min_replicas
    if overrides.origin is False:
        changes["origin_latency_seconds"] = np.full(problem.nodes, np.inf)
        changes["origin_egress_bytes_per_second"] = None
        changes["min_replicas"] = max(1, changes.get("min_replicas", problem.min_replicas))
    return replace(built, problem=problem.replace(**changes), usable=usable, node_tokens_per_second=tokens)


def _devices_of(problem: PlacementProblem, capacity: "np.ndarray[Any, np.dtype[np.int64]]") -> dict[str, Any]:
    """Another capacity is shared out over a node's devices as its own is."""
    if problem.device_node is None or problem.device_capacity_bytes is None:
        return {"capacity_bytes": capacity}
    devices = problem.device_capacity_bytes.copy()
    for node in np.flatnonzero(capacity != problem.capacity_bytes).tolist():
        own = np.flatnonzero(problem.device_node == node).tolist()
        before, total = max(1, int(problem.capacity_bytes[node])), int(capacity[node])
        for device in own:
            devices[device] = int(devices[device]) * total // before
        devices[own[0]] += total - int(devices[own].sum())
    return {"capacity_bytes": capacity, "device_capacity_bytes": devices}


def _evidence(solved: Solved, reason: str, solved_at: datetime) -> Evidence:
    result, outcome = solved.result(), solved.outcome
    found, in_force, trial = outcome.found, outcome.in_force, outcome.trial
    comparable = found is not None and in_force is not None and not in_force.shortfalls
    return Evidence(
        algorithm=result.algorithm,
        objective=result.objective,
        lower_bound=result.lower_bound,
        gap_ratio=result.gap_ratio,
        mean_latency_seconds=result.mean_latency_seconds,
        objective_before=result.objective_before,
        migration_bytes=result.migration_bytes,
        runtime_seconds=result.runtime_seconds,
        telemetry_until=solved.built.telemetry_until,
        reason=reason,
        solved_at=solved_at,
        copies=outcome.copies,
        copies_avoided=outcome.copies_avoided,
        copies_withheld=outcome.withheld_copies,
        predicted_improvement_ratio=improvement(found, in_force)
        if comparable and found is not None and in_force is not None
        else None,
        held_out_improvement_ratio=None
        if trial is None or trial.in_force is None
        else improvement(trial.found, trial.in_force),
        cost_in_sample=None if trial is None else _finite(trial.in_sample),
        cost_held_out=None if trial is None else _finite(trial.found.latency_cost),
        samples=None if solved.built.samples is None else RouteSamples(**asdict(solved.built.samples)),
    )


def _finite(value: float | None) -> float | None:
    """Infinite where traffic has nobody to serve it: JSON has no such number."""
    return value if value is not None and np.isfinite(value) else None
