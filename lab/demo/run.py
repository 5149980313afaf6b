"""The demo from its first process to its last."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from lab.demo.fleet import DemoFleet, started_fleet
from lab.demo.ledger import Ledger
from lab.demo.scenario import CLUSTER_ID, PACE
from lab.demo.story import Outcome, Story
from lab.demo.summary import print_summary
from lab.demo.view import View, shown
from lab.harness.failures import RunFailed
from lab.harness.observation import observe
from moeplace_agent.client import ServiceError

_Result = TypeVar("_Result")

_OBSERVE_SECONDS = 0.4
_REFRESH_SECONDS = 0.3
_SILENCE_SECONDS = 10.0
_ENDING_SECONDS = 5.0
"""Set aside for the last computations and for ending the processes."""

_LEAST_SECONDS = 30.0
"""What the story needs, even where the start took long because kernels had to be compiled."""


async def run_demo(
    console: Console, *, keep: bool, seconds: float, seed: int, port: int, plain: bool
) -> Outcome:
    """Run everything and print the summary; with `keep`, stay until cancelled.

    Raises `RunFailed`. However it ends, its processes have ended and its directory is gone.
    """
    begun = time.monotonic()
    async with AsyncExitStack() as stack:
        directory = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="moeplace-demo-", ignore_cleanup_errors=True)
            )
        )
        console.print("starting the service, with a server and data of its own")
        fleet = await stack.enter_async_context(started_fleet(directory, port=port, seed=seed))
        nodes = fleet.nodes
        watch = _Watch(fleet)
        with shown(console, watch.ledger, plain=plain, begun=begun) as view:
            left = max(_LEAST_SECONDS, seconds - _ENDING_SECONDS - (time.monotonic() - begun))
            story = Story(
                watch.ledger,
                lambda node_id, domain: nodes[node_id].switch(domain),
                view.say,
                seconds=left,
                quiet_seconds=min(PACE.quiet_seconds, 0.12 * left),
            )
            outcome = await watch.until(story.run(), view)
        print_summary(console, outcome)
        if keep:
            _print_urls(console, fleet.service.base_url)
            await watch.until(asyncio.Event().wait(), None)
        return outcome


class _Watch:
    """Listens to nodes and service while something else goes on, and notices when one of them fails."""

    def __init__(self, fleet: DemoFleet) -> None:
        self.ledger = Ledger()
        self._service, self._client, self._nodes = fleet

    async def until(self, work: Coroutine[Any, Any, _Result], view: View | None) -> _Result:
        """The result of `work`; raises what ends it early."""
        main = asyncio.ensure_future(work)
        children = [self._service.child, *(node.child for node in self._nodes.values())]
        others = [
            *(asyncio.create_task(_raise_failure(child.failed())) for child in children),
            *(asyncio.create_task(node.hear(self.ledger.add_slice)) for node in self._nodes.values()),
            asyncio.create_task(self._observe()),
        ]
        if view is not None:
            others.append(asyncio.create_task(_refresh(view)))
        waiting: set[asyncio.Future[Any]] = {main, *others}
        try:
            while not main.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for one in done:
                    one.result()
            return main.result()
        finally:
            for one in (main, *others):
                one.cancel()
            await asyncio.gather(main, *others, return_exceptions=True)

    async def _observe(self) -> None:
        heard = time.monotonic()
        while True:
            try:
                self.ledger.add_observation(await observe(self._client))
                heard = time.monotonic()
            except ServiceError as error:
                if time.monotonic() - heard > _SILENCE_SECONDS:
                    raise RunFailed(f"the service cannot be asked any more: {error}") from error
            await asyncio.sleep(_OBSERVE_SECONDS)


async def _raise_failure(failed: Coroutine[Any, Any, RunFailed]) -> None:
    raise await failed


async def _refresh(view: View) -> None:
    while True:
        view.refresh()
        await asyncio.sleep(_REFRESH_SECONDS)


def _print_urls(console: Console, base_url: str) -> None:
    cluster = f"{base_url}/v1/clusters/{CLUSTER_ID}"
    for what, url in (
        ("The console", f"{base_url}/"),
        ("The API's pages", f"{base_url}/docs"),
        ("The placement in force", f"{cluster}/placement"),
        ("How far it is carried out", f"{cluster}/placement/status"),
        ("How each node and layer does", f"{cluster}/analysis"),
        ("Metrics", f"{base_url}/metrics"),
    ):
        console.print(f"{what}: {url}", soft_wrap=True, highlight=False)
    console.print("The service stays up and the nodes go on replaying. Ctrl-C ends everything.")
