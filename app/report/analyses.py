"""The analysis that people look at, made anew now and then when what it is made of has changed."""

import asyncio
import time
from typing import NamedTuple

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.analysis.schemas import Analysis
from app.observe.observation import Observation
from app.report.analysis import compose_analysis, compose_overview, pack_layer
from app.report.cluster_metrics import ClusterMetrics
from app.runtime.cancellation import end
from app.solve.problems import Problems
from app.solver_process.process import SolverClosed, SolverProcess, TaskError
from app.solver_process.tasks import AnalysisOutcome, analysis_task
from app.statistics.problem import BuiltProblem
from app.storage.clock import server_now
from app.storage.documents import EncodedDocument, encode_document, queue_document
from app.storage.fenced import fenced
from app.storage.keys import ClusterKeys
from app.storage.lease import Lease

ANALYSIS_SECONDS = 2.0
ANALYSIS_REST_FACTOR = 10.0
"""An analysis that takes t is made at most every max(ANALYSIS_SECONDS, ANALYSIS_REST_FACTOR * t)."""

ANALYSIS_DEADLINE_SECONDS = 60.0

LAYERS_BYTES = 8 << 20
"""Of one analysis's layers, packed, that are written; beyond, the others come with the next ones, which are
made for them where nothing else asks for one."""

log = structlog.stdlib.get_logger(__name__)


class Analyses:
    """One cluster's, for as long as one lease lasts."""

    def __init__(
        self,
        redis: Redis,
        keys: ClusterKeys,
        lease: Lease,
        planner: SolverProcess,
        problems: Problems,
        metrics: ClusterMetrics,
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._lease = lease
        self._planner = planner
        self._problems = problems
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None
        self._made_of: object = None
        self._not_before = 0.0
        self._blocks: tuple[tuple[str, int], ...] | None = None
        self._first_block = 0
        self._layers_left = 0

    async def step(self, observation: Observation) -> None:
        """Begin one where it is due, nobody waits for the process, and the last one has ended."""
        if self._task is not None:
            if not self._task.done():
                return
            task, self._task = self._task, None
            try:
                await task
            except SolverClosed:
                raise
            except TaskError as error:
                log.warning("analysis failed", reason=str(error))
                self._layers_left = 0
        in_force = observation.in_force
        made_of = (
            observation.spec_version,
            observation.live_version,
            observation.held_version,
            self._problems.statistics_version,
            None if in_force is None else in_force.generation,
        )
        known = made_of == self._made_of and self._layers_left == 0
        if known or time.monotonic() < self._not_before or self._planner.busy:
            return
        built = await self._problems.built(observation)
        if built is None:
            return
        if made_of != self._made_of:
            self._layers_left = len(built.fleet.blocks)
        self._made_of = made_of
        self._task = asyncio.create_task(self._write(observation, built))

    async def close(self) -> None:
        if self._task is not None:
            await end(self._task)

    async def _write(self, observation: Observation, built: BuiltProblem) -> None:
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
        written = await asyncio.to_thread(_compose, observation, built, outcome, self._first_block)
        blocks = built.fleet.blocks
        stale = blocks != self._blocks

        def queue(pipe: Pipeline) -> None:
            queue_document(pipe, self._keys.analysis, written.analysis)
            queue_document(pipe, self._keys.analysis_overview, written.overview)
            if stale:
                pipe.delete(self._keys.analysis_layers)
            if written.layers:
                fields = [part for layer in written.layers.items() for part in layer]
                pipe.hset(self._keys.analysis_layers, items=fields)

        await fenced(self._redis, self._lease, queue)
        self._metrics.show_analysis(written.shown)
        self._blocks, self._first_block = blocks, written.next_block
        self._layers_left = max(0, self._layers_left - len(written.layers))
        took = time.monotonic() - begun
        self._not_before = begun + max(ANALYSIS_SECONDS, ANALYSIS_REST_FACTOR * took)


class _Written(NamedTuple):
    shown: Analysis
    analysis: EncodedDocument
    overview: EncodedDocument
    layers: dict[str, bytes]
    next_block: int


def _compose(
    observation: Observation, built: BuiltProblem, outcome: AnalysisOutcome, first_block: int
) -> _Written:
    """CPU-bound. Layers from `first_block` on, and around, until `LAYERS_BYTES` are full."""
    now = server_now()
    analysis = compose_analysis(observation, built, outcome, now)
    overview = compose_overview(analysis, built, outcome, observation.held)
    generation = 0 if observation.in_force is None else observation.in_force.generation
    documents = [
        encode_document(body.model_dump_json().encode(), uid=observation.cluster.uid, generation=generation)
        for body in (analysis, overview)
    ]
    count = len(built.fleet.blocks)
    layers: dict[str, bytes] = {}
    size = 0
    for turn in range(count):
        packed = pack_layer(observation, built, outcome, now, (first_block + turn) % count)
        encoded = packed.encoded()
        size += len(encoded)
        if layers and size > LAYERS_BYTES:
            break
        layers[packed.field] = encoded
    next_block = (first_block + len(layers)) % count if count else 0
    return _Written(analysis, documents[0], documents[1], layers, next_block)
