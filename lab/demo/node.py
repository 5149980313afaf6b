"""One node of the demo as a process of its own: `python -m lab.demo.node`.

It reads its start and later instructions as lines of JSON from standard input, ends when that ends, and
writes one `Slice` a line to standard output. Everything else it says and hears goes over HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time

import msgspec

from lab.demo.costs import call_cost
from lab.demo.link_storage import LinkStorage
from lab.demo.scenario import (
    CLUSTER_ID,
    DEVICE_ID,
    LOCAL_SECONDS,
    MODEL_ID,
    NODES,
    ORIGIN_COPIES_AT_ONCE,
    ORIGIN_EGRESS_BYTES_PER_SECOND,
    ORIGIN_SECONDS,
    PEER_SECONDS,
)
from lab.demo.slices import Instruction, NodeStart, Slice
from lab.tiny_moe.shape import CONTEXT_TOKENS, EXPERTS, LAYERS, TOP_K
from lab.tiny_moe.traces import Replay, requests
from moeplace_agent.client import ServiceClient
from moeplace_agent.config import TOKEN_VARIABLE, ca_file_of_environment
from moeplace_agent.node import NodeAgent, NodeConfig
from moeplace_agent.retrying import RetryPolicy
from moeplace_agent.telemetry import LayerShape, Recorder

_MAX_BEHIND_SECONDS = 1.0
"""A node that was not given the processor for longer does not replay all it missed."""


def node_config(node_id: str) -> NodeConfig:
    """What the node of that name registers as."""
    index = next(i for i, node in enumerate(NODES) if node.node_id == node_id)
    node = NODES[index]
    return NodeConfig(
        node_id=node_id,
        devices={DEVICE_ID: node.memory_bytes},
        ingress_bytes_per_second=node.ingress_bytes_per_second,
        egress_bytes_per_second=node.egress_bytes_per_second,
        local_seconds=LOCAL_SECONDS,
        peers_seconds={peer.node_id: PEER_SECONDS[index][i] for i, peer in enumerate(NODES) if i != index},
        origin_seconds=ORIGIN_SECONDS,
    )


class Engine:
    """Stands where a serving engine would: takes requests, records their routing and tells how they fared."""

    def __init__(self, start: NodeStart, agent: NodeAgent, recorder: Recorder, client: ServiceClient) -> None:
        self._start = start
        self._agent = agent
        self._recorder = recorder
        self._client = client
        self._replay = Replay(start.domain, start.seed)

    def switch(self, domain: str) -> None:
        self._replay.switch(domain)

    async def run(self) -> None:
        """Serve `tokens_per_second` until cancelled."""
        request_seconds = CONTEXT_TOKENS / self._start.tokens_per_second
        begin = due = time.time()
        while True:
            await asyncio.sleep(self._start.slice_seconds)
            now = time.time()
            due = max(due, now - _MAX_BEHIND_SECONDS)
            count = int((now - due) / request_seconds)
            if count:
                due += count * request_seconds
                print(msgspec.json.encode(self._serve(begin, now, count)).decode(), flush=True)
                begin = now

    def _serve(self, begin: float, end: float, count: int) -> Slice:
        numbers = self._replay.take(count)
        routes = requests(self._replay.domain)[numbers].reshape(-1, LAYERS, TOP_K)
        self._recorder.add_tokens(len(routes))
        for layer in range(LAYERS):
            self._recorder.record(layer, routes[:, layer])
        holdings = self._agent.holdings
        result = call_cost(routes, self._agent.routes, holdings)
        return Slice(
            node_id=self._start.node_id,
            begin=begin,
            end=end,
            domain=self._replay.domain,
            requests=numbers,
            tokens=len(routes),
            latency_seconds=result.latency_seconds,
            local=result.local,
            activations=result.activations,
            generation=self._agent.generation,
            held=len(holdings),
            used_bytes=holdings.used_bytes,
            windows_dropped=self._agent.outbox.dropped,
            retries=self._client.retries,
        )


async def _run() -> None:
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    start = msgspec.json.decode(await lines.readline(), type=NodeStart)
    config = node_config(start.node_id)
    storage = LinkStorage(
        config.ingress_bytes_per_second,
        {node.node_id: node.egress_bytes_per_second for node in NODES},
        ORIGIN_EGRESS_BYTES_PER_SECOND / ORIGIN_COPIES_AT_ONCE,
    )
    recorder = Recorder(MODEL_ID, dict.fromkeys(range(LAYERS), LayerShape(EXPERTS, TOP_K)), seed=start.seed)
    retry = RetryPolicy(first_seconds=0.1, longest_seconds=2.0, timeout_seconds=20.0)
    # The demo's own service asks for no token; one that runs already may, and each node sends the operator's.
    async with ServiceClient(
        start.base_url,
        CLUSTER_ID,
        retry=retry,
        token=os.environ.get(TOKEN_VARIABLE),
        ca_file=ca_file_of_environment(),
        use_environment=False,
    ) as client:
        agent = NodeAgent(config, client, storage, [recorder], retry=retry)
        engine = Engine(start, agent, recorder, client)
        work = [asyncio.create_task(agent.run()), asyncio.create_task(engine.run())]
        listening = asyncio.create_task(_listen(lines, engine))
        try:
            done, _ = await asyncio.wait([*work, listening], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*work, listening):
                task.cancel()
            await asyncio.gather(*work, listening, return_exceptions=True)
        for task in done:
            task.result()


async def _listen(lines: asyncio.StreamReader, engine: Engine) -> None:
    """Follow instructions until there can be no more."""
    while line := await lines.readline():
        engine.switch(msgspec.json.decode(line, type=Instruction).domain)


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the demo decides when its nodes end
    asyncio.run(_run())


if __name__ == "__main__":
    main()
