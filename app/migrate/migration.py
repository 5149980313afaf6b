"""Brings the nodes of a cluster to the generation in force, one plan after another.

Each look: fold what nodes report, end what no longer fits, release what may begin, withdraw what is to go;
and where nodes hold something else than they are to and no plan runs, make one from what they hold.
"""

import asyncio
import functools
import time
from datetime import datetime, timedelta
from typing import Final

import structlog
from redis.asyncio import Redis

from app.migrate.durations import Durations, PlanDuration, rounds_of_moves
from app.migrate.execution import WORKING, Execution
from app.migrate.expectation import Deviation, Expectation
from app.migrate.next_plan import NextPlan
from app.migrate.orders import orders
from app.migrate.plan_journal import PlanJournal
from app.migrate.plan_records import newest_plans, read_commands, read_plan, read_progress, read_reports
from app.migrate.releasing import Releasing, copy_of, limits_of
from app.migrate.restoration import CannotRestore, holds_of_generation, restore
from app.migration_plans.schemas import (
    CancelMode,
    MoveReportRecord,
    PlanCommand,
    PlanRecord,
    PlanVerb,
    ReleasedMoves,
)
from app.observability.metrics import MIGRATION_DURATION, MIGRATION_PLANS, MOVED_BYTES, MOVES
from app.observe.holdup import Holdup, together
from app.observe.left_out import LeftOut
from app.observe.observation import Observation
from app.observe.remedies import cancelled_plan, paused_plan, stuck_moves
from app.placements.publish import GenerationChanged
from app.publish.routing import RoutingTables
from app.publish.withdrawal import HeldCopy, Withdrawal
from app.solver_process.process import SolverProcess
from app.storage.clock import server_now
from app.storage.documents import read_document
from app.storage.keys import ClusterKeys
from app.storage.lease import Lease
from app.storage.records import read_record
from migrations.model import MoveKind
from migrations.states import PLAN_TRANSITIONS, MoveState, PlanEvent, PlanState
from solvers.problem import PlacementProblem

WITHHELD_SECONDS: Final = 30.0
"""For how long, and for a lease at least, a copy stays out of the routing tables that its node was told
to drop by a plan that has ended: the node may still do it, or have done it unheard. A node that says which
orders it goes by ends this sooner."""

WITHHELD_PLANS: Final = 16
"""How many plans, newest first, a worker that takes over looks through for drops of that kind."""

SETTLE_SECONDS: Final = 5.0
"""How long the next plan waits for copies that nodes had begun when the last plan ended."""

DEVIATION_HEARTBEATS: Final = 2.0
"""Heartbeats for which nodes may be seen to hold something else than the plan expects before it ends: a
heartbeat may have been under way when a move finished."""

