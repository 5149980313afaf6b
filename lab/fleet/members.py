"""The fleet's processes, started in order and ended in order: origin, service, nodes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lab.fleet.checkpoint import write_checkpoint
from lab.fleet.dispatch import ORIGIN
from lab.fleet.lines import Expected, Failed, Finished, NodeStart, OriginStart, Play, Pulse, Ready, Told
from lab.fleet.process import ENVIRONMENT
from lab.fleet.scenario import (
    CLUSTER_ID,
    MODEL_ID,
    ORIGIN_COPIES_AT_ONCE,
    SERVICE_ENVIRONMENT,
    Scenario,
    cluster_settings,
)
from lab.fleet.traffic import Request
from lab.harness.children import LineProcess, ServiceProcess, started_lines, started_service
from lab.harness.failures import RunFailed
from moeplace_agent.client import ServiceClient, ServiceError
from moeplace_agent.retrying import RetryPolicy

_READY_SECONDS = 60.0
_PROBE_SECONDS = 3.0
_PULSES = 12
_SERVICE_NICENESS = 10


class Member:
    """The origin or a node: its process, and what it has told."""

    def __init__(self, name: str, lines: LineProcess) -> None:
        self.name = name
        self.lines = lines
        self.pulses: deque[Pulse] = deque(maxlen=_PULSES)
        """The last seconds', the newest last."""
        self.finished: dict[int, Finished] = {}
        self.failed: dict[int, Failed] = {}
        self._ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._told = asyncio.Event()
        self._hearing = asyncio.create_task(lines.hear(self._hear, Told))

    async def ready(self) -> Ready:
        """Raises `RunFailed` where the process ends before, or takes too long."""
        failing = asyncio.create_task(self.lines.child.failed())
        try:
            waiting: list[asyncio.Future[Any]] = [self._ready, failing]
            await asyncio.wait(waiting, timeout=_READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if self._ready.done():
                return self._ready.result()
            if failing.done():
                raise failing.result()
            raise RunFailed(f"{self.name} was not ready after {_READY_SECONDS:.0f} s")
        finally:
            failing.cancel()

    def begin(self) -> None:
        """Forget the requests of before."""
        self.finished.clear()
        self.failed.clear()

    async def answered(self, numbers: Sequence[int]) -> None:
        """Wait until all these requests are answered, or have failed. Never returns where the process ends
        before."""
        await self.until(lambda: all(n in self.finished or n in self.failed for n in numbers))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what the process has told makes this true."""
        while not condition():
            self._told.clear()
            await self._told.wait()

    def close(self) -> None:
        self._hearing.cancel()

    def _hear(self, told: Told) -> None:
        match told:
            case Ready():
                if not self._ready.done():
                    self._ready.set_result(told)
            case Pulse():
                self.pulses.append(told)
            case Finished():
                self.finished[told.number] = told
            case Failed():
                self.failed[told.number] = told
            case Expected():
                pass
        self._told.set()


class Members:
    """A running fleet."""

    def __init__(
        self, scenario: Scenario, service: ServiceProcess, client: ServiceClient, origin: Member
    ) -> None:
        self.scenario = scenario
        self.service = service
        self.client = client
        self.origin = origin
        self.nodes: dict[str, Member] = {}
        self.origin_calls_url = ""

    async def configure(self, *, automatic: bool) -> None:
        """Have the service place by itself, or only what it is given."""
        await self.client.put("", cluster_settings(self.scenario, self.origin_calls_url, automatic=automatic))

    async def play(self, requests: Sequence[Request]) -> float:
        """Have the nodes serve; when they began (seconds since the epoch). `answered` waits for the end."""
        begin = time.time() + 0.2
        for node_id, member in self.nodes.items():
            member.begin()
            own = [request for request in requests if request.node_id == node_id]
            await member.lines.say(Play(begin, own))
        return begin

    async def answered(self, requests: Sequence[Request]) -> None:
        """Wait until every request has been answered, or has failed."""
        for node_id, member in self.nodes.items():
            await member.answered([r.number for r in requests if r.node_id == node_id])

    def finished(self) -> dict[int, Finished]:
        """What has been answered since `play`, by the number of the request."""
        return {number: told for member in self.nodes.values() for number, told in member.finished.items()}

    def failures(self) -> dict[int, Failed]:
        return {number: told for member in self.nodes.values() for number, told in member.failed.items()}


@contextlib.asynccontextmanager
async def started_members(
    scenario: Scenario, directory: Path, *, port: int = 0, say: Callable[[str], None] = lambda _: None
) -> AsyncIterator[Members]:
    """Start everything, wait until all are ready and registered, and end it. Raises `RunFailed`."""
    async with contextlib.AsyncExitStack() as stack:
        say("writing tiny-moe as a checkpoint for the origin")
        checkpoint = directory / "checkpoint"
        await asyncio.to_thread(write_checkpoint, checkpoint)
        say("starting the origin and the service")
        origin = await _started(
            stack,
            ORIGIN,
            "the origin",
            "lab.fleet.origin",
            directory,
            OriginStart(
                checkpoint=str(checkpoint),
                model_id=MODEL_ID,
                links=scenario.links(ORIGIN),
                bytes_per_second=scenario.bytes_per_second * ORIGIN_COPIES_AT_ONCE,
                copies_at_once=4 * ORIGIN_COPIES_AT_ONCE,
            ),
        )
        # It would be on another machine: while it solves, nodes must not wait for the processor.
        service = await stack.enter_async_context(
            started_service(directory, port, SERVICE_ENVIRONMENT, niceness=_SERVICE_NICENESS)
        )
        ready = await origin.ready()
        retry = RetryPolicy(first_seconds=0.1, longest_seconds=1.0, timeout_seconds=10.0)
        client = await stack.enter_async_context(
            ServiceClient(service.base_url, CLUSTER_ID, retry=retry, use_environment=False)
        )
        members = Members(scenario, service, client, origin)
        members.origin_calls_url = ready.calls_url
        try:
            await members.configure(automatic=False)
            await client.put(f"/models/{MODEL_ID}", ready.model)
        except ServiceError as error:
            raise RunFailed(f"the service does not take the cluster or the model: {error}") from error
        say(f"starting {len(scenario.nodes)} nodes")
        for index, node in enumerate(scenario.nodes):
            members.nodes[node.node_id] = await _started(
                stack,
                node.node_id,
                f"node {node.node_id}",
                "lab.fleet.node",
                directory,
                NodeStart(
                    node_id=node.node_id,
                    service_url=service.base_url,
                    cluster_id=CLUSTER_ID,
                    model_id=MODEL_ID,
                    memory_bytes=node.memory_bytes,
                    data_dir=str(directory / node.node_id),
                    links=scenario.links(node.node_id),
                    bytes_per_second=scenario.bytes_per_second,
                    origin_calls_url=ready.calls_url,
                    probe_seconds=_PROBE_SECONDS,
                    seed=scenario.seed + index,
                ),
            )
        for member in members.nodes.values():
            await member.ready()
        yield members


async def _started(
    stack: contextlib.AsyncExitStack,
    name: str,
    words: str,
    module: str,
    directory: Path,
    first: msgspec.Struct,
) -> Member:
    lines = await stack.enter_async_context(
        started_lines(words, module, directory / f"{name}.log", first, ENVIRONMENT)
    )
    member = Member(name, lines)
    stack.callback(member.close)
    return member
