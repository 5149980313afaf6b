"""One cluster under this worker's lease: look, decide, act, again and again."""

import asyncio
import math
import time

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError

from app.config import Settings
from app.errors import DamagedRecord
from app.migrate.migration import Migration
from app.observability.metrics import CLUSTER_CONDITION, WORKER_ABANDONED, WORKER_TICK, WORKER_TICK_TIME
from app.observe.left_out import LeftOut
from app.observe.observation import Observation, Observer
from app.placements.schemas import ConditionType, PlacementStatus
from app.publish.publication import show_in_metrics
from app.publish.routing import RoutingTables
from app.publish.withdrawal import Withdrawal
from app.report.analyses import Analyses
from app.report.cluster_metrics import ClusterMetrics
from app.report.conditions import TELEMETRY_FRESH_INTERVALS, Finding, Telemetry, placement_status
from app.report.data_quality import data_quality
from app.report.intact import damaged, intact
from app.report.node_conditions import node_findings
from app.report.outcomes import Outcomes
from app.runtime.recurring import Recurring
from app.solve.problems import Problems
from app.solve.solves import Solves
from app.solver_process.process import SolverProcess
from app.statistics.fold import FoldMoved
from app.storage import topics
from app.storage.clock import PROCESS_CLOCKS_HEARD, server_now, server_seconds
from app.storage.documents import encode_document, queue_document, read_document
from app.storage.fenced import fenced
from app.storage.keys import ClusterKeys
from app.storage.lease import Lease
from app.storage.optimistic import Contended
from app.storage.records import read_record
from app.worker.departures import departing, remove_node
from app.worker.jobs import Jobs
from app.worker.pace import Pace, Wake
from solvers.problem import PlacementProblem

