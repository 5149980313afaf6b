"""Brings the nodes of a cluster to the generation in force, one plan after another.

Each look: fold what nodes report, end what no longer fits, release what may begin, withdraw what is to go;
and where nodes hold something else than they are to and no plan runs, make one from what they hold.
"""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import structlog
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.instance.fleet import UnknownExpert
from app.metrics import MOVED_BYTES, MOVES
from app.migration_plans.schemas import (
    CancelMode,
    MoveReportRecord,
    PlanCommand,
    PlannedMove,
    PlanRecord,
    PlanVerb,
    ReleasedMove,
)
from app.placements.publish import GenerationChanged
from app.placements.schemas import ROLLBACK, Evidence, PlacementDocument
from app.solving.cancellation import end
from app.solving.execution import WORKING, Execution, Source
from app.solving.expectation import Expectation
from app.solving.observation import InForce, Observation
from app.solving.orders import encode_orders, orders
from app.solving.plan_records import (
    newest_plans,
    outdated_plans,
    queue_forgetting,
    queue_progress,
    read_commands,
    read_plan,
    read_progress,
    read_reports,
)
from app.solving.planning import (
    names_of,
    new_plan_id,
    plan_record,
    planning_limits,
    problem_for_planning,
    release_limits,
)
from app.solving.publication import publish_matrix
from app.solving.routing import RoutingTables, without
from app.solving.solver_process import SolverClosed, SolverProcess, TaskError
from app.solving.sources import choose_source
from app.solving.tasks import PlanOutcome, plan_task
from app.solving.withdrawal import HeldCopy, Withdrawal
from app.storage import topics
from app.storage.documents import EncodedDocument, queue_document, read_document
from app.storage.fenced import fenced
from app.storage.keys import ClusterKeys
from app.storage.lease import Lease
from migrations.model import Limits, MoveKind, PlanStatus
from migrations.states import PLAN_TRANSITIONS, MoveState, PlanEvent, PlanState
from solvers.problem import PlacementProblem, UInt8

PLAN_SECONDS: Final = 120.0
"""Deadline of making one plan."""

BACK_OFF_SECONDS: Final = 5.0
BACK_OFF_LIMIT_SECONDS: Final = 300.0
"""After a plan failed the next waits: the first time BACK_OFF_SECONDS, then twice as long each time."""

LINGER_SECONDS: Final = 30.0
"""For how long, and for a lease at least, a copy stays out of the routing tables that its node was told
to drop by a plan that has ended: the node may still do it, or have done it unheard."""

LINGERING_PLANS: Final = 16
"""How many plans, newest first, a worker that takes over looks through for drops of that kind."""

SETTLE_SECONDS: Final = 5.0
"""How long the next plan waits for copies that nodes had begun when the last plan ended."""

DEVIATION_HEARTBEATS: Final = 2.0
"""Heartbeats for which nodes may be seen to hold something else than the plan expects before it ends: a
heartbeat may have been under way when a move finished."""

RECORD_SECONDS: Final = 1.0
"""How often at most a plan's record is written while only counts change."""

log = structlog.stdlib.get_logger(__name__)


