"""Processes that the demo starts, and what is said when they fail."""

import asyncio
import signal
from pathlib import Path

import psutil
import pytest

from lab.demo.nodes import started_node
from lab.demo.slices import NodeStart
from lab.harness.children import started_service
from lab.harness.failures import RunFailed

pytestmark = pytest.mark.anyio


def start(domain: str = "python") -> NodeStart:
    # Nobody listens at port 9: the node tries again and again, which is all these tests need.
    return NodeStart("http://127.0.0.1:9", "edge-a", domain, 0, 0.25, 4096)


async def test_a_failing_node_is_named_with_its_last_words(tmp_path: Path) -> None:
    """The failure carries the name, the exit status and the end of what the process wrote."""
    async with started_node(tmp_path, start("latin")) as node, asyncio.timeout(30):
        failure = await node.child.failed()
    assert str(failure).startswith("node edge-a ended with status 1:")
    assert "domain: is 'latin', expected one of python, c, novels" in str(failure)


async def test_a_killed_node_is_a_failure_and_an_ended_one_is_not(tmp_path: Path) -> None:
    """SIGKILL from outside is told; ending it ourselves is not, and leaves no process."""
    async with started_node(tmp_path, start()) as killed, asyncio.timeout(30):
        psutil.Process(killed.child.pid).send_signal(signal.SIGKILL)
        assert "ended with status -9" in str(await killed.child.failed())
    async with started_node(tmp_path, start()) as node:
        failing = asyncio.create_task(node.child.failed())
        await asyncio.sleep(0)
    assert node.child.process.returncode is not None
    await asyncio.sleep(0.1)
    assert not failing.done()
    failing.cancel()
    assert not psutil.pid_exists(node.child.pid)


async def test_a_node_ends_when_nobody_speaks_to_it(tmp_path: Path) -> None:
    """Its input closes, as it does when the demo dies: the process ends by itself, in order."""
    async with started_node(tmp_path, start()) as node, asyncio.timeout(30):
        stdin = node.child.process.stdin
        assert stdin is not None
        stdin.close()
        assert await node.child.process.wait() == 0, node.child.last_words()


async def test_the_services_own_message_passes_through(tmp_path: Path) -> None:
    """A data directory that cannot be made: the failure is in the service's words."""
    (tmp_path / "data").write_text("")
    with pytest.raises(RunFailed, match="the service ended with status 1") as raised:
        async with started_service(tmp_path, 0, {}):
            pytest.fail("the service cannot have started")
    assert "moeplace:" in str(raised.value)