STUCK_HEARTBEATS: Final = 3.0
"""Heartbeats without progress of a move after which the status names its node."""

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
        tick_seconds: float = 0.5,
        left_out: LeftOut | None = None,
    ) -> None:
        self._left_out = LeftOut() if left_out is None else left_out
        self._redis = redis
        self._keys = keys
        self._lease = lease
        self._withdrawal = withdrawal
        self._releasing = Releasing(withdrawal, routing)
        self._journal = PlanJournal(redis, keys, lease)
        self.durations = Durations(redis, keys, lease, tick_seconds=tick_seconds)
        self._begun: float | None = None
        self._next = NextPlan(planner, self._journal, self.durations)
        self._heartbeat_seconds = heartbeat_seconds
        self._withheld_seconds = max(WITHHELD_SECONDS, lease_seconds)
        self._execution: Execution | None = None
        self._expectation: Expectation | None = None
        self._checked: tuple[int, int] | None = None
        self._deviates_since: float | None = None
        self._deviation: Deviation | None = None
        self._reports: dict[str, MoveReportRecord] = {}

    @property
    def active_plan(self) -> str | None:
        return None if self._execution is None else self._execution.record.plan_id

    @property
    def execution(self) -> Execution | None:
        return self._execution

    @property
    def trouble(self) -> Holdup | None:
        """Why the fleet is not being brought to the generation in force."""
        return self._next.trouble

    def unwanted(self, generation: int | None) -> bool:
        """An operator does not want the fleet brought to `generation`."""
        return self._next.is_cancelled(generation)

    def waiting_for(self, observation: Observation) -> Holdup | None:
        """What the plan waits for: the one that is carried out, or the one that is to come."""
        execution = self._execution
        if execution is None:
            return self._next.waiting_for
        if execution.state is PlanState.PAUSED:
            return paused_plan(observation, execution.record.plan_id)
        stuck = execution.stuck(server_now(), STUCK_HEARTBEATS * self._heartbeat_seconds)
        parts = [] if self._releasing.waiting_for is None else [self._releasing.waiting_for]
        return together([*parts, *(stuck_moves(node_id, count) for node_id, count in stuck.items())])

    # --- taking over
    async def take_over(self, observation: Observation) -> None:
        """Go on with the plan that another worker began, and with what it kept out of routing tables."""
        await self._left_out.read(self.durations.load, None)
        await self._restore_withheld()
        if observation.active_plan is not None:
            record = await self._record(observation.active_plan)
            execution = None if record is None or record.state not in WORKING else await self._stored(record)
            if execution is not None:
                self._begin(execution, observation)
                in_force = observation.in_force
                if in_force is not None and in_force.generation == execution.record.to_generation:
                    assert self._expectation is not None
                    self._expectation.count_on(in_force.holds, execution.undone())
                log.info("plan taken over", plan=execution.record.plan_id, state=execution.state.value)
                return
            if (
                self._left_out.faults
            ):  # the plan may be among them; its orders to nodes are records of their own
                await self._withhold_ordered_drops(observation)
        for plan_id in await newest_plans(self._redis, self._keys, 1):
            record = await self._record(plan_id)
            if record is not None and record.state is PlanState.CANCELLED and not record.validate_only:
                self._next.cancelled(
                    record.to_generation, cancelled_plan(observation, record.plan_id, record.to_generation)
                )

    async def _record(self, plan_id: str) -> PlanRecord | None:
        """None where there is none that can be read."""
        return await self._left_out.read(lambda: read_plan(self._redis, self._keys, plan_id), None)

    async def _stored(self, record: PlanRecord) -> Execution | None:
        """The plan with its progress; None where that cannot be read."""
        progress = await self._left_out.read(
            lambda: read_progress(self._redis, self._keys, record.plan_id), None
        )
        return None if progress is None else await asyncio.to_thread(Execution, record, progress)

    async def _restore_withheld(self) -> None:
        """Keep out of routing tables what plans that ended just now had told nodes to drop."""
        since = server_now() - timedelta(seconds=self._withheld_seconds)
        for plan_id in await newest_plans(self._redis, self._keys, WITHHELD_PLANS):
            record = await self._record(plan_id)
            if record is None or record.state in WORKING or record.updated_at < since:
                continue
            execution = await self._stored(record)
            if execution is not None:
                self._withhold(execution)

    async def _withhold_ordered_drops(self, observation: Observation) -> None:
        """Keep out of routing tables what nodes have orders to drop."""

        async def drops(node_id: str) -> list[HeldCopy]:
            key = self._keys.moves(node_id)
            document = await read_document(self._redis, key)
            if document is None:
                return []
            orders = read_record(ReleasedMoves, document.json, key)
            return [
                HeldCopy(node_id, move.model_id, move.layer, move.expert)
                for move in orders.moves
                if move.kind is MoveKind.DROP
            ]

        until = time.monotonic() + self._withheld_seconds
        for node_id in observation.fleet.node_ids:
            nothing: list[HeldCopy] = []
            copies = await self._left_out.read(functools.partial(drops, node_id), nothing)
            self._withdrawal.withhold(copies, until)

    # --- each look
    async def read_reports(self) -> None:
        """To be called before looking, so that a move that is seen to have succeeded is seen in what its node
        holds, too."""
        self._reports = {}
        if self._execution is not None:
            self._reports = await read_reports(
                self._redis,
                self._keys,
                self._execution.record.plan_id,
                self._execution.outstanding,
                self._left_out,
            )

    async def step(self, observation: Observation, problem: PlacementProblem) -> None:
        """Carry on with the plan. `problem` needs neither traffic nor holdings."""
        now = server_now()
        self._releasing.waiting_for = None
        self._withdrawal.readmit(
            time.monotonic(),
            lambda node_id: self._journal.goes_by_newest(node_id, observation.statuses.get(node_id)),
        )
        commands: list[PlanCommand] = []
        stored_commands = 0
        if observation.commands_waiting:
            commands, stored_commands = await read_commands(self._redis, self._keys, self._left_out)
        execution = self._execution
        if execution is not None:
            self._absorb(execution, now)
            for command in commands:
                self._obey(execution, command, now)
            self._end_what_no_longer_fits(execution, observation, now)
            await self._prepare(execution, observation)
            lacking = self._deviation is not None and self._deviation.lacks
            self._releasing.release(execution, observation, problem, now, hold_drops=lacking)
            event = execution.settle(now)
            if event is not None:
                self._log_end(execution)
            if execution.state is PlanState.ROLLING_BACK and execution.drained:
                await self._roll_back(execution, observation, problem, now)
            await self._prepare(execution, observation)
        self._releasing.withdraw(execution, observation, problem)
        await self._save(observation, problem, now, commands=stored_commands)
        if execution is not None and execution.ended:
            await self._learn(execution, observation)
            self._finish(execution, observation)

    async def plan(
        self, observation: Observation, traffic: PlacementProblem | None, *, hold: bool
    ) -> PlanRecord | None:
        """Begin the next plan where one is needed and made; its record then. Arguments as of
        `NextPlan.make`."""
        if self._execution is not None:
            return None
        record = await self._next.make(observation, traffic, hold=hold)
        if record is None:
            return None
        self._begin(await asyncio.to_thread(Execution, record, {}), observation)
        self._begun = time.monotonic()
        log.info(
            "plan begins",
            plan=record.plan_id,
            generation=record.to_generation,
            moves=len(record.moves),
            bytes=None if record.estimate is None else record.estimate.bytes,
            seconds=None if record.estimate is None else round(record.estimate.seconds, 3),
        )
        return record

    def away(self, observation: Observation) -> bool:
        """A plan may be needed: nodes hold something else than they are to, and none is being carried out."""
        return self._execution is None and self._next.needed(observation)

    @property
    def requested(self) -> frozenset[str]:
        """Plans that operators asked for and that are still to be made."""
        return frozenset() if self._next.requested is None else frozenset({self._next.requested})

    def request(self, record: PlanRecord, generation: int) -> None:
        """The next plan, to `generation`, is this one that an operator asked for."""
        self._next.request(record, generation)

    async def close(self) -> None:
        await self._next.close()

    # --- parts of a step
    def _begin(self, execution: Execution, observation: Observation) -> None:
        self._execution = execution
        self._expectation = Expectation(observation)
        self._checked = None
        self._deviates_since = self._deviation = None
        self._journal.follow(execution)

    def _absorb(self, execution: Execution, now: datetime) -> None:
        for move_id in execution.absorb(self._reports, now):
            move = execution.moves[move_id]
            if self._expectation is not None:
                self._expectation.succeeded(move)
            MOVES.labels(move.kind.lower(), "succeeded").inc()
            if move.kind is MoveKind.COPY:
                MOVED_BYTES.labels("succeeded").inc(move.bytes)
        execution.expire(now)
        for move_id in execution.changed:
            if execution.move_state(move_id) is MoveState.FAILED:
                move, progress = execution.moves[move_id], execution.progress[move_id]
                MOVES.labels(move.kind.lower(), "failed").inc()
                if move.kind is MoveKind.COPY:
                    MOVED_BYTES.labels("failed").inc(progress.bytes_done)
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
            self._begun = None  # what it takes from now on is the operator's doing, too
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
            self._deviation = deviation
            if deviation is None:
                self._deviates_since = None
            else:
                if self._deviates_since is None:
                    self._deviates_since = time.monotonic()
                if time.monotonic() - self._deviates_since > DEVIATION_HEARTBEATS * self._heartbeat_seconds:
                    reason = deviation.words
        if reason is not None:
            execution.advance(PlanEvent.SUPERSEDE, now, reason)
            log.info("plan superseded", plan=execution.record.plan_id, reason=reason)

    async def _prepare(self, execution: Execution, observation: Observation) -> None:
        """Have what is ready worked out off the event loop: a plan may have tens of thousands of moves."""
        await asyncio.to_thread(execution.ready, limits_of(observation))

    async def _roll_back(
        self, execution: Execution, observation: Observation, problem: PlacementProblem, now: datetime
    ) -> None:
        """Bring the generation that the plan came from into force again; the plan back follows from it."""
        plan_id, generation = execution.record.plan_id, execution.record.from_generation
        try:
            if generation is None:
                raise CannotRestore("there was none before")
            holds = await holds_of_generation(self._redis, self._keys, generation, observation)
            reason = f"plan {plan_id} was cancelled: back to generation {generation}"
            published = await restore(
                self._redis, self._lease, observation, problem, generation, holds, reason
            )
        except CannotRestore as error:
            execution.advance(PlanEvent.MOVE_GIVEN_UP, now, f"cannot roll back: {error}")
            self._next.cancelled(execution.record.to_generation)
            return
        except GenerationChanged:
            return  # the next look finds the other generation and supersedes the plan
        execution.advance(
            PlanEvent.ROLLED_BACK,
            now,
            f"rolled back to generation {generation}, as generation {published.metadata.generation}",
        )
        log.info("plan rolled back", plan=plan_id, to=generation)

    async def _save(
        self, observation: Observation, problem: PlacementProblem, now: datetime, *, commands: int
    ) -> None:
        execution, in_force = self._execution, observation.in_force
        generation = 0 if in_force is None else in_force.generation
        if execution is not None:
            generation = execution.record.to_generation
        await self._journal.save(
            execution,
            orders(execution, observation, problem),
            uid=observation.cluster.uid,
            generation=generation,
            now=now,
            commands=commands,
        )

    async def _learn(self, execution: Execution, observation: Observation) -> None:
        """Of a plan that succeeded, which this worker began and nobody paused."""
        begun, self._begun = self._begun, None
        record = execution.record
        if begun is None or record.estimate is None or record.state is not PlanState.SUCCEEDED:
            return
        taken = time.monotonic() - begun
        at_once = observation.cluster.settings.max_copies_per_node
        rounds = await asyncio.to_thread(rounds_of_moves, record.moves, at_once)
        transfer_seconds = record.estimate.transfer_seconds
        if transfer_seconds is not None:
            await self.durations.add(
                PlanDuration(transfer_seconds=transfer_seconds, rounds=rounds, taken_seconds=taken)
            )

    def _finish(self, execution: Execution, observation: Observation) -> None:
        """The plan has ended, and is saved as such."""
        record = execution.record
        _count_end(execution)
        self._execution = self._expectation = None
        self._withhold(execution)
        if any(execution.move_state(move_id) is MoveState.IN_PROGRESS for move_id in execution.progress):
            self._next.wait(SETTLE_SECONDS)
        if record.state is PlanState.SUCCEEDED:
            self._next.succeeded()
        elif record.state is PlanState.FAILED:
            self._next.failed(record.to_generation, f"plan {record.plan_id} failed: {record.reason}")
        elif record.state is PlanState.CANCELLED:
            self._next.cancelled(
                record.to_generation, cancelled_plan(observation, record.plan_id, record.to_generation)
            )

    def _withhold(self, execution: Execution) -> None:
        """Nodes may still do the drops that they were told, or have done them without having been heard."""
        left = [
            copy_of(move)
            for move in execution.moves.values()
            if move.kind is MoveKind.DROP
            and move.move_id in execution.progress
            and execution.move_state(move.move_id) is not MoveState.SUCCEEDED
        ]
        self._withdrawal.withhold(left, time.monotonic() + self._withheld_seconds)

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


def _count_end(execution: Execution) -> None:
    record = execution.record
    MIGRATION_PLANS.labels(record.state.lower()).inc()
    for move in execution.moves.values():
        if execution.move_state(move.move_id) is MoveState.CANCELLED:
            MOVES.labels(move.kind.lower(), "cancelled").inc()
            if move.kind is MoveKind.COPY and move.move_id in execution.progress:
                MOVED_BYTES.labels("cancelled").inc(execution.progress[move.move_id].bytes_done)
    released = [entry.released_at for entry in execution.progress.values() if entry.released_at is not None]
    if record.state is PlanState.SUCCEEDED and record.estimate is not None and released:
        MIGRATION_DURATION.labels("planned").observe(record.estimate.seconds)
        MIGRATION_DURATION.labels("actual").observe((record.updated_at - min(released)).total_seconds())
