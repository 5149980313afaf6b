"""The demo's nodes as processes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from app.box.children import LineProcess, started_lines
from app.demo.slices import Instruction, NodeStart, Slice


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
    async with started_lines(f"node {start.node_id}", "app.demo.node", log, start) as lines:
        yield NodeProcess(lines)
