"""The worker processes, one after another or two at once: the service's own loop over one cluster."""

import asyncio
import random
from collections.abc import Callable
from typing import Any, TypeVar, cast

from redis.asyncio import Redis

from app.config import Settings
from app.observe.observation import Observation
from app.solver_process.process import SolverProcess
from app.storage import topics
from app.storage.keys import ClusterKeys
from app.storage.lease import Lease, LeaseLost
from app.worker.controller import ClusterController
from app.worker.pace import Wake
from solvers.problem import PlacementProblem
from tests.simulation.clock import process
from tests.simulation.faults import Faults
from tests.simulation.invariants import Watch
from tests.simulation.store import Connection, Store

R = TypeVar("R")


class InlineSolver(SolverProcess):
    """Does its tasks in this process, and takes a while of virtual time for it."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__("simulated", lambda: None)
        self._rng = rng

    async def run(self, task: Callable[..., R], *arguments: Any, deadline_seconds: float) -> R:
        await asyncio.sleep(self._rng.choice((0.01, 0.1, 3.0)))
        return task(*arguments)


class _Controller(ClusterController):
    """Without telemetry, solves and what people look at: placements come from the operator here."""

    async def _fold(self, observation: Observation) -> None:
        return

    async def _solve(self, observation: Observation) -> None:
        return

    async def _analyse(self, observation: Observation) -> None:
        return

    async def _show(self, observation: Observation, base: PlacementProblem | None) -> None:
        return


class Workers:
    """At most one holds the lease; one that lost it goes on until it notices."""

    def __init__(
        self,
        store: Store,
        keys: ClusterKeys,
        settings: Settings,
        faults: Faults,
        watch: Watch,
        ahead: Callable[[], float],
    ) -> None:
        self._ahead = ahead
        self._store = store
        self._keys = keys
        self._settings = settings
        self._faults = faults
        self._watch = watch
        self._token = 0
        self._wake = Wake()
        self._running: list[asyncio.Task[None]] = []
        self._current: asyncio.Task[None] | None = None
        store.listeners.append(self._hear)

    def _hear(self, topic: str) -> None:
        if topic == topics.WORK and not self._faults.happens(self._faults.unheard):
            self._wake.set()

    def start(self) -> None:
        """A new worker takes the cluster, whoever had it."""
        self._token += 1
        name = f"w{self._token}"
        lease = Lease(self._keys.cluster_id, name, self._token, self._keys.lease, 10_000)
        self._store.set(self._keys.lease, lease.value)
        self._wake = Wake()
        connection = Connection(self._store, self._faults.rng)
        connection.breaks = self._faults.store_breaks
        controller = _Controller(
            cast("Redis", connection),
            lease,
            self._settings,
            InlineSolver(self._faults.rng),
            InlineSolver(self._faults.rng),
            self._wake,
        )
        self._watch.note(f"worker {name} takes over")
        self._current = process(controller.run(), self._ahead())
        self._running.append(self._current)

    async def fail_over(self, *, zombie: bool, gap: float) -> None:
        """Another worker takes over; the one before dies, or goes on as if nothing had happened."""
        self._watch.seen["zombies" if zombie else "failovers"] += 1
        if not zombie and self._current is not None:
            self._current.cancel()
            await asyncio.gather(self._current, return_exceptions=True)
            self._watch.note("the worker dies")
            self._store.delete(self._keys.lease)
            self._current = None
            await asyncio.sleep(gap)
        self.start()

    def ensure(self) -> None:
        """From now on there is a worker, and its store does not fail."""
        if self._current is None or self._current.done() or self._faults.store_breaks == 0.0:
            self.start()

    def look(self) -> None:
        """Raise what ended a worker, but for the loss of its lease."""
        for task in [task for task in self._running if task.done()]:
            self._running.remove(task)
            if task.cancelled():
                continue
            error = task.exception()
            if error is not None and not isinstance(error, LeaseLost):
                raise error
            if error is not None and task is self._current:
                raise AssertionError("the worker lost the lease that nobody took")

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
