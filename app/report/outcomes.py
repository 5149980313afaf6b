"""Predicted against achieved: what the placement in force saves, on traffic from after its convergence.

And how far it may be from the best placement for the traffic behind that sample, with a confidence: it was
made without that traffic, which is what such a claim needs.
"""

import asyncio
import math
import time
from datetime import timedelta
from typing import cast

import numpy as np
import structlog
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.observability.metrics import PLACEMENT_ACHIEVED_IMPROVEMENT, PLACEMENT_TRUE_GAP
from app.observe.left_out import LeftOut
from app.observe.observation import InForce, Observation
from app.placements.schemas import PlacementDocument, PlacementOutcome, TrueGap, unmeasured
from app.placements.store import OUTCOME_FIELD
from app.runtime.cancellation import end
from app.solve.problems import Problems
from app.solver_process.process import SolverClosed, SolverProcess, TaskError
from app.solver_process.tasks import batch_task, outcome_task
from app.statistics.problem import BuiltProblem
from app.storage.clock import server_now
from app.storage.documents import read_document
from app.storage.fenced import fenced
from app.storage.keys import ClusterKeys
from app.storage.lease import Lease
from app.storage.records import read_record, record_json
from solvers.confidence import LEAST_BATCHES, interval
from solvers.problem import UInt8
from solvers.search.region import is_large

DEADLINE_SECONDS = 60.0

CONFIDENCE = 0.95
"""Of the bound on the true gap."""

GAP_SECONDS = 5.0
"""For the lower bounds of all batches together, about."""

log = structlog.stdlib.get_logger(__name__)


def improvement(before: float, after: float) -> float | None:
    """The part of a cost that is saved; 0 where there was none to save, None where one came of nothing."""
    if before > 0.0:
        return 1.0 - after / before
    return 0.0 if after <= 0.0 else None


