"""The demo's nodes as processes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from lab.demo.scenario import NODES, PACE
from lab.demo.slices import Instruction, NodeStart, Slice
from lab.harness.children import LineProcess, started_lines


class NodeProcess:
    """One node; `hear` hands on what it tells."""

    def __init__(self, lines: LineProcess) -> None:
        self._lines = lines
        self.child = lines.child

    async def switch(self, domain: str) -> None:
        """Have the node replay another domain from its next slice on."""
        await self._lines.say(Instruction(domain))

    async def hear(self, told: Callable[[Slice], None]) -> None:
        """Pass every slice on until the process closes its output."""
        await self._lines.hear(told, Slice)


@contextlib.asynccontextmanager
async def started_node(directory: Path, start: NodeStart) -> AsyncIterator[NodeProcess]:
    log = directory / f"{start.node_id}.log"
    async with started_lines(f"node {start.node_id}", "lab.demo.node", log, start) as lines:
        yield NodeProcess(lines)


async def started_nodes(
    stack: contextlib.AsyncExitStack, directory: Path, base_url: str, seed: int
) -> dict[str, NodeProcess]:
    """All of the demo's nodes, which end with the stack."""
    nodes = {}
    for node in NODES:
        start = NodeStart(
            base_url=base_url,
            node_id=node.node_id,
            domain=node.domain,
            seed=seed,
            slice_seconds=PACE.slice_seconds,
            tokens_per_second=PACE.tokens_per_second,
        )
        nodes[node.node_id] = await stack.enter_async_context(started_node(directory, start))
    return nodes
