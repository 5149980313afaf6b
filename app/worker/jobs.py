"""What operators ask of the worker: solves and plans, one after another, beside its own work."""

import asyncio
from contextlib import suppress
from typing import cast

import numpy as np
import structlog
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError

from app.errors import DamagedRecord
from app.migrate.durations import rounds_of_copies
from app.migrate.migration import Migration
from app.migrate.next_plan import PLAN_SECONDS
from app.migrate.plan_records import newest_plans, outdated_plans, queue_forgetting, read_plan
from app.migrate.planning import (
    names_of,
    plan_record,
    planning_limits,
    problem_for_planning,
    rate_limit,
    receivers,
)
from app.migrate.restoration import CannotRestore, holds_of_generation, restore
from app.migration_plans.schemas import PlanRecord
from app.observe.left_out import LeftOut
from app.observe.observation import Observation
from app.optimizations.schemas import OptimizationRecord, OptimizationResult, OptimizationState
from app.placements.publish import GenerationChanged
from app.runtime.cancellation import end
from app.solve.optimizer import Solved, UnknownNode, solve_and_adopt
from app.solve.triggers import Reason
from app.solver_process.process import SolverClosed, SolverProcess, TaskError
from app.solver_process.tasks import plan_task
from app.statistics.problem import BuiltProblem
from app.storage import topics
from app.storage.clock import server_now
from app.storage.fenced import fenced
from app.storage.jobs import MAX_QUEUED, Job, JobKind
from app.storage.keys import ClusterKeys
from app.storage.lease import Lease
from app.storage.optimistic import Contended
from app.storage.records import read_record, record_json
from migrations.states import PlanState
from solvers.problem import ProblemError, UInt8

AGAIN_SECONDS = 0.5

INTERRUPTED = "the worker that was at it ended; ask again"
DAMAGED = "its job in Redis was damaged; ask again"

log = structlog.stdlib.get_logger(__name__)


class JobRefused(Exception):
    """The job cannot be done, in words."""


