"""One cluster under this worker's lease: look, decide, act, again and again."""

import asyncio
import time
from datetime import UTC, datetime

import numpy as np
import structlog
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError

from app.config import Settings
from app.instance.problem import BuiltProblem, build_problem
from app.instance.statistics import Statistics
from app.metrics import WORKER_TICK
from app.nodes.schemas import LatencySpec
from app.optimizations.schemas import OptimizationRequest
from app.placements.schemas import PlacementStatus
from app.solving.analysis import compose_analysis
from app.solving.cancellation import end
from app.solving.conditions import TELEMETRY_FRESH_INTERVALS, Telemetry, placement_status
from app.solving.departures import departing, remove_node
from app.solving.fold import FoldMoved, TelemetryFold
from app.solving.jobs import Jobs
from app.solving.migration import Migration
from app.solving.observation import Observation, Observer
from app.solving.optimizer import Solved, solve_and_adopt
from app.solving.publication import show_in_metrics
from app.solving.routing import RoutingTables
from app.solving.solver_process import SolverClosed, SolverProcess, TaskError
from app.solving.tasks import analysis_task
from app.solving.triggers import URGENT, Reason, Triggers
from app.solving.withdrawal import Withdrawal
from app.storage import topics
from app.storage.documents import encode_document, queue_document, read_document
from app.storage.fenced import Contended, fenced
from app.storage.keys import ClusterKeys
from app.storage.lease import Lease
from solvers.problem import PlacementProblem

FOLD_SECONDS = 0.5
"""How long one look folds at most; what is left comes with the next."""

ANALYSIS_SECONDS = 2.0
ANALYSIS_REST_FACTOR = 10.0
"""An analysis that takes t is made at most every max(ANALYSIS_SECONDS, ANALYSIS_REST_FACTOR * t)."""

ANALYSIS_DEADLINE_SECONDS = 60.0

BACK_OFF_SECONDS = 2.0
BACK_OFF_LIMIT_SECONDS = 60.0
"""After a solve that failed (crashed, overran): doubled each time."""

MIN_PAUSE_SECONDS = 0.02
"""Between two looks, however often it is woken."""

log = structlog.stdlib.get_logger(__name__)


