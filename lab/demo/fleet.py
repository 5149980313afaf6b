"""The demo's service and nodes, running; what is told about them is others' business."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from lab.demo.nodes import NodeProcess, started_nodes
from lab.demo.registration import register_cluster
from lab.demo.scenario import CLUSTER_ID, PACE, service_environment
from lab.harness.children import ServiceProcess, started_service
from moeplace_agent.client import ServiceClient
from moeplace_agent.retrying import RetryPolicy


class DemoFleet(NamedTuple):
    service: ServiceProcess
    client: ServiceClient
    nodes: dict[str, NodeProcess]


@contextlib.asynccontextmanager
async def started_fleet(directory: Path, *, port: int, seed: int) -> AsyncIterator[DemoFleet]:
    """Start all, with the cluster and the model registered, and end all. Raises `RunFailed`.

    Every node's `hear` has to be awaited: what a node tells waits in its pipe, and then the node waits.
    """
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(started_service(directory, port, service_environment(PACE)))
        retry = RetryPolicy(first_seconds=0.1, longest_seconds=1.0, timeout_seconds=5.0)
        client = await stack.enter_async_context(
            ServiceClient(service.base_url, CLUSTER_ID, retry=retry, use_environment=False)
        )
        await register_cluster(client, PACE)
        nodes = await started_nodes(stack, directory, service.base_url, seed)
        yield DemoFleet(service, client, nodes)
