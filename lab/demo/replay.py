"""The demo's nodes on a service that runs already, for as long as one wants to watch."""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Console

from lab.demo.nodes import NodeProcess, started_nodes
from lab.demo.registration import register_cluster
from lab.demo.scenario import CLUSTER_ID, NODES, Pace
from moeplace_agent.client import ServiceClient
from moeplace_agent.config import TOKEN_VARIABLE, ca_file_of_environment
from moeplace_agent.retrying import RetryPolicy

UNHURRIED = Pace(
    optimization_seconds=30.0, statistics_half_life_seconds=60.0, statistics_window_seconds=300.0
)
"""For a service that has nodes report every ten seconds, as services do."""

SWAP_SECONDS = 300.0
"""Between two swaps of the first two nodes' domains, so that there is something to follow."""


async def replay(console: Console, base_url: str, *, seed: int) -> None:
    """Register the demo's cluster, and replay until cancelled. Raises `RunFailed` when a node ends, or where
    the service does not take the cluster."""
    retry = RetryPolicy(first_seconds=0.5, longest_seconds=5.0, timeout_seconds=10.0)
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moeplace-demo-")))
        client = await stack.enter_async_context(
            ServiceClient(
                base_url,
                CLUSTER_ID,
                retry=retry,
                token=os.environ.get(TOKEN_VARIABLE),
                ca_file=ca_file_of_environment(),
                use_environment=False,
            )
        )
        await register_cluster(client, UNHURRIED)
        nodes = await started_nodes(stack, directory, base_url, seed)
        console.print(
            f"{len(nodes)} nodes replay on {base_url}, as cluster {CLUSTER_ID}. Ctrl-C ends them.",
            highlight=False,
            soft_wrap=True,
        )
        swapping = asyncio.create_task(_swap(nodes))
        hearing = [asyncio.create_task(node.hear(lambda _: None)) for node in nodes.values()]
        failing = [asyncio.create_task(node.child.failed()) for node in nodes.values()]
        try:
            done, _ = await asyncio.wait([swapping, *failing], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                failure = task.result()
                if failure is not None:
                    raise failure
        finally:
            for task in (swapping, *hearing, *failing):
                task.cancel()
            await asyncio.gather(swapping, *hearing, *failing, return_exceptions=True)


async def _swap(nodes: dict[str, NodeProcess]) -> None:
    first, second = NODES[:2]
    domains = first.domain, second.domain
    while True:
        await asyncio.sleep(SWAP_SECONDS)
        domains = domains[::-1]
        await nodes[first.node_id].switch(domains[0])
        await nodes[second.node_id].switch(domains[1])
