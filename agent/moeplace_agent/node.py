"""The agent of one node: it registers, says what the node holds, fetches orders and carries them out.

Everything is level-based: a heartbeat carries the latest status and never a queue, orders replace orders,
and whatever was missed is made good by the next full state.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from moeplace_agent.client import AnswerLost, ServiceClient, ServiceError, ServiceProblem, ServiceUnreachable
from moeplace_agent.holdings import ExpertKey, Holdings, grouped
from moeplace_agent.messages import Assignment, Directive, Intervals, MoveKind, Orders
from moeplace_agent.orders import OrderExecutor
from moeplace_agent.outbox import Outbox, Parcel
from moeplace_agent.reports import MoveReport, ReportBox
from moeplace_agent.retrying import RETRIED_STATUSES, RetryPolicy
from moeplace_agent.routing import RoutingTable
from moeplace_agent.storage import Storage
from moeplace_agent.telemetry import Recorder, compress, encode_window

logger = logging.getLogger(__name__)

_Polled = TypeVar("_Polled", Assignment, Orders)

_STALE_POLL_SECONDS = 2.0
_UNKNOWN_INSTANCE = "UNKNOWN_INSTANCE"
_NODE_ID_TAKEN = "NODE_ID_TAKEN"
_TAKEN = "another agent has the node_id"
_SAME_FAULT_SECONDS = 60.0


class ApplyState(StrEnum):
    APPLYING = "APPLYING"
    APPLIED = "APPLIED"
    FAILED = "FAILED"


@dataclass(frozen=True)
class NodeConfig:
    """What the node is. `instance_uid` names this start of the agent."""

    node_id: str
    devices: Mapping[str, int]
    ingress_bytes_per_second: float = 1.25e8
    egress_bytes_per_second: float = 1.25e8
    base_url: str | None = None
    experts_url: str | None = None
    local_seconds: float = 0.0
    peers_seconds: Mapping[str, float] = field(default_factory=dict)
    origin_seconds: float | None = None
    instance_uid: str = field(default_factory=lambda: uuid.uuid4().hex)

    def spec(self) -> dict[str, Any]:
        """The body of a registration."""
        return {
            "instance_uid": self.instance_uid,
            "devices": [
                {"device_id": device_id, "memory_bytes": memory} for device_id, memory in self.devices.items()
            ],
            "ingress_bytes_per_second": self.ingress_bytes_per_second,
            "egress_bytes_per_second": self.egress_bytes_per_second,
            "base_url": self.base_url,
            "experts_url": self.experts_url,
            "latency": {
                "local_seconds": self.local_seconds,
                "peers_seconds": dict(self.peers_seconds),
                "origin_seconds": self.origin_seconds,
            },
        }


class NodeAgent:
    """Runs until cancelled. `recorders` are fed by the engine and cut here; `routes` is what it routes by."""

    def __init__(
        self,
        config: NodeConfig,
        client: ServiceClient,
        storage: Storage,
        recorders: Sequence[Recorder] = (),
        *,
        wait_seconds: int = 25,
        retry: RetryPolicy | None = None,
        outbox: Outbox | None = None,
        on_routes: Callable[[RoutingTable], Awaitable[None]] | None = None,
        latency: Callable[[], dict[str, Any] | None] = lambda: None,
        moved: Callable[[MoveKind, bool, float], None] = lambda *_: None,
    ) -> None:
        """`wait_seconds`: length of a long poll. `on_routes`: has the engine route by another table, which is
        in use once it has returned; it may raise `EngineFailed`. `latency`: what has been measured, as
        heartbeats carry it. `moved`: told of every move its kind, whether it succeeded and its seconds."""
        self._config = config
        self._client = client
        self._recorders = tuple(recorders)
        self._wait_seconds = wait_seconds
        self._retry = retry or RetryPolicy()
        self._on_routes = on_routes
        self._latency = latency
        self.outbox = outbox or Outbox()
        self.holdings = Holdings(config.devices)
        self.routes: RoutingTable | None = None
        self.registrations = 0
        """Registrations of the node."""
        self.heartbeats = 0
        """Heartbeats answered."""
        self._reports = ReportBox()
        self._executor = OrderExecutor(
            self.holdings,
            storage,
            self._reports,
            routing=lambda: self.routes,
            changed=self._say_soon,
            ended=moved,
        )
        self._intervals = Intervals(10.0, 10.0)
        self._cluster_uid: str | None = None
        self._generation: int | None = None
        self._failure: str | None = None
        self._engine_failures = 0
        self._failures_said: dict[str, tuple[str, float]] = {}
        self._drained: bool | None = False
        """None: it is to be said anew."""
        self._sequence = 0
        self._reported: frozenset[ExpertKey] | None = None
        self._versions: dict[str, str | None] = {"assignment": None, "moves": None}
        self._poll_begun: dict[str, float] = {}
        self._polls: dict[str, asyncio.Task[Any]] = {}
        self._wake_heartbeat = asyncio.Event()
        # A heartbeat and a report of moves both change what the service thinks the node holds: one at a
        # time, so that they arrive in the order in which they were written.
        self._speaking = asyncio.Lock()
        # Nothing is reported while the fate of the last heartbeat is unknown: it may yet arrive, and would
        # take back what a report of a move has changed. One that comes after a newer heartbeat is refused.
        self._heard = asyncio.Event()
        self._registering = asyncio.Lock()

    @property
    def node_id(self) -> str:
        return self._config.node_id

    @property
    def failure(self) -> str | None:
        """Why the newest assignment could not be applied."""
        return self._failure

    @property
    def moves_failed(self) -> int:
        """Moves refused or failed since the start."""
        return self._executor.failures

    @property
    def generation(self) -> int | None:
        """The newest placement generation seen."""
        return self._generation

    async def run(self) -> None:
        """Register, then do everything at once until cancelled. Raises `ServiceError` when the first
        registration is refused, or the service cannot be reached until somebody changes something. A service
        that may come is tried for ever, and so are a `node_id` that another agent has and later refusals."""
        try:
            await self._register()
        except ServiceError as error:
            final = isinstance(error, ServiceProblem) and error.status not in RETRIED_STATUSES
            if final and not _is_taken(error):
                raise
            if isinstance(error, ServiceUnreachable) and error.lasting:
                raise
            if _is_taken(error):
                logger.warning("registration failed, trying on: %s", error)
            await self._register_again(_TAKEN if _is_taken(error) else str(error))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._heartbeats())
            tasks.create_task(self._poll("assignment", self._client.wait_for_assignment, self._apply))
            tasks.create_task(self._poll("moves", self._client.wait_for_moves, self._order))
            tasks.create_task(self._executor.run())
            tasks.create_task(self._send_reports())
            tasks.create_task(self._send_telemetry())
            if self._recorders:
                tasks.create_task(self._cut_windows())

    # --- registration
    async def _register(self) -> None:
        answer = await self._client.register(self._config.node_id, self._config.spec())
        self.registrations += 1
        self._cluster_uid = answer.cluster_uid
        self._intervals = answer.intervals
        self._reported = None
        self._versions = dict.fromkeys(self._versions)
        if self._drained:
            self._drained = None
        if self.registrations == 1:
            logger.info("node %s is registered; it holds %d experts", self.node_id, len(self.holdings))
        for poll in self._polls.values():
            poll.cancel()
        self._say_soon()

    async def _register_again(self, why: str) -> None:
        """The service does not know this instance (any more): start over with the full state."""
        before = self.registrations
        async with self._registering:
            if self.registrations != before:
                return
            logger.warning("registering again: %s", why)
            failures, said, said_at = 0, why, time.monotonic()
            while True:
                try:
                    await self._register()
                except ServiceError as error:
                    failures += 1
                    # The same for long is one line a minute.
                    kind = _TAKEN if _is_taken(error) else str(error)
                    if kind != said or time.monotonic() - said_at >= _SAME_FAULT_SECONDS:
                        said, said_at = kind, time.monotonic()
                        logger.warning("registration failed, trying on: %s", error)
                    asked = error.retry_after_seconds if isinstance(error, ServiceProblem) else None
                    await asyncio.sleep(self._retry.wait_seconds(failures, asked))
                else:
                    if self.registrations > 1:
                        logger.info("node %s is registered again", self.node_id)
                    return

    async def _recover(self, error: ServiceError, failures: int) -> None:
        """What every loop does after a failure: register anew where that is the matter, and wait."""
        if isinstance(error, ServiceProblem) and error.status in (404, 409):
            await asyncio.sleep(self._retry.wait_seconds(failures))
            await self._register_again(str(error))
            return
        asked = error.retry_after_seconds if isinstance(error, ServiceProblem) else None
        await asyncio.sleep(self._retry.wait_seconds(failures, asked))

    def _say_failed(self, what: str, error: ServiceError) -> None:
        """The same fault of the same thing is one line a minute."""
        before, said_at = self._failures_said.get(what, ("", 0.0))
        if str(error) == before and time.monotonic() - said_at < _SAME_FAULT_SECONDS:
            return
        self._failures_said[what] = str(error), time.monotonic()
        logger.warning("%s failed, trying on: %s", what, error)

    def _say_answered(self, what: str) -> None:
        if self._failures_said.pop(what, None) is not None:
            logger.info("%s works again", what)

    # --- heartbeats
    def _say_soon(self) -> None:
        self._wake_heartbeat.set()

    async def _heartbeats(self) -> None:
        failures = 0
        while True:
            self._wake_heartbeat.clear()
            try:
                async with self._speaking:
                    await self._heartbeat()
                failures = 0
                self._say_answered("heartbeat")
            except ServiceError as error:
                # What of it arrived is unknown: the next one says everything.
                self._reported = None
                failures += 1
                self._say_failed("heartbeat", error)
                await self._recover(error, failures)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._intervals.heartbeat_seconds):
                    await self._wake_heartbeat.wait()

    async def _heartbeat(self) -> None:
        held = self.holdings.keys
        self._sequence += 1
        if self._failure is not None:
            state = ApplyState.FAILED
        else:
            state = ApplyState.APPLYING if self._executor.busy else ApplyState.APPLIED
        status: dict[str, Any] = {
            "instance_uid": self._config.instance_uid,
            "sequence_number": self._sequence,
            "state": state,
            "reason": self._failure,
            "generation": self._generation,
            "assignment_version": None if self.routes is None else self.routes.version,
            "moves_version": self._executor.version,
            "holds_digest": self.holdings.digest(),
            "latency": self._latency(),
        }
        if self._reported is None:
            status["holds"] = grouped(held)
        else:
            status["holds_changed"] = {
                "added": grouped(held - self._reported),
                "removed": grouped(self._reported - held),
            }
        self._heard.clear()
        answer = await self._client.report_status(self._config.node_id, status)
        self._heard.set()
        self.heartbeats += 1
        self._reported = held
        self._intervals = answer.intervals
        if answer.cluster_uid != self._cluster_uid:
            await self._register_again(f"the cluster is another, {answer.cluster_uid}")
        elif Directive.REPORT_FULL_STATE in answer.directives:
            self._reported = None
            self._say_soon()
        self._say_drained(Directive.DRAIN in answer.directives)
        if Directive.FETCH_ASSIGNMENT in answer.directives:
            self._refetch("assignment")

    def _say_drained(self, drained: bool) -> None:
        if drained == self._drained:
            return
        self._drained = drained
        if drained:
            logger.warning(
                "an operator drained node %s: it is given no experts until one lets it in again "
                "(POST .../nodes/%s:undrain); starting the agent again does not",
                self.node_id,
                self.node_id,
            )
        else:
            logger.info("an operator let node %s in again: it may be given experts", self.node_id)

    # --- orders
    def _refetch(self, resource: str) -> None:
        """Ask anew where a poll has been waiting for long: it may have missed what it waits for."""
        task, begun = self._polls.get(resource), self._poll_begun.get(resource, 0.0)
        if task is not None and time.monotonic() - begun > _STALE_POLL_SECONDS:
            task.cancel()

    async def _poll(
        self,
        resource: str,
        ask: Callable[[str, str | None, int], Awaitable[_Polled | None]],
        apply: Callable[[_Polled], Awaitable[None]],
    ) -> None:
        """One long poll after the other. An end before its time means that the service has no time for
        waiting now: it is not asked again at once."""
        failures = 0
        while True:
            self._poll_begun[resource] = begun = time.monotonic()
            asking = asyncio.ensure_future(
                ask(self._config.node_id, self._versions[resource], self._wait_seconds)
            )
            self._polls[resource] = asking
            try:
                await asyncio.wait([asking])
            finally:
                del self._polls[resource]
                if not asking.done():
                    asking.cancel()
            if asking.cancelled():
                continue
            error = asking.exception()
            if isinstance(error, ServiceError):
                failures += 1
                self._say_failed(f"asking for the {resource}", error)
                await self._recover(error, failures)
                continue
            answer = asking.result()
            self._failures_said.pop(f"asking for the {resource}", None)
            if answer is not None:
                failures = 0
                self._versions[resource] = answer.metadata.version
                if answer.metadata.uid != self._cluster_uid:
                    await self._register_again(f"the cluster is another, {answer.metadata.uid}")
                await apply(answer)
            elif time.monotonic() - begun < self._wait_seconds / 2:
                failures += 1
                await asyncio.sleep(self._retry.wait_seconds(min(failures, 3)))
            else:
                failures = 0

    async def _apply(self, assignment: Assignment) -> None:
        """Route by another table; one that cannot be applied is reported, and the old one stays in use. What
        the engine could not do it is asked again."""
        self._generation = assignment.metadata.generation
        try:
            unknown = [d.device_id for d in assignment.devices if d.device_id not in self._config.devices]
            if unknown:
                raise ValueError(f"assignment names device {unknown[0]}, which this node does not have")
            table = RoutingTable(assignment)
        except ValueError as error:
            self._cannot_apply(assignment, error)
            return
        try:
            if self._on_routes is not None:
                await self._on_routes(table)
        except Exception as error:  # noqa: BLE001 - an engine's fault must not end the agent
            self._cannot_apply(assignment, error)
            self._versions["assignment"] = None
            self._engine_failures += 1
            await asyncio.sleep(self._retry.wait_seconds(self._engine_failures))
        else:
            if self.routes is None or self.routes.generation != table.generation:
                logger.info(
                    "serves by generation %d: %d experts held, %d of %d bytes",
                    table.generation,
                    len(self.holdings),
                    self.holdings.used_bytes,
                    self.holdings.capacity_bytes,
                )
            self.routes = table
            self._failure, self._engine_failures = None, 0
            self._executor.routes_switched()
            self._executor.discard(
                ExpertKey(held.model_id, held.layer, expert)
                for held in assignment.evict
                for expert in held.experts
            )
            self._say_soon()

    def _cannot_apply(self, assignment: Assignment, error: Exception) -> None:
        words = str(error) or type(error).__name__
        self._failure = f"assignment {assignment.metadata.version}: {words}"[:1000]
        logger.error("%s", self._failure)
        self._say_soon()

    async def _order(self, orders: Orders) -> None:
        self._executor.accept(orders)

    # --- reports
    async def _send_reports(self) -> None:
        failures = 0
        while True:
            await self._reports.wait()
            await self._heard.wait()
            batch: list[MoveReport] = []
            try:
                async with self._speaking:
                    if not self._heard.is_set():
                        continue
                    batch = self._reports.batch()
                    bodies = [report.body(self._config.instance_uid) for report in batch]
                    answer = await self._client.report_moves(self._config.node_id, bodies)
                    self._reports.sent(batch)
            except AnswerLost:
                self._reports.sent(batch)
            except ServiceError as error:
                failures += 1
                self._say_failed("reporting moves", error)
                if isinstance(error, ServiceProblem) and _final(error):
                    # It would be refused again; the heartbeat says what the node holds all the same.
                    self._reports.sent(batch)
                await self._recover(error, failures)
            else:
                failures = 0
                self._failures_said.pop("reporting moves", None)
                for rejected in answer.rejected:
                    logger.info("report %s not taken: %s", rejected.pointer, rejected.detail)

    # --- telemetry
    async def _cut_windows(self) -> None:
        while True:
            await asyncio.sleep(self._intervals.telemetry_seconds)
            self.cut_windows()

    def cut_windows(self) -> None:
        """End the window of every recorder and queue it for the service."""
        for recorder in self._recorders:
            window = recorder.cut()
            if window is not None:
                self.submit(partial(encode_window, window))

    def submit(self, encode: Callable[[str, int], bytes]) -> int:
        """Queue a window for the service; `encode` gets the instance_uid and the sequence number that the
        window is sent under, which is returned."""
        number = self.outbox.next_sequence_number()
        self.outbox.put(Parcel(number, compress(encode(self._config.instance_uid, number))))
        return number

    async def _send_telemetry(self) -> None:
        while True:
            parcel = await self.outbox.take()
            dropped = self.outbox.dropped
            failures = 0
            while True:
                try:
                    answer = await self._client.post_telemetry(
                        self._config.node_id, parcel.body, coding="zstd"
                    )
                except AnswerLost:
                    break
                except ServiceError as error:
                    failures += 1
                    logger.warning("window %d not sent: %s", parcel.sequence_number, error)
                    unknown = isinstance(error, ServiceProblem) and any(
                        fault.code == _UNKNOWN_INSTANCE for fault in error.problem.errors
                    )
                    if unknown and failures == 1:
                        await self._register_again(str(error))
                        continue
                    if (isinstance(error, ServiceProblem) and _final(error)) or self.outbox.dropped > dropped:
                        self.outbox.dropped += 1
                        break
                    await self._recover(error, failures)
                else:
                    if answer.partial_success is not None:
                        logger.warning("window %d: %s", parcel.sequence_number, answer.partial_success)
                    break


def _is_taken(error: ServiceError) -> bool:
    """Another agent runs under this node_id."""
    return isinstance(error, ServiceProblem) and any(
        fault.code == _NODE_ID_TAKEN for fault in error.problem.errors
    )


def _final(problem: ServiceProblem) -> bool:
    """True where the same request would be refused again."""
    return problem.status not in RETRIED_STATUSES and problem.status not in (404, 409)
