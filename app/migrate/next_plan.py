"""The plan that is to come: whether one is needed, when it may be made, and what became of making it."""

import asyncio
import time
from datetime import timedelta
from typing import Final

import numpy as np
import structlog

from app.migrate.durations import Durations
from app.migrate.plan_journal import PlanJournal
from app.migrate.planning import (
    names_of,
    new_plan_id,
    plan_record,
    planning_limits,
    problem_for_planning,
    rate_limit,
    receivers,
)
from app.migration_plans.schemas import PlanRecord
from app.observability.metrics import MIGRATION_PLANS
from app.observe.holdup import Holdup, in_words
from app.observe.observation import InForce, Observation
from app.observe.remedies import impossible_plan
from app.placements.schemas import Outlook
from app.runtime.cancellation import end
from app.solver_process.process import SolverClosed, SolverProcess, TaskError
from app.solver_process.tasks import PlanOutcome, plan_task
from app.storage.clock import server_now
from migrations.states import PlanState
from solvers.problem import PlacementProblem, UInt8

PLAN_SECONDS: Final = 120.0
"""Deadline of making one plan."""

HOLD_SECONDS: Final = 5.0
"""How long a plan waits for another placement that is being computed. Then it is made, and superseded if that
placement comes: a solve may take minutes, and find nothing better."""

BACK_OFF_SECONDS: Final = 5.0
BACK_OFF_LIMIT_SECONDS: Final = 300.0
"""After a plan failed the next waits: the first time BACK_OFF_SECONDS, then twice as long each time."""

log = structlog.stdlib.get_logger(__name__)

Case = tuple[int, int, int, int]
"""What a plan is made for: the generation, and the versions of holdings, of who lives and of what is
registered."""


