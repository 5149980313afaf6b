"""`moeplace demo` as a user runs it: real processes, real HTTP, and nothing left behind."""

import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from lab.demo.scenario import CLUSTER_ID, NODES
from tests.commands import RunningCommand
from tests.service import Service

LIMIT_SECONDS = 110
"""Enough for a start of 25 s on a busy machine, and for copies that stay out of the routing for 30 s because
a second solve overtook the first; the story ends sooner where the fleet converges sooner."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[list[RunningCommand]]:
    started: list[RunningCommand] = []
    yield started
    for demo in started:
        demo.end()


def begin(start: list[RunningCommand], directory: Path, *options: str) -> RunningCommand:
    demo = RunningCommand(directory, "demo", *options)
    start.append(demo)
    return demo


def row(text: str, name: str) -> list[float]:
    """The first number of each cell of the summary's row."""
    line = next(line for line in text.splitlines() if re.match(rf"\W*{re.escape(name)}\s", line))
    cells = [cell.strip() for cell in re.split("[│┃|]", line)[2:-1]]
    return [float(cell.split()[0]) for cell in cells if cell and cell != "-"]


def test_demo_converges_twice_and_beats_uniform(tmp_path: Path, start: list[RunningCommand]) -> None:
    """In plain mode, in its time: exit status 0, a row for every placement, the served one below uniform
    before and after the swap, lower after re-convergence than right after the swap, and nothing left."""
    begun = time.monotonic()
    demo = begin(start, tmp_path, "--plain", "--seconds", str(LIMIT_SECONDS), "--seed", "3")
    demo.wait_for("generation 1")
    assert len(demo.running("lab.demo.node")) == len(NODES)
    status = demo.wait(LIMIT_SECONDS + 30)
    text = demo.text()
    assert status == 0, text
    assert time.monotonic() - begun < LIMIT_SECONDS + 15
    served, uniform = row(text, "served (measured)"), row(text, "uniform")
    assert len(served) == len(uniform) == 3
    assert all(ours < theirs for ours, theirs in zip(served, uniform, strict=True))
    assert served[2] < served[1]
    assert len(row(text, "local_popularity")) == len(row(text, "eplb")) == 3
    assert len(re.findall(r"converged [\d.]+ s after the (?:nodes' start|swap); \d+ moves", text)) == 2
    assert demo.leftovers() == []


def test_interrupt_ends_everything(tmp_path: Path, start: list[RunningCommand]) -> None:
    """Ctrl-C in the middle: every process ends, the directory goes, the status is that of an interrupt."""
    demo = begin(start, tmp_path, "--plain")
    demo.wait_for("edge-d man_ja")
    assert len(demo.running("lab.demo.node")) == len(NODES)
    demo.process.send_signal(signal.SIGINT)
    assert demo.wait(15) == 128 + signal.SIGINT
    assert "nothing is left behind" in demo.text()
    assert demo.leftovers() == []


def test_nodes_replay_on_a_service_that_runs(
    tmp_path: Path, start: list[RunningCommand], serve: Callable[..., Service]
) -> None:
    """With --service the four nodes alone are started: they register, converge and post until the command is
    asked to end, which it does with status 0, leaving the service as it is."""
    paced = {"MOEPLACE_HEARTBEAT_INTERVAL_SECONDS": "1", "MOEPLACE_TELEMETRY_INTERVAL_SECONDS": "1"}
    service = serve(env=paced)
    demo = begin(start, tmp_path, "--service", service.base_url, "--plain")
    demo.wait_for("4 nodes replay")
    url = f"{service.base_url}/v1/clusters/{CLUSTER_ID}/placement/status"
    deadline = time.monotonic() + 60
    wanted = {"Converged", "TelemetryFresh"}
    while not wanted <= {c["type"] for c in httpx.get(url).json().get("conditions", ()) if c["status"]}:
        assert time.monotonic() < deadline, httpx.get(url).text
        time.sleep(0.2)
    demo.process.send_signal(signal.SIGTERM)
    assert demo.wait(15) == 0, demo.text()
    assert demo.leftovers() == []
    assert httpx.get(f"{service.base_url}/readyz").is_success


def test_a_taken_port_is_told_as_the_service_tells_it(tmp_path: Path, start: list[RunningCommand]) -> None:
    """The service's own message passes through; exit status 1, nothing left."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        demo = begin(start, tmp_path, "--plain", "--port", str(port))
        assert demo.wait(30) == 1
    assert str(port) in demo.text()
    assert "The demo failed: the service ended with status 1" in demo.text()
    assert demo.leftovers() == []
