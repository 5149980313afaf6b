"""One node of the fleet as a process of its own: `python -m lab.fleet.node`.

It reads its start and the requests to serve as lines of JSON from standard input, ends when that ends, and
tells what it has done in lines on standard output. Everything else it says and hears goes over HTTP and the
emulated links. It has the model's non-expert weights, and of the experts what the service orders.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lab.fleet.answering import Answering
from lab.fleet.checkpoint import read_expert
from lab.fleet.dispatch import Dispatcher
from lab.fleet.experts import LoadedExperts
from lab.fleet.frames import PROBE_LAYER
from lab.fleet.lines import CallTimes, NodeStart, Play, Pulse, Ready
from lab.fleet.peers import CallFailed, Peers
from lab.fleet.process import Lines, run_process
from lab.fleet.server import serving_calls
from lab.tiny_moe.shape import EXPERTS, LAYERS, TOP_K, WIDTH
from lab.tiny_moe.weights import dense_weights
from moeplace_agent.client import ServiceClient, ServiceError
from moeplace_agent.config import NodeFile, node_file
from moeplace_agent.engine import Engine
from moeplace_agent.holdings import ExpertKey
from moeplace_agent.host import Node
from moeplace_agent.probing import places_of_cluster
from moeplace_agent.retrying import RetryPolicy
from moeplace_agent.serving.listening import open_listener, url_of
from moeplace_agent.telemetry import LayerShape, Recorder

DEVICE_ID = "gpu-0"
_PULSE_SECONDS = 0.3


class TinyMoeEngine(Engine):
    """Loads what the agent has fetched, and lets go of what it is to evict."""

    def __init__(self, loaded: LoadedExperts) -> None:
        self._loaded = loaded

    async def on_expert_ready(self, key: ExpertKey, file: Path, device_id: str) -> None:
        self._loaded.load(key.layer, key.expert, await asyncio.to_thread(read_expert, file))

    async def before_evict(self, key: ExpertKey, device_id: str) -> None:
        self._loaded.unload(key.layer, key.expert)


def node_settings(start: NodeStart, calls_url: str) -> NodeFile:
    """What node.yaml would say."""
    bandwidth = int(start.bytes_per_second)
    return node_file(
        {
            "node_id": start.node_id,
            "service": {"url": start.service_url, "cluster": start.cluster_id},
            "devices": [{"device_id": DEVICE_ID, "memory": start.memory_bytes}],
            "data_dir": start.data_dir,
            "link": {"ingress": bandwidth, "egress": bandwidth},
            "experts": {"port": 0, "send_limit": bandwidth, "fetch_limit": bandwidth},
            "engine": {"calls_url": calls_url},
            # What a call takes is measured by making calls, over the emulated links.
            "latency": {"probe_interval_seconds": 3600},
        },
        base=Path(start.data_dir),
    )


async def _run(lines: Lines) -> None:
    start = await lines.read(NodeStart)
    assert start is not None
    loaded = LoadedExperts(start.model_id)
    recorder = Recorder(
        start.model_id, dict.fromkeys(range(LAYERS), LayerShape(EXPERTS, TOP_K)), seed=start.seed
    )
    listener = open_listener("127.0.0.1", 0)
    retry = RetryPolicy(first_seconds=0.1, longest_seconds=2.0, timeout_seconds=20.0)
    async with contextlib.AsyncExitStack() as stack:
        calls_url = await stack.enter_async_context(serving_calls(loaded, start.links))
        node = Node(
            node_settings(start, calls_url),
            experts_url=url_of(listener),
            experts_listener=listener,
            engine=TinyMoeEngine(loaded),
            recorders=[recorder],
            retry=retry,
            use_environment=False,
        )
        peers = Peers(start.node_id, start.links)
        stack.push_async_callback(peers.aclose)
        times: dict[str, CallTimes] = {}

        def measured(name: str, seconds: float) -> None:
            node.latency.called(name, seconds)
            times[name] = times.get(name, CallTimes()).with_one(seconds)

        dispatcher = Dispatcher(
            start.node_id,
            start.model_id,
            loaded,
            peers,
            routes=lambda: node.routes,
            holdings=lambda: node.holdings,
            origin_url=start.origin_calls_url,
            measured=measured,
        )
        weights = await asyncio.to_thread(dense_weights)
        answering = Answering(weights, dispatcher, recorder, lines.tell)
        client = await stack.enter_async_context(
            ServiceClient(start.service_url, start.cluster_id, retry=retry, use_environment=False)
        )
        await stack.enter_async_context(node)
        lines.tell(Ready(calls_url, url_of(listener)))
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(node.ended()),
                tasks.create_task(_probe(start, dispatcher, client)),
                tasks.create_task(_pulse(lines, node, answering, times)),
            ]
            playing = []
            while (play := await lines.read(Play)) is not None:
                times.clear()
                playing.append(tasks.create_task(answering.play(play)))
            for task in (*background, *playing):
                task.cancel()


async def _probe(start: NodeStart, dispatcher: Dispatcher, client: ServiceClient) -> None:
    """Measure what an expert call takes, here and at everybody else, for as long as the node runs: latencies
    are known before the first token, and of places that nobody calls."""
    hidden = np.ones((1, WIDTH), np.float32)
    while True:
        places = {}
        with contextlib.suppress(ServiceError):
            places = await places_of_cluster(client, start.node_id)
        begun = time.perf_counter()
        dispatcher.loaded.probe()
        dispatcher.measured(start.node_id, time.perf_counter() - begun)
        for name, url in places.items():
            begun = time.perf_counter()
            with contextlib.suppress(CallFailed):
                await dispatcher.peers.call(
                    name, url.rstrip("/"), start.model_id, PROBE_LAYER, hidden, [0], [0]
                )
                dispatcher.measured(name, time.perf_counter() - begun)
        await asyncio.sleep(start.probe_seconds)


async def _pulse(lines: Lines, node: Node, answering: Answering, times: Mapping[str, CallTimes]) -> None:
    while True:
        holdings = node.holdings
        lines.tell(
            Pulse(
                held=len(holdings),
                used_bytes=holdings.used_bytes,
                generation=node.agent.generation,
                in_progress=answering.in_progress,
                tokens=answering.tokens,
                token_seconds=answering.token_seconds,
                local=answering.local,
                activations=answering.activations,
                calls=dict(times),
            )
        )
        await asyncio.sleep(_PULSE_SECONDS)


if __name__ == "__main__":
    run_process(_run)
