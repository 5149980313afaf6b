"""`moeplace demo` as a user runs it: real processes, real HTTP, and nothing left behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.demo.scenario import NODES

LIMIT_SECONDS = 70
"""Enough for a start of 25 s on a busy machine; the story ends sooner where the fleet converges sooner."""


class Demo:
    """A running demo with what it has printed and every process ever seen below it."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._temporary = directory / "tmp"
        self._temporary.mkdir()
        self.out, self.err = directory / "out.txt", directory / "err.txt"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app", "demo", *options],
                stdout=out,
                stderr=err,
                env={**os.environ, "TMPDIR": str(self._temporary), "COLUMNS": "140"},
            )
        self._seen: dict[int, psutil.Process] = {}

    def look(self) -> list[psutil.Process]:
        """The processes below the demo now."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            found = []
        self._seen.update({process.pid: process for process in found})
        return found

    def nodes(self) -> list[psutil.Process]:
        return [p for p in self.look() if "app.demo.node" in _command(p)]

    def wait(self, seconds: float) -> int:
        """The exit status, looking at the processes meanwhile."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            self.look()
            time.sleep(0.2)
        assert self.process.returncode is not None, f"still running after {seconds} s: {self.text()}"
        return self.process.returncode

    def wait_for(self, pattern: str, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.text()):
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, f"no {pattern} in {self.text()}"
            self.look()
            time.sleep(0.1)

    def text(self) -> str:
        return self.out.read_text() + self.err.read_text()

    def leftovers(self) -> list[str]:
        """Processes that still run, and files that still lie about, after the end."""
        running = [
            " ".join(_command(p))
            for p in self._seen.values()
            if p.is_running() and p.status() != psutil.STATUS_ZOMBIE
        ]
        return running + [path.name for path in self._temporary.glob("moeplace-demo-*")]

    def end(self) -> None:
        self.look()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for process in self._seen.values():
            if process.is_running():
                process.kill()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[list[Demo]]:
    started: list[Demo] = []
    yield started
    for demo in started:
        demo.end()


def begin(start: list[Demo], directory: Path, *options: str) -> Demo:
    demo = Demo(directory, *options)
    start.append(demo)
    return demo


def row(text: str, name: str) -> list[float]:
    """The first number of each cell of the summary's row."""
    line = next(line for line in text.splitlines() if re.match(rf"\W*{re.escape(name)}\s", line))
    cells = [cell.strip() for cell in re.split("[│┃|]", line)[2:-1]]
    return [float(cell.split()[0]) for cell in cells if cell and cell != "-"]


def test_demo_converges_twice_and_beats_uniform(tmp_path: Path, start: list[Demo]) -> None:
    """In plain mode, in its time: exit status 0, a row for every placement, the served one below uniform
    before and after the swap, lower after re-convergence than right after the swap, and nothing left."""
    begun = time.monotonic()
    demo = begin(start, tmp_path, "--plain", "--seconds", str(LIMIT_SECONDS), "--seed", "3")
    demo.wait_for("generation 1")
    assert len(demo.nodes()) == len(NODES)
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


def test_interrupt_ends_everything(tmp_path: Path, start: list[Demo]) -> None:
    """Ctrl-C in the middle: every process ends, the directory goes, the status is that of an interrupt."""
    demo = begin(start, tmp_path, "--plain")
    demo.wait_for("edge-d man_ja")
    assert len(demo.nodes()) == len(NODES)
    demo.process.send_signal(signal.SIGINT)
    assert demo.wait(15) == 128 + signal.SIGINT
    assert "nothing is left behind" in demo.text()
    assert demo.leftovers() == []


def test_a_taken_port_is_told_as_the_service_tells_it(tmp_path: Path, start: list[Demo]) -> None:
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


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
