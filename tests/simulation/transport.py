"""The way from a node's agent to the service: the functions behind the endpoints, behind a network."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import msgspec
from redis.asyncio import Redis

from app.config import Settings
from app.errors import ProblemError
from app.migration_plans.reports import ReportMemory, report_moves
from app.migration_plans.schemas import MoveReportItem
from app.nodes.heartbeat import report_status
from app.nodes.holdings import DigestMemory
from app.nodes.registration import put_node
from app.nodes.schemas import NodeSpec, NodeStatusReport
from app.storage import topics
from app.storage.documents import read_document
from app.storage.keys import ClusterKeys
from moeplace_agent.client import ServiceClient, ServiceProblem, ServiceUnreachable
from moeplace_agent.messages import (
    Assignment,
    FieldFault,
    Intervals,
    Orders,
    Problem,
    Registration,
    ReportAnswer,
    StatusAnswer,
)
from tests.simulation.faults import Faults
from tests.simulation.store import Connection, Store

T = TypeVar("T")
D = TypeVar("D", Assignment, Orders)

TIMEOUT_SECONDS = 15.0


class Service:
    """All API processes together."""

    def __init__(self, store: Store, cluster_id: str, settings: Settings, faults: Faults) -> None:
        self.redis = cast("Redis", Connection(store, faults.rng))
        self.cluster_id = cluster_id
        self.keys = ClusterKeys(cluster_id)
        self.settings = settings
        self.faults = faults
        self.digests = DigestMemory()
        self.reports = ReportMemory()
        self._waiting: dict[str, set[asyncio.Event]] = {}
        store.listeners.append(self._wake)

    def _wake(self, topic: str) -> None:
        if not self.faults.happens(self.faults.unheard):
            for event in self._waiting.get(topic, ()):
                event.set()

    async def changed(self, key: str, topic: str, known: str | None, seconds: float) -> bytes | None:
        """The document once its version is another than `known`; None when the time is up."""
        event = asyncio.Event()
        self._waiting.setdefault(topic, set()).add(event)
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        try:
            while True:
                event.clear()
                document = await read_document(self.redis, key)
                if document is not None and document.version != known:
                    return document.json
                left = until - loop.time()
                if left <= 0:
                    return None
                try:
                    async with asyncio.timeout(left):
                        await event.wait()
                except TimeoutError:
                    continue
        finally:
            self._waiting[topic].discard(event)


class SimulatedClient(ServiceClient):
    """What an agent takes for its client, one for each start of it."""

    def __init__(self, service: Service, faults: Faults, *, says_moves_version: bool) -> None:
        self._service = service
        self._faults = faults
        self._says_moves_version = says_moves_version
        self._afterwards: set[asyncio.Task[Any]] = set()
        self.partitioned = False
        self.retries = 0

    async def aclose(self) -> None:
        """Requests under way still arrive: the network does not know that their sender is gone."""

    async def register(self, node_id: str, spec: Mapping[str, Any]) -> Registration:
        async def handle() -> Registration:
            service = self._service
            node, _ = await put_node(
                service.redis, service.settings, service.cluster_id, node_id, NodeSpec.model_validate(spec)
            )
            intervals = Intervals(node.intervals.heartbeat_seconds, node.intervals.telemetry_seconds)
            return Registration(node.node_id, node.uid, node.cluster_uid, intervals)

        return await self._exchange(handle)

    async def report_status(self, node_id: str, status: Mapping[str, Any]) -> StatusAnswer:
        report = NodeStatusReport.model_validate_json(json.dumps(status))
        if not self._says_moves_version:  # as agents of before
            report = report.model_copy(update={"moves_version": None})

        async def handle() -> StatusAnswer:
            service = self._service
            answer = await report_status(
                service.redis, service.settings, service.digests, service.cluster_id, node_id, report
            )
            return msgspec.json.decode(answer.model_dump_json(), type=StatusAnswer)

        return await self._exchange(handle)

    async def report_moves(self, node_id: str, reports: Sequence[Mapping[str, Any]]) -> ReportAnswer:
        items = [MoveReportItem.model_validate_json(msgspec.json.encode(report)) for report in reports]

        async def handle() -> ReportAnswer:
            service = self._service
            answer = await report_moves(service.redis, service.reports, service.cluster_id, node_id, items)
            return msgspec.json.decode(answer.model_dump_json(), type=ReportAnswer)

        return await self._exchange(handle)

    async def wait_for_assignment(
        self, node_id: str, known_version: str | None, wait_seconds: int
    ) -> Assignment | None:
        key, topic = self._service.keys.assignment(node_id), topics.assignment(node_id)
        return await self._held(key, topic, known_version, wait_seconds, Assignment)

    async def wait_for_moves(
        self, node_id: str, known_version: str | None, wait_seconds: int
    ) -> Orders | None:
        key, topic = self._service.keys.moves(node_id), topics.moves(node_id)
        return await self._held(key, topic, known_version, wait_seconds, Orders)

    # --- the network
    async def _held(self, key: str, topic: str, known: str | None, seconds: int, kind: type[D]) -> D | None:
        await self._way()
        found = await self._service.changed(key, topic, known, seconds)
        if self._faults.happens(self._faults.late):  # and may have been overtaken when it arrives
            await asyncio.sleep(self._faults.rng.uniform(0.0, TIMEOUT_SECONDS))
        await self._way()
        return None if found is None else msgspec.json.decode(found, type=kind)

    async def _way(self) -> None:
        await asyncio.sleep(self._faults.delay())
        if self.partitioned or self._faults.happens(self._faults.lost):
            await asyncio.sleep(self._faults.rng.uniform(0.0, TIMEOUT_SECONDS))
            raise ServiceUnreachable("lost")

    async def _exchange(self, handle: Callable[[], Awaitable[T]]) -> T:
        faults = self._faults
        await self._way()
        if faults.happens(faults.repeated):
            self._later(handle)
        if faults.happens(faults.late):
            self._later(handle)
            await asyncio.sleep(faults.rng.uniform(0.0, 2.0))
            raise ServiceUnreachable("given up, and done later")
        try:
            answer = await handle()
        except ProblemError as error:
            errors = [FieldFault(fault.pointer, fault.detail, fault.code) for fault in error.errors]
            problem = Problem(error.slug, error.title, error.status, error.detail, None, errors)
            raise ServiceProblem(error.status, problem, None) from error
        if self.partitioned or faults.happens(faults.unanswered):
            await asyncio.sleep(faults.rng.uniform(0.0, 2.0))
            raise ServiceUnreachable("done, but not answered")
        await asyncio.sleep(faults.delay())
        return answer

    def _later(self, handle: Callable[[], Awaitable[T]]) -> None:
        async def run() -> None:
            await asyncio.sleep(self._faults.rng.uniform(0.0, self._faults.late_seconds))
            try:
                await handle()
            except ProblemError:
                return

        task = asyncio.get_running_loop().create_task(run())
        self._afterwards.add(task)
        task.add_done_callback(self._afterwards.discard)