MAX_DAMAGED_PAUSE_SECONDS = 8.0
"""Between two looks at a cluster with a record that cannot be read, once it has been so for a while."""

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
        wake: Wake,
    ) -> None:
        keys = ClusterKeys(lease.cluster_id)
        self._redis = redis
        self._keys = keys
        self._lease = lease
        self._settings = settings
        self._wake = wake
        self._left_out = LeftOut()
        self._observer = Observer(redis, keys, lease_seconds=settings.node_lease_seconds)
        self._problems = Problems(redis, keys, lease)
        withdrawal = Withdrawal()
        self._routing = RoutingTables(redis, keys, lease, withdrawal)
        self._migration = Migration(
            redis,
            keys,
            lease,
            planner,
            withdrawal,
            self._routing,
            heartbeat_seconds=settings.heartbeat_interval_seconds,
            lease_seconds=settings.node_lease_seconds,
            tick_seconds=settings.worker_tick_seconds,
            left_out=self._left_out,
        )
        self._jobs = Jobs(redis, keys, lease, solver, planner, self._migration, self._left_out)
        self._solves = Solves(redis, lease, solver, planner, self._problems, wake)
        self._metrics = ClusterMetrics(lease.cluster_id)
        self._analyses = Analyses(redis, keys, lease, planner, self._problems, self._metrics)
        self._outcomes = Outcomes(redis, keys, lease, planner, self._problems, self._left_out)
        self._abandoned = Recurring(log, "look abandoned")
        self._status: PlacementStatus | None = None
        self._shown_generation: int | None = None
        self._pace = Pace(settings.worker_tick_seconds)
        self._pause_seconds = settings.worker_tick_seconds

    @property
    def busy(self) -> bool:
        """Something is under way that another worker would have to begin anew."""
        return self._solves.busy or self._jobs.busy or self._migration.active_plan is not None

    async def run(self) -> None:
        """Until cancelled, the lease is lost (`LeaseLost`) or the cluster is gone (returns)."""
        structlog.contextvars.bind_contextvars(cluster_id=self._lease.cluster_id)
        taken_over = False
        failures = 0
        try:
            while True:
                self._wake.clear()
                woken, self._wake.news = self._wake.news, False
                begun = time.monotonic()
                try:
                    if not taken_over:
                        taken_over = await self._take_over()
                    observation = await self._tick()
                    if observation is None:
                        return
                    self._pause_seconds = self._pause(observation, woken)
                    failures = 0
                    self._abandoned.over()
                    WORKER_TICK_TIME.set(self._lease.cluster_id, server_seconds())
                except (RedisError, OSError, FoldMoved, Contended) as error:
                    failures += 1
                    WORKER_ABANDONED.inc()
                    self._pause_seconds = self._settings.worker_tick_seconds
                    self._abandoned.warn(reason=f"{type(error).__name__}: {error}", failures=failures)
                    await asyncio.sleep(min(0.1 * 2**failures, 2.0))
                except DamagedRecord as damage:
                    failures += 1
                    WORKER_ABANDONED.inc()
                    self._abandoned.warn(key=damage.key, reason=damage.detail, failures=failures)
                    await self._show_damage(damage)
                    await asyncio.sleep(min(0.25 * 2 ** min(failures, 10), MAX_DAMAGED_PAUSE_SECONDS))
                WORKER_TICK.observe(time.monotonic() - begun)
                await asyncio.sleep(MIN_PAUSE_SECONDS)
                try:
                    async with asyncio.timeout(self._pause_seconds):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            await self._close()

    async def _close(self) -> None:
        await self._solves.close()
        await self._analyses.close()
        await self._outcomes.close()
        await self._jobs.close()
        await self._migration.close()

    async def _take_over(self) -> bool:
        observation = await self._observer.observe()
        if observation is not None:
            await self._migration.take_over(observation)
            await self._jobs.take_over()
            self._status = await self._stored_status()
        return True

    async def _stored_status(self) -> PlacementStatus | None:
        """None also where it cannot be read: a newer process may have named conditions that are unknown here,
        and each look makes it anew."""
        stored = await read_document(self._redis, self._keys.placement_status)
        if stored is None:
            return None
        try:
            return read_record(PlacementStatus, stored.json, self._keys.placement_status)
        except DamagedRecord:
            return None

    # --- one look
    async def _tick(self) -> Observation | None:
        """What was seen; None when the cluster is gone."""
        await self._left_out.retry()
        await self._migration.read_reports()
        observation = await self._observer.observe()
        if observation is None:
            return None
        await self._fold(observation)
        base = await self._problems.base(observation)
        if base is not None:
            await self._migration.step(observation, base)
            await self._routing.refresh(observation, base)
        await self._solve(observation)
        built = await self._problems.built(observation) if observation.jobs_waiting else None
        await self._jobs.step(observation, built)
        if base is not None:
            await self._plan(observation, base)
            await self._analyse(observation)
        await self._depart(observation)
        await self._show(observation, base)
        await self._outcomes.step(observation, converged=self._converged(observation))
        return observation

    def _pause(self, observation: Observation, woken: bool) -> float:
        in_force = observation.in_force
        seen = (
            observation.spec_version,
            observation.held_version,
            observation.live_version,
            None if in_force is None else in_force.generation,
            observation.paused,
            self._problems.until is None,
        )
        waiting = observation.commands_waiting or observation.jobs_waiting
        unsettled = in_force is not None and not self._routing.settled
        ends = [observation.lease_ends[node_id] for node_id in observation.live]
        return self._pace.pause(
            seen,
            restless=woken or self.busy or waiting or unsettled,
            now=time.monotonic(),
            until_due=(min(ends, default=math.inf) - observation.now_milliseconds) / 1000.0,
        )

    async def _fold(self, observation: Observation) -> None:
        if await self._problems.fold(observation):
            self._wake.notify_of_telemetry()

    async def _solve(self, observation: Observation) -> None:
        await self._solves.step(observation)

    async def _analyse(self, observation: Observation) -> None:
        await self._analyses.step(observation)

    async def _plan(self, observation: Observation, base: PlacementProblem) -> None:
        in_force = observation.in_force
        if in_force is None:
            return
        if self._shown_generation != in_force.generation:
            self._shown_generation = in_force.generation
            show_in_metrics(self._lease.cluster_id, in_force)
        built = await self._problems.built(observation) if self._migration.away(observation) else None
        record = await self._migration.plan(
            observation, None if built is None else built.problem, hold=self._solves.pressing
        )
        if record is not None:
            await self._migration.step(observation, base)

    def _converged(self, observation: Observation) -> bool:
        """As the status that people see says."""
        status, in_force = self._status, observation.in_force
        if status is None or in_force is None or status.generation != in_force.generation:
            return False
        return any(c.type is ConditionType.CONVERGED and c.status for c in status.conditions)

    async def _depart(self, observation: Observation) -> None:
        if self._migration.active_plan is not None:
            return
        for node_id in departing(observation):
            await remove_node(self._redis, self._keys, self._lease, node_id)

    def _findings(self, observation: Observation) -> list[Finding]:
        """Conditions of the status beside those that `conditions` knows; others add theirs here."""
        doubts = self._problems.doubts
        quality = [] if doubts is None else [data_quality(doubts)]
        nodes = node_findings(observation, PROCESS_CLOCKS_HEARD.ahead)
        return [intact((*observation.faults, *self._left_out.faults)), *quality, *nodes]

    async def _show(self, observation: Observation, base: PlacementProblem | None) -> None:
        now = server_now()
        interval = self._settings.telemetry_interval_seconds
        status = await asyncio.to_thread(
            placement_status,
            observation,
            base,
            self._routing.versions if self._routing.settled else {},
            Telemetry(self._problems.until, TELEMETRY_FRESH_INTERVALS * interval),
            active_plan=self._migration.active_plan,
            waiting_for=self._migration.waiting_for(observation),
            trouble=self._migration.trouble,
            no_placement=self._solves.holdup(observation),
            before=self._status,
            now=now,
            findings=self._findings(observation),
        )
        await self._metrics.show(
            observation,
            status,
            base,
            self._problems,
            self._migration.execution,
            unwanted=self._migration.unwanted(status.generation),
            now=now,
        )
        if status != self._status:
            await self._publish(status)

    async def _show_damage(self, damage: DamagedRecord) -> None:
        """Have the status tell it, as far as there is one."""
        CLUSTER_CONDITION.set(self._lease.cluster_id, False, ConditionType.INTACT)
        try:
            self._status = self._status or await self._stored_status()
            if self._status is None:
                return
            status = damaged(self._status, damage)
            if status != self._status:
                await self._publish(status)
        except (DamagedRecord, RedisError, OSError, Contended) as error:
            self._abandoned.warn(reason=f"the status cannot be written: {error}")

    async def _publish(self, status: PlacementStatus) -> None:
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
