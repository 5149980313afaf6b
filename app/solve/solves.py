"""The service's own solves: one at a time, when something calls for it, and again when one failed."""

import asyncio
import time
from dataclasses import replace
from datetime import timedelta

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.observe.holdup import Holdup, in_words
from app.observe.observation import Observation
from app.optimizations.schemas import OptimizationRequest
from app.placements.schemas import Outlook
from app.runtime.cancellation import end
from app.solve.optimizer import Solved, solve_and_adopt
from app.solve.problems import Problems
from app.solve.triggers import URGENT, Reason, Situation, Triggers
from app.solver_process.process import SolverClosed, SolverProcess, TaskError
from app.storage.clock import server_now
from app.storage.lease import Lease
from app.storage.optimistic import Contended
from solvers.multipliers import AnyMultipliers

BACK_OFF_SECONDS = 2.0
BACK_OFF_LIMIT_SECONDS = 60.0
"""After a solve that failed (crashed, overran): doubled each time."""

log = structlog.stdlib.get_logger(__name__)


class Solves:
    """One cluster's, for as long as one lease lasts."""

    def __init__(
        self,
        redis: Redis,
        lease: Lease,
        solver: SolverProcess,
        planner: SolverProcess,
        problems: Problems,
        wake: asyncio.Event,
    ) -> None:
        self._redis = redis
        self._lease = lease
        self._solver = solver
        self._planner = planner
        self._problems = problems
        self._wake = wake
        self._triggers = Triggers()
        self._task: asyncio.Task[Solved] | None = None
        self._reason: Reason | None = None
        self._solving: Situation | None = None
        self._not_before = 0.0
        self._failures = 0
        self._multipliers: AnyMultipliers | None = None  # of the last solve
        self._trouble: tuple[Situation, Holdup] | None = None

    @property
    def busy(self) -> bool:
        """A solve is under way."""
        return self._task is not None

    def holdup(self, observation: Observation) -> Holdup | None:
        """Why there is no newer placement; None where there is, or where the last solve was of another
        situation."""
        if self._trouble is None or self._trouble[0] != Situation.of(observation).without_drains:
            return None
        return self._trouble[1]

    @property
    def pressing(self) -> bool:
        """A solve is under way that will likely bring another placement."""
        return self._task is not None and self._reason is not Reason.INTERVAL

    async def step(self, observation: Observation) -> None:
        """Learn what became of the last solve, and begin the next where something calls for it."""
        now = time.monotonic()
        task = self._task
        if task is not None and task.done():
            self._task = None
            self._learn(task, now)
        if self._task is not None and not observation.recomputes:
            log.info("solve abandoned", reason="recomputation is paused")
            await end(self._task)
            self._task = None
            self._triggers.forget()
        if now < self._not_before:
            return
        until = self._problems.until_us
        reason = self._triggers.due(observation, until, now)
        if reason is None:
            return
        if self._task is not None:
            if reason not in URGENT or self._reason in URGENT:
                return
            log.info("solve abandoned for an urgent one", reason=reason.value)
            await end(self._task)
            self._task = None
        built = await self._problems.built(observation)
        if built is None:
            return
        self._triggers.solving(observation, until, now)
        self._solving = Situation.of(observation).without_drains
        # An urgent one does not wait for what an operator asked for.
        solver = self._planner if self._solver.busy and reason in URGENT else self._solver
        self._reason = reason
        self._task = asyncio.create_task(
            solve_and_adopt(
                self._redis,
                self._lease,
                solver,
                observation,
                built,
                OptimizationRequest(),
                reason.value,
                self._multipliers,
            )
        )
        self._task.add_done_callback(lambda _: self._wake.set())

    async def close(self) -> None:
        if self._task is not None:
            await end(self._task)

    def _learn(self, task: asyncio.Task[Solved], now: float) -> None:
        situation = self._solving
        if task.cancelled() or situation is None:
            return
        try:
            solved = task.result()
        except SolverClosed:
            raise
        except (TaskError, RedisError, OSError, Contended, ValueError) as error:
            wait = min(BACK_OFF_SECONDS * 2**self._failures, BACK_OFF_LIMIT_SECONDS)
            self._failures = min(self._failures + 1, 10)
            self._not_before = now + wait
            self._triggers.forget()
            reason = f"solving failed: {error}"
            again = f"it is tried again at {in_words(server_now() + timedelta(seconds=wait))}"
            self._trouble = situation, Holdup(Outlook.WAITING, f"{reason}; {again}")
            log.error("solve failed", reason=str(error), again_in_seconds=wait)
            return
        self._failures = 0
        self._multipliers = solved.outcome.result.multipliers
        self._trouble = None
        if solved.generation is not None:
            self._triggers.published(solved.generation)
        elif solved.decision.adopt:
            self._triggers.forget()  # something came in between
        elif solved.not_found is not None:
            self._trouble = situation, replace(solved.not_found, reason=solved.decision.detail)