class ClusterController:
    """Everything the worker does for one cluster, for as long as one lease lasts."""

    def __init__(
        self,
        redis: Redis,
        lease: Lease,
        settings: Settings,
        solver: SolverProcess,
        planner: SolverProcess,
        wake: asyncio.Event,
    ) -> None:
        keys = ClusterKeys(lease.cluster_id)
        self._redis = redis
        self._keys = keys
        self._lease = lease
        self._settings = settings
        self._solver = solver
        self._planner = planner
        self._wake = wake
        self._observer = Observer(redis, keys)
        self._fold = TelemetryFold(redis, keys, lease)
        self._statistics = Statistics({}, None)
        self._statistics_version = 0
        self._withdrawal = Withdrawal()
        self._routing = RoutingTables(redis, keys, lease, self._withdrawal)
        self._migration = Migration(
            redis,
            keys,
            lease,
            planner,
            self._withdrawal,
            self._routing,
            heartbeat_seconds=settings.heartbeat_interval_seconds,
            lease_seconds=settings.node_lease_seconds,
        )
        self._jobs = Jobs(redis, keys, lease, solver, planner, self._migration)
        self._triggers = Triggers()
        self._base: tuple[tuple[object, ...], dict[str, LatencySpec | None], PlacementProblem] | None = None
        self._built: tuple[tuple[object, ...], BuiltProblem] | None = None
        self._solving: asyncio.Task[Solved] | None = None
        self._solving_reason: Reason | None = None
        self._solve_not_before = 0.0
        self._solve_failures = 0
        self._trouble: str | None = None
        self._analysis: asyncio.Task[None] | None = None
        self._analysed: object = None
        self._analysis_not_before = 0.0
        self._status: PlacementStatus | None = None
        self._shown_generation: int | None = None

    async def run(self) -> None:
        """Until cancelled, the lease is lost (`LeaseLost`) or the cluster is gone (returns)."""
        structlog.contextvars.bind_contextvars(cluster_id=self._lease.cluster_id)
        taken_over = False
        failures = 0
        try:
            while True:
                self._wake.clear()
                begun = time.monotonic()
                try:
                    if not taken_over:
                        taken_over = await self._take_over()
                    if not await self._tick():
                        return
                    failures = 0
                except (RedisError, OSError, FoldMoved, Contended) as error:
                    failures += 1
                    log.warning(
                        "look abandoned", reason=f"{type(error).__name__}: {error}", failures=failures
                    )
                    await asyncio.sleep(min(0.1 * 2**failures, 2.0))
                WORKER_TICK.observe(time.monotonic() - begun)
                await asyncio.sleep(MIN_PAUSE_SECONDS)
                try:
                    async with asyncio.timeout(self._settings.worker_tick_seconds):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            await self._close()

    async def _close(self) -> None:
        running = [task for task in (self._solving, self._analysis) if task is not None]
        await end(*running)
        await self._jobs.close()
        await self._migration.close()

    async def _take_over(self) -> bool:
        observation = await self._observer.look()
        if observation is not None:
            await self._migration.take_over(observation)
            await self._jobs.take_over()
            stored = await read_document(self._redis, self._keys.placement_status)
            if stored is not None:
                self._status = PlacementStatus.model_validate_json(stored.json)
        return True

    # --- one look
    async def _tick(self) -> bool:
        await self._migration.read_reports()
        observation = await self._observer.look()
        if observation is None:
            return False
        await self._fold_telemetry(observation)
        base = await self._base_problem(observation)
        if base is not None:
            await self._migration.step(observation, base)
            await self._routing.refresh(observation, base)
        await self._solve(observation)
        built = await self._problem(observation) if observation.jobs_waiting else None
        await self._jobs.step(observation, built)
        if base is not None:
            await self._plan(observation, base)
            await self._analyse(observation)
        await self._depart(observation)
        await self._show(observation, base)
        return True

    async def _fold_telemetry(self, observation: Observation) -> None:
        models = dict(zip(observation.fleet.model_ids, observation.fleet.models, strict=True))
        settings = observation.cluster.settings
        until = time.monotonic() + FOLD_SECONDS
        changed = False
        while True:
            outcome = await self._fold.fold(models, observation.fleet.node_ids, settings)
            changed |= outcome.changed
            if not outcome.more or time.monotonic() > until:
                break
        if changed or (self._statistics_version == 0):
            self._statistics = await self._fold.statistics(models, settings)
            self._statistics_version += 1

    async def _base_problem(self, observation: Observation) -> PlacementProblem | None:
        """Nodes, devices and latencies alone: what routing and releasing need with every look."""
        if not observation.fleet.nodes or not observation.fleet.models:
            return None
        key = (observation.spec_version, observation.live_version)
        measured = {node_id: status.latency for node_id, status in observation.statuses.items()}
        if self._base is None or self._base[0] != key or self._base[1] != measured:
            built = await asyncio.to_thread(
                build_problem,
                observation.fleet,
                observation.cluster.settings,
                Statistics({}, None),
                holds=np.zeros(observation.fleet.shape, np.uint8),
                live=observation.live,
                statuses=observation.statuses,
            )
            self._base = (key, measured, built.problem)
        return self._base[2]

    async def _problem(self, observation: Observation) -> BuiltProblem | None:
        """With traffic, and with what nodes hold."""
        if not observation.fleet.nodes or not observation.fleet.models:
            return None
        key = (
            observation.spec_version,
            observation.live_version,
            observation.held_version,
            self._statistics_version,
        )
        if self._built is None or self._built[0] != key:
            if self._built is not None and self._built[0][0] != observation.spec_version:
                await self._refresh_statistics(observation)
            built = await asyncio.to_thread(
                build_problem,
                observation.fleet,
                observation.cluster.settings,
                self._statistics,
                holds=observation.held,
                live=observation.live,
                statuses=observation.statuses,
            )
            self._built = (key, built)
        return self._built[1]

    async def _refresh_statistics(self, observation: Observation) -> None:
        """Settings of the cluster (half-life, window) may have changed without a new window."""
        models = dict(zip(observation.fleet.model_ids, observation.fleet.models, strict=True))
        self._statistics = await self._fold.statistics(models, observation.cluster.settings)

    # --- solving
    async def _solve(self, observation: Observation) -> None:
        now = time.monotonic()
        task = self._solving
        if task is not None and task.done():
            self._solving = None
            self._learn(task, now)
        if now < self._solve_not_before:
            return
        reason = self._triggers.due(observation, self._statistics.until_us, now)
        if reason is None:
            return
        if self._solving is not None:
            if reason not in URGENT or self._solving_reason in URGENT:
                return
            log.info("solve abandoned for an urgent one", reason=reason.value)
            await end(self._solving)
            self._solving = None
        built = await self._problem(observation)
        if built is None:
            return
        self._triggers.solving(observation, self._statistics.until_us, now)
        solver = self._planner if self._solver.busy and reason in URGENT else self._solver
        self._solving_reason = reason
        self._solving = asyncio.create_task(
            solve_and_adopt(
                self._redis, self._lease, solver, observation, built, OptimizationRequest(), reason.value
            )
        )
        self._solving.add_done_callback(lambda _: self._wake.set())

    def _learn(self, task: "asyncio.Task[Solved]", now: float) -> None:
        """What became of a solve."""
        if task.cancelled():
            return
        try:
            solved = task.result()
        except SolverClosed:
            raise
        except (TaskError, RedisError, OSError, Contended, ValueError) as error:
            wait = min(BACK_OFF_SECONDS * 2**self._solve_failures, BACK_OFF_LIMIT_SECONDS)
            self._solve_failures = min(self._solve_failures + 1, 10)
            self._solve_not_before = now + wait
            self._triggers.forget()
            self._trouble = f"solving failed: {error}"
            log.error("solve failed", reason=str(error), again_in_seconds=wait)
            return
        self._solve_failures = 0
        self._trouble = None
        if solved.generation is not None:
            self._triggers.published(solved.generation)
        elif solved.decision.adopt:
            self._triggers.forget()  # another placement came into force meanwhile
        elif solved.outcome.found is None:
            self._trouble = solved.decision.detail

    # --- moving
    async def _plan(self, observation: Observation, base: PlacementProblem) -> None:
        in_force = observation.in_force
        if in_force is None:
            return
        if self._shown_generation != in_force.generation:
            self._shown_generation = in_force.generation
            show_in_metrics(self._lease.cluster_id, in_force)
        hold = self._solving is not None and self._solving_reason is not Reason.INTERVAL
        built = await self._problem(observation) if self._migration.away(observation) else None
        record = await self._migration.plan(observation, None if built is None else built.problem, hold=hold)
        if record is not None:
            await self._migration.step(observation, base)

    # --- what people look at
    async def _analyse(self, observation: Observation) -> None:
        if self._analysis is not None:
            if not self._analysis.done():
                return
            task, self._analysis = self._analysis, None
            try:
                await task
            except SolverClosed:
                raise
            except TaskError as error:
                log.warning("analysis failed", reason=str(error))
        in_force = observation.in_force
        inputs = (
            observation.spec_version,
            observation.live_version,
            observation.held_version,
            self._statistics_version,
            None if in_force is None else in_force.generation,
        )
        if inputs == self._analysed or time.monotonic() < self._analysis_not_before or self._planner.busy:
            return
        built = await self._problem(observation)
        if built is None:
            return
        self._analysed = inputs
        self._analysis = asyncio.create_task(self._write_analysis(observation, built))

    async def _write_analysis(self, observation: Observation, built: BuiltProblem) -> None:
        begun = time.monotonic()
        in_force = observation.in_force
        desired = None
        if in_force is not None:
            desired = in_force.holds.copy()
            desired[~observation.live_mask] = 0
        outcome = await self._planner.run(
            analysis_task,
            built.problem,
            observation.held,
            desired,
            deadline_seconds=ANALYSIS_DEADLINE_SECONDS,
        )
        analysis = await asyncio.to_thread(compose_analysis, observation, built, outcome, datetime.now(UTC))
        body = (await asyncio.to_thread(analysis.model_dump_json)).encode()
        document = await asyncio.to_thread(
            encode_document,
            body,
            uid=observation.cluster.uid,
            generation=0 if in_force is None else in_force.generation,
        )

        def queue(pipe: Pipeline) -> None:
            queue_document(pipe, self._keys.analysis, document)

        await fenced(self._redis, self._lease, queue)
        took = time.monotonic() - begun
        self._analysis_not_before = begun + max(ANALYSIS_SECONDS, ANALYSIS_REST_FACTOR * took)

    async def _depart(self, observation: Observation) -> None:
        if self._migration.active_plan is not None:
            return
        for node_id in departing(observation):
            await remove_node(self._redis, self._keys, self._lease, node_id)

    async def _show(self, observation: Observation, base: PlacementProblem | None) -> None:
        now = datetime.now(UTC)
        interval = self._settings.telemetry_interval_seconds
        status = await asyncio.to_thread(
            placement_status,
            observation,
            base,
            self._routing.versions if self._routing.settled else {},
            Telemetry(self._statistics.until, TELEMETRY_FRESH_INTERVALS * interval),
            active_plan=self._migration.active_plan,
            waiting_for=self._migration.waiting_for,
            trouble=self._migration.trouble or self._trouble,
            before=self._status,
            now=now,
        )
        if status == self._status:
            return
        document = await asyncio.to_thread(
            encode_document,
            status.model_dump_json().encode(),
            uid=status.cluster_uid,
            generation=status.generation or 0,
        )

        def queue(pipe: Pipeline) -> None:
            queue_document(pipe, self._keys.placement_status, document)
            topics.announce(pipe, self._keys, topics.STATUS)

        await fenced(self._redis, self._lease, queue)
        self._status = status