class Outcomes:
    """One cluster's, for as long as one lease lasts."""

    def __init__(
        self,
        redis: Redis,
        keys: ClusterKeys,
        lease: Lease,
        planner: SolverProcess,
        problems: Problems,
        left_out: LeftOut | None = None,
    ) -> None:
        self._left_out = LeftOut() if left_out is None else left_out
        self._redis = redis
        self._keys = keys
        self._lease = lease
        self._planner = planner
        self._problems = problems
        self._outcome: PlacementOutcome | None = None
        self._before: UInt8 | None = None
        self._task: asyncio.Task[None] | None = None
        self._measured_version = 0
        self._not_before = 0.0

    async def step(self, observation: Observation, *, converged: bool) -> None:
        """Note when the placement in force has converged, and measure it once an interval from then on."""
        if self._task is not None:
            if not self._task.done():
                return
            task, self._task = self._task, None
            try:
                if not task.cancelled():
                    task.result()
            except SolverClosed:
                raise
            except TaskError as error:
                log.warning("outcome not measured", reason=str(error))
        in_force = observation.in_force
        if in_force is None:
            return
        if self._outcome is None or self._outcome.generation != in_force.generation:
            await self._begin(in_force, observation)
        outcome = self._outcome
        assert outcome is not None
        if outcome.converged_at is None:
            if converged:
                await self._write(outcome.model_copy(update={"converged_at": server_now()}))
            return
        if (
            time.monotonic() < self._not_before
            or self._measured_version == self._problems.statistics_version
            or self._planner.busy
        ):
            return
        interval = observation.cluster.settings.optimization_interval_seconds
        since = outcome.converged_at
        until = self._problems.until
        if until is None or until < since + timedelta(seconds=interval):
            return
        self._not_before = time.monotonic() + interval
        self._measured_version = self._problems.statistics_version
        built = await self._problems.since(observation, since)
        if built is None or built.tokens_per_second <= 0:
            return
        self._task = asyncio.create_task(self._measure(outcome, built, in_force, observation))

    async def close(self) -> None:
        if self._task is not None:
            await end(self._task)

    async def _begin(self, in_force: InForce, observation: Observation) -> None:
        """Another generation: what is known of it, and what it superseded where that is retained."""
        document = in_force.document
        before = None
        superseded = document.metadata.supersedes
        if superseded is not None:
            earlier = await self._left_out.read(lambda: self._read_placement(superseded), None)
            if earlier is not None:
                before = await asyncio.to_thread(
                    observation.fleet.matrix_of_holdings, earlier.spec.holds, ignore_unknown=True
                )
        known = await self._left_out.read(lambda: self._read_outcome(in_force.generation), None)
        self._before = before
        self._measured_version = 0
        self._not_before = 0.0
        self._outcome = unmeasured(in_force.generation, document.evidence) if known is None else known

    async def _read_placement(self, generation: int) -> PlacementDocument | None:
        key = self._keys.placement_generation(generation)
        found = await read_document(self._redis, key)
        return (
            None
            if found is None
            else await asyncio.to_thread(read_record, PlacementDocument, found.json, key)
        )

    async def _read_outcome(self, generation: int) -> PlacementOutcome | None:
        key = self._keys.placement_generation(generation)
        stored = cast("bytes | None", await self._redis.hget(key, OUTCOME_FIELD))
        return None if stored is None else read_record(PlacementOutcome, stored, key)

    async def _measure(
        self, outcome: PlacementOutcome, built: BuiltProblem, in_force: InForce, observation: Observation
    ) -> None:
        live = observation.live_mask[:, None]
        after = np.where(live, in_force.holds, 0).astype(np.uint8)
        before = self._before
        # Where nodes or models have come or gone, the two are not comparable.
        if before is not None and before.shape == after.shape:
            before = np.where(live, before, 0).astype(np.uint8)
            await self._measure_improvement(outcome, built, before, after)
        await self._measure_gap(built, after, observation)

    async def _measure_improvement(
        self, outcome: PlacementOutcome, built: BuiltProblem, before: UInt8, after: UInt8
    ) -> None:
        costs = await self._planner.run(
            outcome_task,
            built.problem,
            before,
            after,
            deadline_seconds=DEADLINE_SECONDS,
        )
        if not all(math.isfinite(cost) for cost in costs):
            return  # served by nobody under one of them: no ratio says anything
        cost_before, cost_after = costs
        achieved = improvement(cost_before, cost_after)
        await self._write(
            outcome.model_copy(
                update={
                    "measured_from": outcome.converged_at,
                    "measured_until": built.telemetry_until,
                    "mean_latency_seconds": cost_after / built.tokens_per_second,
                    "mean_latency_seconds_before": cost_before / built.tokens_per_second,
                    "achieved_improvement_ratio": achieved,
                }
            )
        )
        if achieved is not None:
            PLACEMENT_ACHIEVED_IMPROVEMENT.set(self._lease.cluster_id, achieved)

    async def _measure_gap(self, built: BuiltProblem, holds: UInt8, observation: Observation) -> None:
        outcome = self._outcome
        assert outcome is not None
        assert outcome.converged_at is not None
        until = built.telemetry_until
        if until is None or is_large(built.problem):
            return  # a large fleet's bound takes a minute a batch
        batches = await self._problems.batches(observation, outcome.converged_at, built.problem)
        if len(batches) < LEAST_BATCHES:
            return
        judged = []
        for batch in batches:
            # One by one, so that a plan which is wanted meanwhile waits for one of them at most.
            one = await self._planner.run(
                batch_task, batch, holds, GAP_SECONDS / len(batches), deadline_seconds=DEADLINE_SECONDS
            )
            if one is None:
                return
            judged.append(one)
        found = interval(judged, CONFIDENCE)
        gap = TrueGap(
            confidence=found.confidence,
            batches=found.batches,
            measured_until=until,
            cost=found.objective,
            lower_bound=found.optimum_lower,
            gap_upper=found.gap_upper,
            gap_upper_ratio=found.gap_upper_ratio,
        )
        await self._write(outcome.model_copy(update={"true_gap": gap}))
        PLACEMENT_TRUE_GAP.set(self._lease.cluster_id, gap.gap_upper_ratio)

    async def _write(self, outcome: PlacementOutcome) -> None:
        key = self._keys.placement_generation(outcome.generation)
        gone = False

        async def check(pipe: Pipeline) -> None:
            nonlocal gone
            gone = not await pipe.exists(key)

        def queue(pipe: Pipeline) -> None:
            if not gone:  # pruned: a hash of the outcome alone would stay for ever
                pipe.hset(key, OUTCOME_FIELD, record_json(outcome))

        await fenced(self._redis, self._lease, queue, watch=(key,), check=check)
        self._outcome = outcome
