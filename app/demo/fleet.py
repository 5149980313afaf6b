"""The demo's service and nodes, running; what is told about them is others' business."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from agent.client import ServiceClient, ServiceError
from agent.retrying import RetryPolicy
from app.box.children import ServiceProcess, started_service
from app.box.failures import BoxFailed
from app.demo.nodes import NodeProcess, started_node
from app.demo.scenario import (
    CLUSTER_ID,
    MODEL_ID,
    NODES,
    PACE,
    cluster_settings,
    model_spec,
    service_environment,
)
from app.demo.slices import NodeStart


class DemoFleet(NamedTuple):
    service: ServiceProcess
    client: ServiceClient
    nodes: dict[str, NodeProcess]


@contextlib.asynccontextmanager
async def started_fleet(directory: Path, *, port: int, seed: int) -> AsyncIterator[DemoFleet]:
    """Start all, with the cluster and the model registered, and end all. Raises `BoxFailed`.

    Every node's `hear` has to be awaited: what a node tells waits in its pipe, and then the node waits.
    """
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(started_service(directory, port, service_environment(PACE)))
        retry = RetryPolicy(first_seconds=0.1, longest_seconds=1.0, timeout_seconds=5.0)
        client = await stack.enter_async_context(
            ServiceClient(service.base_url, CLUSTER_ID, retry=retry, use_environment=False)
        )
        await _register_cluster(client)
        nodes = {
            node.node_id: await stack.enter_async_context(
                started_node(
                    directory,
                    NodeStart(
                        base_url=service.base_url,
                        node_id=node.node_id,
                        domain=node.domain,
                        seed=seed,
                        slice_seconds=PACE.slice_seconds,
                        tokens_per_second=PACE.tokens_per_second,
                    ),
                )
            )
            for node in NODES
        }
        yield DemoFleet(service, client, nodes)


async def _register_cluster(client: ServiceClient) -> None:
    try:
        await client.put("", cluster_settings(PACE))
        await client.put(f"/models/{MODEL_ID}", model_spec())
    except ServiceError as error:
        raise BoxFailed(f"the service does not take the cluster or the model: {error}") from error