class Jobs:
    """The queue of one cluster, for as long as one lease lasts."""

    def __init__(
        self,
        redis: Redis,
        keys: ClusterKeys,
        lease: Lease,
        solver: SolverProcess,
        planner: SolverProcess,
        migration: Migration,
        left_out: LeftOut,
    ) -> None:
        self._left_out = left_out
        self._redis = redis
        self._keys = keys
        self._lease = lease
        self._solver = solver
        self._planner = planner
        self._migration = migration
        self._running: asyncio.Task[None] | None = None
        self._optimization: str | None = None

    @property
    def busy(self) -> bool:
        """A job is being done."""
        return self._running is not None

    async def take_over(self) -> None:
        """What a worker had begun and cannot have finished has failed."""
        await self._fail_abandoned(INTERRUPTED)

    async def _fail_abandoned(self, reason: str) -> None:
        """What was asked for, has no job in the queue and is not being done."""
        keys = self._keys
        # The queue last: what is asked for meanwhile is in it.
        optimizations = cast("list[bytes]", await self._redis.zrevrange(keys.optimizations, 0, -1))
        plans = await newest_plans(self._redis, keys, 2 * MAX_QUEUED)
        busy_with = {job.id for job in await self._queued()} | self._migration.requested
        for found in optimizations:
            record = await self._optimization_record(found.decode())
            if record is None or record.optimization_id in busy_with:
                continue
            if record.state in (OptimizationState.RUNNING, OptimizationState.QUEUED):
                await self._store(record, OptimizationState.FAILED, error=reason)
        for plan_id in plans:
            plan = await self._plan_record(plan_id)
            unplanned = plan is not None and plan.state is PlanState.PENDING and plan.estimate is None
            if plan is not None and unplanned and plan_id not in busy_with:
                await self._store_plan(plan.model_copy(update=_failed(reason)))

    async def step(self, observation: Observation, built: BuiltProblem | None) -> None:
        """See to the job that runs, or begin the next."""
        if self._running is not None:
            if self._running.done():
                task, self._running, self._optimization = self._running, None, None
                if not task.cancelled():
                    task.result()
            elif self._optimization is not None:
                key = self._keys.optimization(self._optimization)
                stored = cast("bytes | None", await self._redis.get(key))
                if stored is None or _is_cancelled(stored, key):
                    log.info("optimization cancelled", optimization=self._optimization)
                    self._running.cancel()
            return
        if not observation.jobs_waiting:
            return
        job = await self._next_job()
        if job is None:
            return
        if job.kind is JobKind.OPTIMIZATION:
            await self._begin_optimization(job, observation, built)
        else:
            await self._pop()
            self._running = asyncio.create_task(self._plan(job, observation, built))

    async def close(self) -> None:
        if self._running is not None:
            await end(self._running)

    # --- solves
    async def _begin_optimization(
        self, job: Job, observation: Observation, built: BuiltProblem | None
    ) -> None:
        record = await self._optimization_record(job.id)
        if record is None or record.state is not OptimizationState.QUEUED:
            await self._pop()
            return
        if built is None:
            await self._store(
                record, OptimizationState.FAILED, error="no node and model are registered", pop=True
            )
            return
        record = await self._store(record, OptimizationState.RUNNING, pop=True)
        self._optimization = job.id
        self._running = asyncio.create_task(self._optimize(record, observation, built))

    async def _optimize(
        self, record: OptimizationRecord, observation: Observation, built: BuiltProblem
    ) -> None:
        request = record.request
        try:
            solved = await solve_and_adopt(
                self._redis, self._lease, self._solver, observation, built, request, Reason.OPERATOR
            )
        except SolverClosed:
            return
        except (TaskError, UnknownNode, ProblemError, RedisError, OSError, Contended) as error:
            log.warning("optimization failed", optimization=record.optimization_id, reason=str(error))
            await self._end(record, OptimizationState.FAILED, error=str(error))
            return
        missing = solved.not_found
        if missing is not None:
            why = missing.reason if missing.remedy is None else f"{missing.reason}; to do: {missing.remedy}"
            log.warning("optimization found no placement", optimization=record.optimization_id, reason=why)
            await self._end(record, OptimizationState.FAILED, result=solved.result(), error=why)
            return
        result = solved.result()
        if solved.outcome.holds is not None:
            seconds = await asyncio.to_thread(self._migration_seconds, solved, observation)
            result = result.model_copy(update={"migration_seconds": seconds})
        await self._end(record, OptimizationState.SUCCEEDED, result=result)

    def _migration_seconds(self, solved: Solved, observation: Observation) -> float | None:
        """What carrying the placement out is expected to take; O(N E)."""
        outcome, current = solved.outcome, solved.built.problem.current
        if outcome.found is None or outcome.holds is None or current is None:
            return None
        rounds = rounds_of_copies(current, outcome.holds, observation.cluster.settings.max_copies_per_node)
        return self._migration.durations.expected(outcome.found.migration_seconds, rounds)

    async def _end(
        self,
        record: OptimizationRecord,
        state: OptimizationState,
        *,
        result: OptimizationResult | None = None,
        error: str | None = None,
    ) -> None:
        """Store the end, however long the server takes to be reached again; a lost lease ends it, too."""
        while True:
            try:
                await self._store(record, state, result=result, error=error)
                return
            except (RedisError, OSError, Contended):
                await asyncio.sleep(AGAIN_SECONDS)

    async def _store(
        self,
        record: OptimizationRecord,
        state: OptimizationState,
        *,
        result: OptimizationResult | None = None,
        error: str | None = None,
        pop: bool = False,
    ) -> OptimizationRecord:
        """Write the record in its new state, unless it was cancelled meanwhile; `pop` takes its job, too."""
        now = server_now()
        began = state is OptimizationState.RUNNING
        after = record.model_copy(
            update={
                "state": state,
                "started_at": now if began else record.started_at,
                "finished_at": None if began else now,
                "result": result,
                "error": error,
            }
        )
        key = self._keys.optimization(record.optimization_id)
        gone = False

        async def check(pipe: Pipeline) -> None:
            nonlocal gone
            stored = cast("bytes | None", await pipe.get(key))
            gone = stored is None or _is_cancelled(stored, key)

        def queue(pipe: Pipeline) -> None:
            if not gone:
                pipe.set(key, record_json(after))
                topics.announce(pipe, self._keys, topics.optimization(record.optimization_id))
            if pop:
                pipe.lpop(self._keys.jobs)

        await fenced(self._redis, self._lease, queue, watch=(key,), check=check)
        return after

    async def _optimization_record(self, optimization_id: str) -> OptimizationRecord | None:
        """None where there is none that can be read."""
        key = self._keys.optimization(optimization_id)

        async def read() -> OptimizationRecord | None:
            stored = cast("bytes | None", await self._redis.get(key))
            return None if stored is None else read_record(OptimizationRecord, stored, key)

        return await self._left_out.read(read, None)

    # --- plans
    async def _plan_record(self, plan_id: str) -> PlanRecord | None:
        """None where there is none that can be read."""
        return await self._left_out.read(lambda: read_plan(self._redis, self._keys, plan_id), None)

    async def _plan(self, job: Job, observation: Observation, built: BuiltProblem | None) -> None:
        record = await self._plan_record(job.id)
        if record is None or record.state is not PlanState.PENDING:
            return
        try:
            if built is None:
                raise JobRefused("no node and model are registered")
            await self._plan_between(record, observation, built)
        except SolverClosed:
            return
        except (JobRefused, CannotRestore, TaskError, GenerationChanged, ProblemError) as error:
            log.warning("plan failed", plan=record.plan_id, reason=str(error))
            await self._store_plan(record.model_copy(update=_failed(str(error))))

    async def _plan_between(self, record: PlanRecord, observation: Observation, built: BuiltProblem) -> None:
        live = observation.live_mask
        target = await self._holds_of(record.to_generation, observation)
        if not record.validate_only:
            await self._go_to(record, target, observation, built)
            return
        source = observation.held
        if record.from_generation is not None:
            source = await self._holds_of(record.from_generation, observation)
        source, target = _only(source, live), _only(target, live)
        settings = observation.cluster.settings
        limit = rate_limit(settings, receivers(source, target))
        outcome = await self._planner.run(
            plan_task,
            problem_for_planning(built.problem, live, limit),
            source,
            target,
            planning_limits(settings.max_copies_per_cluster),
            names_of(observation.fleet),
            deadline_seconds=PLAN_SECONDS,
        )
        planned = await asyncio.to_thread(
            plan_record,
            outcome.plan,
            observation.fleet,
            self._migration.durations,
            moves_at_once=settings.max_copies_per_node,
            plan_id=record.plan_id,
            from_generation=record.from_generation,
            to_generation=record.to_generation,
            created_at=record.created_at,
            state=PlanState.PENDING if outcome.failure is None else PlanState.FAILED,
            reason=outcome.failure,
            validate_only=True,
            rate_limit_bytes_per_second=limit,
        )
        await self._store_plan(planned)

    async def _go_to(
        self, record: PlanRecord, target: UInt8, observation: Observation, built: BuiltProblem
    ) -> None:
        """Bring that generation's placement into force, where it is not, and have the plan made to it."""
        in_force = observation.in_force
        assert in_force is not None  # the generation to go to exists
        generation = in_force.generation
        if generation != record.to_generation:
            reason = f"operator: plan {record.plan_id} to generation {record.to_generation}"
            published = await restore(
                self._redis, self._lease, observation, built.problem, record.to_generation, target, reason
            )
            generation = published.metadata.generation
        self._migration.request(record, generation)

    async def _holds_of(self, generation: int, observation: Observation) -> UInt8:
        return await holds_of_generation(self._redis, self._keys, generation, observation)

    async def _store_plan(self, record: PlanRecord) -> None:
        """Store the plan, however long the server takes to be reached again: its job is gone already."""
        after = record.model_copy(update={"updated_at": server_now()})
        body = await asyncio.to_thread(record_json, after)
        outdated: list[str] = []

        def queue(pipe: Pipeline) -> None:
            pipe.set(self._keys.plan(record.plan_id), body)
            queue_forgetting(pipe, self._keys, outdated)
            topics.announce(pipe, self._keys, topics.plan(record.plan_id))

        while True:
            try:
                outdated = await outdated_plans(self._redis, self._keys)
                await fenced(self._redis, self._lease, queue)
                return
            except (RedisError, OSError, Contended):
                await asyncio.sleep(AGAIN_SECONDS)

    # --- the queue
    async def _queued(self) -> list[Job]:
        """Those that can be read."""
        jobs = []
        for stored in cast("list[bytes]", await self._redis.lrange(self._keys.jobs, 0, MAX_QUEUED - 1)):
            with suppress(DamagedRecord):
                jobs.append(read_record(Job, stored, self._keys.jobs))
        return jobs

    async def _next_job(self) -> Job | None:
        """The first of the queue. One that cannot be read is taken off it, and what asked for it fails."""
        first = cast("bytes | None", await self._redis.lindex(self._keys.jobs, 0))
        if first is None:
            return None
        try:
            return read_record(Job, first, self._keys.jobs)
        except DamagedRecord as damage:
            log.error("a damaged job is taken off the queue", job=first[:200])
            self._left_out.note(damage, self._read_jobs)
            await self._pop()
            await self._fail_abandoned(DAMAGED)
            return None

    async def _read_jobs(self) -> None:
        for stored in cast("list[bytes]", await self._redis.lrange(self._keys.jobs, 0, -1)):
            read_record(Job, stored, self._keys.jobs)

    async def _pop(self) -> None:
        def queue(pipe: Pipeline) -> None:
            pipe.lpop(self._keys.jobs)

        await fenced(self._redis, self._lease, queue)


def _is_cancelled(stored: bytes, key: str) -> bool:
    """A record that cannot be read is not: what is written next mends it."""
    try:
        return read_record(OptimizationRecord, stored, key).state is OptimizationState.CANCELLED
    except DamagedRecord:
        return False


def _failed(reason: str) -> dict[str, object]:
    return {"state": PlanState.FAILED, "reason": reason}


def _only(holds: UInt8, live: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> UInt8:
    """What nodes that are not live hold cannot be moved."""
    kept = holds.copy()
    kept[~live] = 0
    return kept
