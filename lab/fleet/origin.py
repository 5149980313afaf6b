"""The origin of the fleet as a process of its own: `python -m lab.fleet.origin`.

It serves the experts of a checkpoint one by one, as `moeplace origin` does, and since it has them all, it
answers expert calls too.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from lab.fleet.experts import LoadedExperts
from lab.fleet.lines import OriginStart, Ready
from lab.fleet.process import Lines, run_process
from lab.fleet.server import serving_calls
from lab.tiny_moe.shape import EXPERTS, LAYERS
from lab.tiny_moe.weights import expert, tensors
from moeplace_agent.checkpoint.checkpoint import open_checkpoint
from moeplace_agent.checkpoint.digests import expert_digests
from moeplace_agent.origin import CheckpointShelf, model_spec, origin_application
from moeplace_agent.serving.embedded import serving
from moeplace_agent.serving.listening import open_listener, url_of


async def _run(lines: Lines) -> None:
    start = await lines.read(OriginStart)
    assert start is not None
    checkpoint = open_checkpoint(Path(start.checkpoint))
    digests = await asyncio.to_thread(expert_digests, checkpoint)
    shelf = CheckpointShelf(start.model_id, checkpoint, digests)
    loaded = LoadedExperts(start.model_id)
    named = tensors()
    for layer in range(LAYERS):
        for number in range(EXPERTS):
            loaded.load(layer, number, expert(named, layer, number))
    listener = open_listener("127.0.0.1", 0)
    async with contextlib.AsyncExitStack() as stack:
        application = origin_application(
            shelf, at_once=start.copies_at_once, bytes_per_second=start.bytes_per_second
        )
        await stack.enter_async_context(serving(application, listener))
        calls_url = await stack.enter_async_context(serving_calls(loaded, start.links))
        experts_url = url_of(listener)
        lines.tell(Ready(calls_url, experts_url, model_spec(shelf, experts_url)))
        while await lines.read(OriginStart) is not None:
            pass


if __name__ == "__main__":
    run_process(_run)