class Migration:
    """One cluster's, for as long as one lease lasts."""

    def __init__(
        self,
        redis: Redis,
        keys: ClusterKeys,
        lease: Lease,
        planner: SolverProcess,
        withdrawal: Withdrawal,
        routing: RoutingTables,
        *,
        heartbeat_seconds: float,
        lease_seconds: float,
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._lease = lease
        self._planner = planner
        self._withdrawal = withdrawal
        self._routing = routing
        self._heartbeat_seconds = heartbeat_seconds
        self._linger_seconds = max(LINGER_SECONDS, lease_seconds)
        self._execution: Execution | None = None
        self._expectation: Expectation | None = None
        self._checked: tuple[int, int] | None = None
        self._deviates_since: float | None = None
        self._reports: dict[str, MoveReportRecord] = {}
        self._orders: dict[str, tuple[str, int, list[ReleasedMove]]] = {}
        self._recorded_at = 0.0
        self._recorded: tuple[PlanState, str | None] | None = None
        self._counts_changed = False
        self._planning: asyncio.Task[PlanOutcome] | None = None
        self._planning_for: tuple[int, int, int, int] | None = None
        self._requested: PlanRecord | None = None
        self._held_back: tuple[int, int, int, int] | None = None
        self._failures = 0
        self._not_before = 0.0
        self._cancelled_generation: int | None = None
        self._failed_generation: int | None = None
        self.trouble: str | None = None
        """In words, why the fleet is not being brought to the generation in force."""
        self.waiting_for: str | None = None
        """In words, what the plan waits for."""

    @property
    def active_plan(self) -> str | None:
        return None if self._execution is None else self._execution.record.plan_id

    @property
    def execution(self) -> Execution | None:
        return self._execution

    # --- taking over
    async def take_over(self, observation: Observation) -> None:
        """Go on with the plan that another worker began, and with what it kept out of routing tables."""
        await self._linger_on()
        if observation.active_plan is not None:
            record = await read_plan(self._redis, self._keys, observation.active_plan)
            if record is not None and record.state in WORKING:
                progress = await read_progress(self._redis, self._keys, record.plan_id)
                execution = await asyncio.to_thread(Execution, record, progress)
                self._begin(execution, observation)
                log.info("plan taken over", plan=record.plan_id, state=record.state.value)
                return
        for plan_id in await newest_plans(self._redis, self._keys, 1):
            record = await read_plan(self._redis, self._keys, plan_id)
            if record is not None and record.state is PlanState.CANCELLED and not record.validate_only:
                self._cancelled_generation = record.to_generation

    async def _linger_on(self) -> None:
        """Keep out of routing tables what plans that ended just now had told nodes to drop."""
        since = datetime.now(UTC) - timedelta(seconds=self._linger_seconds)
        for plan_id in await newest_plans(self._redis, self._keys, LINGERING_PLANS):
            record = await read_plan(self._redis, self._keys, plan_id)
            if record is None or record.state in WORKING or record.updated_at < since:
                continue
            self._linger(Execution(record, await read_progress(self._redis, self._keys, plan_id)))

    # --- each look
    async def read_reports(self) -> None:
        """To be called before looking, so that a move that is seen to have succeeded is seen in what its node
        holds, too."""
        self._reports = {}
        if self._execution is not None:
            self._reports = await read_reports(
                self._redis, self._keys, self._execution.record.plan_id, self._execution.outstanding
            )

    async def step(self, observation: Observation, problem: PlacementProblem) -> None:
        """Carry on with the plan. `problem` needs neither traffic nor holdings."""
        now = datetime.now(UTC)
        self.waiting_for = None
        self._withdrawal.forget_lingering(time.monotonic())
        commands = await read_commands(self._redis, self._keys) if observation.commands_waiting else []
        execution = self._execution
        if execution is not None:
            self._absorb(execution, now)
            for command in commands:
                self._obey(execution, command, now)
            self._end_what_no_longer_fits(execution, observation, now)
            await self._prepare(execution, observation)
            self._release(execution, observation, problem, now)
            event = execution.settle(now)
            if event is not None:
                self._log_end(execution)
            if execution.state is PlanState.ROLLING_BACK and execution.drained:
                await self._roll_back(execution, observation, now)
            await self._prepare(execution, observation)
        self._withdraw(observation, problem)
        await self._save(observation, problem, now, commands=len(commands))
        if execution is not None and execution.ended:
            self._finish(execution, now)

    async def plan(
        self, observation: Observation, traffic: PlacementProblem | None, *, hold: bool
    ) -> PlanRecord | None:
        """Make or fetch the next plan where one is needed; the record when one begins.

        `traffic` is the problem with its routes, which put what helps most first; None while it is not known.
        `hold`: a new generation is about to come, a plan for this one would be superseded at once.
        """
        in_force = observation.in_force
        if self._execution is not None or in_force is None:
            return None
        live = observation.live_mask
        target = _target(observation, in_force)
        case = (
            in_force.generation,
            observation.held_version,
            observation.live_version,
            observation.spec_version,
        )
        if self._planning is not None:
            if not self._planning.done():
                return None
            task, planned_for = self._planning, self._planning_for
            self._planning = None
            if planned_for != case:
                task.exception()  # of no interest: what it planned for is past
                return None
            return await self._begin_planned(task, observation)
        if np.array_equal(target, observation.held):
            self.trouble = None
            self._failures = 0
            if self._requested is not None:
                await self._nothing_to_move(self._requested)
            return None
        if hold or traffic is None or self._withheld(case):
            return None
        limits = planning_limits(observation.cluster.settings.max_copies_per_cluster)
        problem = problem_for_planning(traffic, live)
        self._planning_for = case
        self._planning = asyncio.create_task(
            self._planner.run(
                plan_task,
                problem,
                observation.held,
                target,
                limits,
                names_of(observation.fleet),
                deadline_seconds=PLAN_SECONDS,
            )
        )
        return None

    def away(self, observation: Observation) -> bool:
        """A plan may be needed: nodes hold something else than they are to, and none is being carried out."""
        if self._execution is not None or self._planning is not None or observation.in_force is None:
            return False
        return not np.array_equal(_target(observation, observation.in_force), observation.held)

    def request(self, record: PlanRecord, generation: int) -> None:
        """The next plan, to `generation`, is this one that an operator asked for."""
        self._requested = record.model_copy(update={"to_generation": generation})
        self._cancelled_generation = None
        self._held_back = None
        self._not_before = 0.0

    async def close(self) -> None:
        if self._planning is not None:
            await end(self._planning)

    # --- parts of a step
    def _begin(self, execution: Execution, observation: Observation) -> None:
        self._execution = execution
        self._expectation = Expectation(observation)
        self._checked = None
        self._deviates_since = None
        self._recorded = (execution.state, execution.record.reason)
        self._recorded_at = 0.0

    def _absorb(self, execution: Execution, now: datetime) -> None:
        for move_id in execution.absorb(self._reports, now):
            move = execution.moves[move_id]
            if self._expectation is not None:
                self._expectation.succeeded(move)
            MOVES.labels(move.kind.lower(), "succeeded").inc()
            if move.kind is MoveKind.COPY:
                MOVED_BYTES.inc(move.bytes)
        execution.expire(now)
        for move_id in execution.changed:
            if execution.move_state(move_id) is MoveState.FAILED:
                move, progress = execution.moves[move_id], execution.progress[move_id]
                MOVES.labels(move.kind.lower(), "failed").inc()
                log.warning(
                    "move failed",
                    plan=execution.record.plan_id,
                    move=move_id,
                    node=move.destination,
                    attempt=progress.attempts,
                    reason=progress.reason,
                )

    def _obey(self, execution: Execution, command: PlanCommand, now: datetime) -> None:
        if command.plan_id != execution.record.plan_id:
            return
        event, reason = PlanEvent.PAUSE, "paused by an operator"
        if command.verb is PlanVerb.RESUME:
            event, reason = PlanEvent.RESUME, ""
        elif command.verb is PlanVerb.CANCEL:
            event, reason = PlanEvent.CANCEL_DRAIN, "cancelled by an operator"
            if command.mode is CancelMode.ROLLBACK:
                event, reason = PlanEvent.CANCEL_ROLLBACK, "cancelled by an operator, rolling back"
        if (execution.state, event) in PLAN_TRANSITIONS:
            execution.advance(event, now, reason or None)
            log.info(
                "plan command", plan=command.plan_id, verb=command.verb.value, state=execution.state.value
            )

    def _end_what_no_longer_fits(self, execution: Execution, observation: Observation, now: datetime) -> None:
        if execution.ended or self._expectation is None:
            return
        in_force = observation.in_force
        reason = None
        if in_force is None or in_force.generation != execution.record.to_generation:
            reason = f"generation {'none' if in_force is None else in_force.generation} is in force"
        looked = (observation.spec_version, observation.live_version)
        if reason is None and looked != self._checked:
            reason = self._expectation.contradiction(observation, execution.unfinished())
            self._checked = looked
        if reason is None:
            outstanding = [execution.moves[move_id] for move_id in execution.outstanding]
            deviation = self._expectation.deviation(observation, outstanding)
            if deviation is None:
                self._deviates_since = None
            else:
                if self._deviates_since is None:
                    self._deviates_since = time.monotonic()
                if time.monotonic() - self._deviates_since > DEVIATION_HEARTBEATS * self._heartbeat_seconds:
                    reason = deviation
        if reason is not None:
            execution.advance(PlanEvent.SUPERSEDE, now, reason)
            log.info("plan superseded", plan=execution.record.plan_id, reason=reason)

    async def _prepare(self, execution: Execution, observation: Observation) -> None:
        """Have what is ready worked out off the event loop: a plan may have tens of thousands of moves."""
        await asyncio.to_thread(execution.ready, _release_limits(observation))

    def _release(
        self, execution: Execution, observation: Observation, problem: PlacementProblem, now: datetime
    ) -> None:
        if execution.state is not PlanState.RUNNING:
            return
        limits = _release_limits(observation)
        fleet = observation.fleet
        serving = without(fleet, observation.held, self._withdrawal.copies)
        in_use = self._routing.in_use(observation)
        reading: dict[str, set[tuple[str, int, int]]] = {}

        def source_of(move: PlannedMove, tried: frozenset[str | None]) -> Source | None:
            return choose_source(fleet, problem, serving, planning_limits(1), move, tried)

        def may_drop(move: PlannedMove) -> bool:
            copy = _copy_of(move)
            if move.destination not in reading:
                reading[move.destination] = execution.reading_from(move.destination)
            if (move.model_id, move.layer, move.expert) in reading[move.destination]:
                self.waiting_for = f"{move.destination} is being read before it drops"
                return False
            if copy not in self._withdrawal.copies:
                return False
            behind = self._withdrawal.behind(copy, in_use)
            if behind:
                self.waiting_for = (
                    f"{len(behind)} nodes, first {behind[0]}, still route to a copy that is to be dropped"
                )
            return not behind

        execution.release(execution.ready(limits), source_of, may_drop, now)

    def _withdraw(self, observation: Observation, problem: PlacementProblem) -> None:
        """Leave out of routing tables what may be dropped next, unless it is all that serves an expert."""
        execution = self._execution
        if execution is None or execution.ended:
            self._withdrawal.restrict(frozenset())
            return
        limits = _release_limits(observation)
        wanted = [execution.moves[move_id] for move_id in execution.outstanding]
        wanted += execution.ready(limits)
        wanted += [m for m in execution.failed() if m.kind is MoveKind.DROP]
        copies = {_copy_of(move) for move in wanted if move.kind is MoveKind.DROP}
        kept = copies & self._withdrawal.copies
        self._withdrawal.restrict(frozenset(kept))
        serving = without(observation.fleet, observation.held, self._withdrawal.copies)
        left: UInt8 = serving.sum(axis=0)
        origin = bool((problem.origin_latency_seconds[observation.live_mask] < float("inf")).all())
        for copy in sorted(copies - kept):
            try:
                row = observation.fleet.row(copy.node_id)
                column = observation.fleet.column(copy.model_id, copy.layer, copy.expert)
            except UnknownExpert:
                continue
            if serving[row, column]:
                if left[column] <= 1 and not origin:
                    self.waiting_for = (
                        f"{copy.node_id} alone serves {copy.model_id}/{copy.layer}/{copy.expert}, "
                        "which it is to drop"
                    )
                    continue
                left[column] -= 1
            self._withdrawal.withdraw([copy])

    async def _roll_back(self, execution: Execution, observation: Observation, now: datetime) -> None:
        """Bring the generation that the plan came from into force again; the plan back follows from it."""
        generation = execution.record.from_generation
        stored = None
        if generation is not None:
            stored = await read_document(self._redis, self._keys.placement_generation(generation))
        if stored is None:
            gone = "there was none before" if generation is None else f"generation {generation} was pruned"
            execution.advance(PlanEvent.MOVE_GIVEN_UP, now, f"cannot roll back: {gone}")
            self._cancelled_generation = execution.record.to_generation
            return
        document = await asyncio.to_thread(PlacementDocument.model_validate_json, stored.json)
        holds = await asyncio.to_thread(
            observation.fleet.matrix_of_holdings, document.spec.holds, ignore_unknown=True
        )
        evidence = Evidence.without_solve(
            ROLLBACK, f"plan {execution.record.plan_id} was cancelled: back to generation {generation}"
        )
        try:
            published = await publish_matrix(self._redis, self._lease, observation, holds, evidence)
        except GenerationChanged:
            return  # the next look finds the other generation and supersedes the plan
        execution.advance(
            PlanEvent.ROLLED_BACK,
            now,
            f"rolled back to generation {generation}, as generation {published.metadata.generation}",
        )
        log.info("plan rolled back", plan=execution.record.plan_id, to=generation)

    def _finish(self, execution: Execution, now: datetime) -> None:
        """The plan has ended, and is saved as such."""
        state, reason = execution.state, execution.record.reason
        self._execution = self._expectation = None
        self._linger(execution)
        if any(execution.move_state(move_id) is MoveState.IN_PROGRESS for move_id in execution.progress):
            self._not_before = time.monotonic() + SETTLE_SECONDS
        if state is PlanState.SUCCEEDED:
            self._failures = 0
            self.trouble = None
        elif state is PlanState.FAILED:
            self._back_off(
                execution.record.to_generation, f"plan {execution.record.plan_id} failed: {reason}"
            )
        elif state is PlanState.CANCELLED:
            self._cancelled_generation = execution.record.to_generation
            self.trouble = f"plan {execution.record.plan_id} was cancelled"

    def _linger(self, execution: Execution) -> None:
        """Nodes may still do the drops that they were told, or have done them without having been heard."""
        left = [
            _copy_of(move)
            for move in execution.moves.values()
            if move.kind is MoveKind.DROP
            and move.move_id in execution.progress
            and execution.move_state(move.move_id) is not MoveState.SUCCEEDED
        ]
        self._withdrawal.linger(left, time.monotonic() + self._linger_seconds)

    def _back_off(self, generation: int, trouble: str) -> None:
        if self._failed_generation != generation:
            self._failures = 0
        self._failed_generation = generation
        wait = min(BACK_OFF_SECONDS * 2**self._failures, BACK_OFF_LIMIT_SECONDS)
        self._failures = min(self._failures + 1, 16)
        self._not_before = max(self._not_before, time.monotonic() + wait)
        self.trouble = trouble

    # --- saving
    async def _save(
        self, observation: Observation, problem: PlacementProblem, now: datetime, *, commands: int
    ) -> None:
        """Progress, record and orders in one transaction: no node has an order that is not known of."""
        execution, keys = self._execution, self._keys
        in_force = observation.in_force
        generation = 0 if in_force is None else in_force.generation
        if execution is not None:
            generation = execution.record.to_generation
        wanted = orders(execution, observation, problem)
        uid = observation.cluster.uid
        changed = {
            node_id: moves
            for node_id, moves in wanted.items()
            if self._orders.get(node_id) != (uid, generation, moves)
        }
        documents: dict[str, EncodedDocument] = {
            node_id: encode_orders(uid, generation, node_id, moves) for node_id, moves in changed.items()
        }
        progress = {}
        record: bytes | None = None
        shown = None
        if execution is not None:
            progress = {move_id: execution.progress[move_id] for move_id in execution.changed}
            shown = (execution.state, execution.record.reason)
            self._counts_changed |= bool(progress)
            due = time.monotonic() - self._recorded_at >= RECORD_SECONDS
            if shown != self._recorded or (self._counts_changed and due):
                snapshot = execution.snapshot(now)
                record = (await asyncio.to_thread(snapshot.model_dump_json)).encode()
        if not (documents or progress or record is not None or commands):
            return

        def queue(pipe: Pipeline) -> None:
            announced = [topics.moves(node_id) for node_id in documents]
            for node_id, document in documents.items():
                queue_document(pipe, keys.moves(node_id), document)
            if execution is not None:
                plan_id = execution.record.plan_id
                queue_progress(pipe, keys, plan_id, progress)
                if record is not None:
                    pipe.set(keys.plan(plan_id), record)
                    announced += [topics.plan(plan_id), topics.STATUS]
                if execution.ended:
                    pipe.delete(keys.plan_active)
            if commands:
                pipe.ltrim(keys.plan_commands, commands, -1)
            topics.announce(pipe, keys, *announced)

        await fenced(self._redis, self._lease, queue)
        for node_id, moves in changed.items():
            self._orders[node_id] = (uid, generation, moves)
        for node_id in self._orders.keys() - wanted.keys():
            del self._orders[node_id]
        if execution is not None:
            execution.saved()
            if record is not None:
                self._recorded, self._recorded_at = shown, time.monotonic()
                self._counts_changed = False

    # --- new plans
    def _withheld(self, case: tuple[int, int, int, int]) -> bool:
        if case[0] == self._cancelled_generation:
            return True
        return time.monotonic() < self._not_before or case == self._held_back

    async def _begin_planned(
        self, task: asyncio.Task[PlanOutcome], observation: Observation
    ) -> PlanRecord | None:
        in_force = observation.in_force
        assert in_force is not None
        try:
            outcome = await task
        except SolverClosed:
            raise
        except TaskError as error:
            self._back_off(in_force.generation, f"no plan could be made: {error}")
            log.error("planning failed", reason=str(error))
            return None
        now = datetime.now(UTC)
        state, reason = PlanState.RUNNING, None
        if outcome.plan.status is PlanStatus.INFEASIBLE:
            state, reason = PlanState.FAILED, outcome.plan.reason
        elif outcome.refusals:
            state = PlanState.FAILED
            reason = f"refused by verification ({len(outcome.refusals)} violations): {outcome.refusals[0]}"
        requested = self._requested
        if requested is not None and requested.to_generation != in_force.generation:
            requested = None
        self._requested = None
        record = await asyncio.to_thread(
            plan_record,
            outcome.plan,
            observation.fleet,
            plan_id=new_plan_id(in_force.generation) if requested is None else requested.plan_id,
            from_generation=in_force.document.metadata.supersedes
            if requested is None
            else requested.from_generation,
            to_generation=in_force.generation,
            created_at=now if requested is None else requested.created_at,
            state=state,
            reason=reason,
        )
        body = (await asyncio.to_thread(record.model_dump_json)).encode()
        outdated = await outdated_plans(self._redis, self._keys)
        keys = self._keys

        def queue(pipe: Pipeline) -> None:
            pipe.zadd(keys.plans, {record.plan_id: record.created_at.timestamp()})
            pipe.set(keys.plan(record.plan_id), body)
            queue_forgetting(pipe, keys, outdated)
            if state is PlanState.RUNNING:
                pipe.set(keys.plan_active, record.plan_id)
            topics.announce(pipe, keys, topics.plan(record.plan_id), topics.STATUS)

        await fenced(self._redis, self._lease, queue)
        if state is PlanState.FAILED:
            assert self._planning_for is not None
            self._held_back = self._planning_for
            self._back_off(in_force.generation, f"plan {record.plan_id} failed: {reason}")
            log.warning("no plan", plan=record.plan_id, generation=in_force.generation, reason=reason)
            return None
        self.trouble = None
        self._begin(await asyncio.to_thread(Execution, record, {}), observation)
        log.info(
            "plan begins",
            plan=record.plan_id,
            generation=in_force.generation,
            moves=len(record.moves),
            bytes=outcome.plan.estimate.bytes,
            seconds=round(outcome.plan.estimate.seconds, 3),
        )
        return record

    async def _nothing_to_move(self, requested: PlanRecord) -> None:
        """What was asked for is so already."""
        self._requested = None
        now = datetime.now(UTC)
        record = requested.model_copy(
            update={"state": PlanState.SUCCEEDED, "reason": "nothing to move", "updated_at": now}
        )

        def queue(pipe: Pipeline) -> None:
            pipe.set(self._keys.plan(record.plan_id), record.model_dump_json())
            topics.announce(pipe, self._keys, topics.plan(record.plan_id))

        await fenced(self._redis, self._lease, queue)

    def _log_end(self, execution: Execution) -> None:
        record = execution.record
        log.info(
            "plan ended",
            plan=record.plan_id,
            state=record.state.value,
            reason=record.reason,
            succeeded=record.progress.moves_succeeded,
            moves=record.progress.moves_total,
        )


def _release_limits(observation: Observation) -> Limits:
    settings = observation.cluster.settings
    return release_limits(settings.max_copies_per_node, settings.max_copies_per_cluster)


def _target(observation: Observation, in_force: InForce) -> UInt8:
    """What nodes that live are to hold; nothing can be done about the others."""
    target = in_force.holds.copy()
    target[~observation.live_mask] = 0
    return target


def _copy_of(move: PlannedMove) -> HeldCopy:
    return HeldCopy(move.destination, move.model_id, move.layer, move.expert)
