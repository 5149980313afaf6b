"""One node, whole: its experts on disk, its agent, the servers that peers and local programs use."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from starlette.applications import Starlette

from moeplace_agent.client import ServiceClient
from moeplace_agent.config import NodeFile, read_token
from moeplace_agent.engine import Engine
from moeplace_agent.experts.directory import ExpertDirectory
from moeplace_agent.experts.fetching import ORIGIN, ExpertFetcher, FetchLimits, Source
from moeplace_agent.experts.signing import Verifier
from moeplace_agent.experts.storage import ExpertStorage
from moeplace_agent.holdings import ExpertKey, Holdings
from moeplace_agent.journal import Journal
from moeplace_agent.latency import LatencyMeter
from moeplace_agent.local import local_application
from moeplace_agent.messages import MoveKind, RouteTarget, TargetKind
from moeplace_agent.metrics import AgentMetrics
from moeplace_agent.node import NodeAgent
from moeplace_agent.probing import EXPERTS_FIRST, Prober, places_of_cluster
from moeplace_agent.remote_engine import RemoteEngine
from moeplace_agent.retrying import RetryPolicy
from moeplace_agent.routing import Local, RoutingTable
from moeplace_agent.serving.application import experts_application
from moeplace_agent.serving.embedded import serving
from moeplace_agent.serving.sending import Sends
from moeplace_agent.telemetry import Recorder

logger = logging.getLogger(__name__)


class Node:
    """Runs as long as its context: `async with Node(file, ...) as node: await node.ended()`.

    On entering, what is on disk is verified and loaded, then the servers listen, then the agent registers and
    does what it is told. `engine` is told of experts and routes; `recorders` are cut into windows.
    """

    def __init__(
        self,
        file: NodeFile,
        *,
        experts_url: str,
        experts_listener: socket.socket | None = None,
        local_listener: socket.socket | None = None,
        engine: Engine | None = None,
        recorders: Sequence[Recorder] = (),
        retry: RetryPolicy | None = None,
        use_environment: bool = True,
    ) -> None:
        """`experts_url`: where peers reach `experts_listener`, or wherever `application` is served instead.
        Without `engine` it is the one that `file` names, if it does. Raises `NodeFileError` for a token or
        certificates that cannot be read, `DirectoryInUse` and OSError for the directory."""
        self._listeners = experts_listener, local_listener
        token = read_token(file.experts.token_file)
        self._journal = Journal(logger)
        self.metrics = AgentMetrics()
        self.latency = LatencyMeter(file.node_id, expert_seconds=file.latency.expert_seconds)
        self._remote: RemoteEngine | None = None
        if engine is None and file.engine.hooks_url is not None:
            self._remote = RemoteEngine(file.engine.hooks_url, timeout_seconds=file.engine.timeout_seconds)
        engine = engine or self._remote or Engine()
        self._directory = ExpertDirectory(file.data_dir)
        self._fetcher = ExpertFetcher(
            self._directory,
            limits=FetchLimits(
                bytes_per_second=file.experts.fetch_limit,
                patience_seconds=file.experts.fetch_patience_seconds,
                least_bytes_per_second=float(file.experts.fetch_least_rate),
            ),
            secret=token,
            use_environment=use_environment,
            counted=self.metrics.fetched,
            fetched=self._fetched,
        )
        self._storage = ExpertStorage(
            self._directory, self._fetcher, engine, others=self._others, evicted=self._evicted
        )
        self._client = ServiceClient(
            file.service.url,
            file.service.cluster,
            retry=retry,
            token=file.service.token,
            ca_file=file.service.authorities(),
            use_environment=use_environment,
            examines=True,
        )
        self.agent = NodeAgent(
            file.node_config(experts_url),
            self._client,
            self._storage,
            recorders,
            retry=retry,
            on_routes=engine.on_routes,
            latency=self.latency.report,
            moved=self._moved,
        )
        self._sends = Sends(
            file.experts.max_sends,
            file.experts.send_limit,
            counted=self.metrics.sent_bytes.inc,
            sent=self._journal.sent,
            refused=self.metrics.sends_refused.inc,
        )
        # An embedded application is served at `experts_url`; a proxy may be in front, at `experts.url`.
        urls = {experts_url, file.experts.url or experts_url}
        verifier = None if token is None else Verifier(token, urls)
        self.application = experts_application(self._storage, self._sends, verifier=verifier)
        """What peers fetch from; served on `experts_listener`, or by whoever embeds the node."""
        self._prober = Prober(
            self.latency,
            # At a node's experts_url an agent answers; what answers at its base_url is an engine's matter.
            lambda: places_of_cluster(self._client, file.node_id, EXPERTS_FIRST),
            interval_seconds=file.latency.probe_interval_seconds,
            use_environment=use_environment,
        )
        self._stack = contextlib.AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._watch()

    # --- what an engine asks
    @property
    def holdings(self) -> Holdings:
        return self.agent.holdings

    @property
    def routes(self) -> RoutingTable | None:
        """The table in use; None before the first assignment."""
        return self.agent.routes

    def where(self, model_id: str, layer: int, expert: int) -> tuple[Local | RouteTarget, ...]:
        """The places to call for one expert, best first; empty where no source is known."""
        routes = self.agent.routes
        return () if routes is None else routes.where(self.agent.holdings, model_id, layer, expert)

    # --- running
    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._directory.close)
            stack.push_async_callback(self._fetcher.aclose)
            stack.push_async_callback(self._client.aclose)
            if self._remote is not None:
                stack.push_async_callback(self._remote.aclose)
            stack.callback(self._journal.end)
            await self._storage.recover(self.agent.holdings)
            experts, local = self._listeners
            if experts is not None:
                await stack.enter_async_context(serving(self.application, experts))
            if local is not None:
                await stack.enter_async_context(serving(self.local_application(), local))
            self._tasks = [asyncio.create_task(self.agent.run()), asyncio.create_task(self._prober.run())]
            stack.push_async_callback(self._end)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def ended(self) -> None:
        """Return never; raises what ended the agent, `ServiceProblem` where its registration is refused."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- inside
    def local_application(self) -> Starlette:
        """What local programs use; served on `local_listener`, or by whoever embeds the node."""
        return local_application(self.agent, self.latency, self.metrics, self._storage.files)

    def _others(self, key: ExpertKey) -> list[Source]:
        """Whom the routing table names for the expert, nearest first."""
        sources = []
        for place in self.where(*key):
            if isinstance(place, Local):
                continue
            url = place.experts_url or place.base_url
            if url is not None:
                name = ORIGIN if place.kind is TargetKind.ORIGIN else place.node_id or ""
                sources.append(Source(name, url))
        return sources

    def _moved(self, kind: MoveKind, succeeded: bool, seconds: float) -> None:
        self.metrics.moves.labels(kind.lower(), "succeeded" if succeeded else "failed").inc()
        if succeeded and kind is MoveKind.COPY:
            self.metrics.fetch_seconds.observe(seconds)

    def _fetched(self, key: ExpertKey, size: int, seconds: float, sources: Sequence[str]) -> None:
        self._journal.note("fetched", key, bytes=size, seconds=seconds, places=sources)

    def _evicted(self, key: ExpertKey) -> None:
        self._journal.note("evicted", key)

    def _watch(self) -> None:
        agent = self.agent
        self.metrics.watch(
            {
                "held_experts": lambda: len(agent.holdings),
                "used_bytes": lambda: agent.holdings.used_bytes,
                "capacity_bytes": lambda: agent.holdings.capacity_bytes,
                "sends_in_progress": lambda: self._sends.running,
                "windows_waiting": lambda: len(agent.outbox),
                "windows_dropped_total": lambda: agent.outbox.dropped,
                "registrations_total": lambda: agent.registrations,
                "heartbeats_total": lambda: agent.heartbeats,
                "generation": lambda: agent.generation or 0,
                "assignment_failed": lambda: agent.failure is not None,
            }
        )
