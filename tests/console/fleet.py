"""A small real fleet that runs beside the tests: `moeplace serve` and the demo's nodes."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from lab.demo.fleet import DemoFleet, started_fleet
from lab.demo.scenario import CLUSTER_ID

Answer = TypeVar("Answer")


class RunningFleet:
    """What runs in a thread of its own, for tests that wait for a browser in theirs."""

    def __init__(self, fleet: DemoFleet, loop: asyncio.AbstractEventLoop) -> None:
        self._fleet = fleet
        self._loop = loop
        self.url = fleet.service.base_url
        self.cluster_url = f"{self.url}/v1/clusters/{CLUSTER_ID}"

    def switch(self, node_id: str, domain: str) -> None:
        """Have a node replay another domain."""
        self._wait(self._fleet.nodes[node_id].switch(domain))

    def _wait(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


@contextlib.contextmanager
def running_fleet(directory: Path, *, port: int = 0, seed: int = 0) -> Iterator[RunningFleet]:
    ready, end = threading.Event(), threading.Event()
    found: list[RunningFleet] = []
    failed: list[BaseException] = []

    async def run() -> None:
        async with started_fleet(directory, port=port, seed=seed) as fleet:
            hearing = [asyncio.create_task(node.hear(lambda _: None)) for node in fleet.nodes.values()]
            found.append(RunningFleet(fleet, asyncio.get_running_loop()))
            ready.set()
            await asyncio.to_thread(end.wait)
            for task in hearing:
                task.cancel()
            await asyncio.gather(*hearing, return_exceptions=True)

    def work() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # noqa: BLE001
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    ready.wait()
    try:
        if not found:
            raise failed[0]
        yield found[0]
    finally:
        end.set()
        thread.join(30)
    if failed:
        raise failed[0]