class NextPlan:
    """One cluster's, for as long as one lease lasts."""

    def __init__(self, planner: SolverProcess, journal: PlanJournal, durations: Durations) -> None:
        self._planner = planner
        self._durations = durations
        self._journal = journal
        self._making: asyncio.Task[PlanOutcome] | None = None
        self._made_for: Case | None = None
        self._rate_limit: float | None = None
        self._requested: PlanRecord | None = None
        self._impossible: Case | None = None
        self._failures = 0
        self._failed_generation: int | None = None
        self._cancelled_generation: int | None = None
        self._not_before = 0.0
        self._held: tuple[int, float] | None = None
        self.trouble: Holdup | None = None
        """Why the fleet is not being brought to the generation in force."""
        self.waiting_for: Holdup | None = None
        """What the plan that is to come waits for; None also where none is to come."""

    async def make(
        self, observation: Observation, traffic: PlacementProblem | None, *, hold: bool
    ) -> PlanRecord | None:
        """Make or fetch the next plan where one is needed; the record, stored and RUNNING, when it is there.

        `traffic` is the problem with its routes, which put what helps most first; None while it is not known.
        `hold`: a new generation is about to come, a plan for this one would be superseded at once. It waits
        for `HOLD_SECONDS` at most.
        """
        self.waiting_for = None
        in_force = observation.in_force
        if in_force is None:
            return None
        case = (
            in_force.generation,
            observation.held_version,
            observation.live_version,
            observation.spec_version,
        )
        if self._making is not None:
            if not self._making.done():
                self.waiting_for = _under_way(f"a plan to generation {in_force.generation} is being made")
                return None
            task, made_for = self._making, self._made_for
            self._making = None
            if made_for != case:
                task.exception()  # of no interest: what it planned for is past
                self.waiting_for = _under_way("the fleet changed while a plan was made: it is made anew")
                return None
            return await self._made(task, case, observation, in_force)
        if self._requested is not None and self._requested.to_generation < in_force.generation:
            requested, self._requested = self._requested, None
            reason = f"generation {in_force.generation} is in force"
            await self._journal.end(requested, PlanState.SUPERSEDED, reason)
        target = _target(observation, in_force)
        if np.array_equal(target, observation.held):
            self.trouble = None
            self._failures = 0
            if self._requested is not None:
                requested, self._requested = self._requested, None
                await self._journal.end(requested, PlanState.SUCCEEDED, "nothing to move")
            return None
        if self._withheld(case):
            if time.monotonic() < self._not_before and self.trouble is None:
                self.waiting_for = _under_way("nodes finish copies that they had begun under the last plan")
            return None
        if hold and self._may_hold(in_force.generation):
            self.waiting_for = _under_way(
                "another placement is being computed: a plan to the one in force is made "
                f"{HOLD_SECONDS:g} s after it is needed, where the other has not come by then"
            )
            return None
        if traffic is None:
            self.waiting_for = _under_way("the traffic that a plan is made for is being read")
            return None
        self._made_for = case
        settings = observation.cluster.settings
        self._rate_limit = rate_limit(settings, receivers(observation.held, target))
        self._making = asyncio.create_task(
            self._planner.run(
                plan_task,
                problem_for_planning(traffic, observation.live_mask, self._rate_limit),
                observation.held,
                target,
                planning_limits(settings.max_copies_per_cluster),
                names_of(observation.fleet),
                deadline_seconds=PLAN_SECONDS,
            )
        )
        return None

    def needed(self, observation: Observation) -> bool:
        """Nodes hold something else than they are to, and no plan is being made."""
        if self._making is not None or observation.in_force is None:
            return False
        return not np.array_equal(_target(observation, observation.in_force), observation.held)

    @property
    def requested(self) -> str | None:
        """The plan that an operator asked for and that is not made yet."""
        return None if self._requested is None else self._requested.plan_id

    def request(self, record: PlanRecord, generation: int) -> None:
        """The next plan, to `generation`, is this one that an operator asked for."""
        self._requested = record.model_copy(update={"to_generation": generation})
        self._cancelled_generation = None
        self._impossible = None
        self._not_before = 0.0

    async def close(self) -> None:
        if self._making is not None:
            await end(self._making)

    # --- what became of the last one
    def succeeded(self) -> None:
        self._failures = 0
        self.trouble = None

    def failed(self, generation: int, trouble: str) -> None:
        """The next one, to the same generation, waits longer each time. `trouble`: what failed, in words."""
        if self._failed_generation != generation:
            self._failures = 0
        self._failed_generation = generation
        wait = min(BACK_OFF_SECONDS * 2**self._failures, BACK_OFF_LIMIT_SECONDS)
        self._failures = min(self._failures + 1, 16)
        self.wait(wait)
        again = f"another is made at {in_words(server_now() + timedelta(seconds=wait))}"
        self.trouble = Holdup(Outlook.WAITING, f"{trouble}; {again}")

    def cancelled(self, generation: int, trouble: Holdup | None = None) -> None:
        """An operator does not want the fleet to go there: no plan until it is asked for, which it may have
        been while the cancelled one drained, or another generation comes."""
        if self._requested is not None and self._requested.to_generation == generation:
            return
        self._cancelled_generation = generation
        self.trouble = trouble or self.trouble

    def is_cancelled(self, generation: int | None) -> bool:
        return generation is not None and generation == self._cancelled_generation

    def wait(self, seconds: float) -> None:
        """Make no plan for that long."""
        self._not_before = max(self._not_before, time.monotonic() + seconds)

    def _may_hold(self, generation: int) -> bool:
        """A plan to this generation has not waited for another one for long."""
        now = time.monotonic()
        if self._held is None or self._held[0] != generation:
            self._held = generation, now
        return now - self._held[1] < HOLD_SECONDS

    def _withheld(self, case: Case) -> bool:
        if self.is_cancelled(case[0]):
            return True
        return time.monotonic() < self._not_before or case == self._impossible

    async def _made(
        self, task: asyncio.Task[PlanOutcome], case: Case, observation: Observation, in_force: InForce
    ) -> PlanRecord | None:
        try:
            outcome = await task
        except SolverClosed:
            raise
        except TaskError as error:
            self.failed(in_force.generation, f"no plan could be made: {error}")
            log.error("planning failed", reason=str(error))
            return None
        now = server_now()
        reason = outcome.failure
        state = PlanState.RUNNING if reason is None else PlanState.FAILED
        requested, self._requested = self._requested, None
        if requested is not None and requested.to_generation != in_force.generation:
            requested = None
        record = await asyncio.to_thread(
            plan_record,
            outcome.plan,
            observation.fleet,
            self._durations,
            moves_at_once=observation.cluster.settings.max_copies_per_node,
            plan_id=new_plan_id(in_force.generation) if requested is None else requested.plan_id,
            from_generation=in_force.document.metadata.supersedes
            if requested is None
            else requested.from_generation,
            to_generation=in_force.generation,
            created_at=now if requested is None else requested.created_at,
            state=state,
            reason=reason,
            rate_limit_bytes_per_second=self._rate_limit,
        )
        await self._journal.enter(record)
        if state is PlanState.FAILED:
            self._impossible = case
            MIGRATION_PLANS.labels("failed").inc()
            self.failed(in_force.generation, f"plan {record.plan_id} failed: {reason}")
            self.trouble = impossible_plan(observation, record.plan_id, reason or "")
            log.warning("no plan", plan=record.plan_id, generation=in_force.generation, reason=reason)
            return None
        self.trouble = None
        return record


def _under_way(words: str) -> Holdup:
    return Holdup(Outlook.UNDER_WAY, words)


def _target(observation: Observation, in_force: InForce) -> UInt8:
    """What nodes that live are to hold; nothing can be done about the others."""
    target = in_force.holds.copy()
    target[~observation.live_mask] = 0
    return target
