"""A command that runs a whole fleet, as tests see it: what it prints, its processes, what it leaves."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil


class RunningCommand:
    """`moeplace NAME`, running, with what it has printed and every process ever seen below it."""

    def __init__(self, directory: Path, name: str, *options: str) -> None:
        self._temporary = directory / "tmp"
        self._temporary.mkdir()
        self.out, self.err = directory / "out.txt", directory / "err.txt"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app", name, *options],
                stdout=out,
                stderr=err,
                env={**os.environ, "TMPDIR": str(self._temporary), "COLUMNS": "140"},
            )
        self._seen: dict[int, psutil.Process] = {}

    def look(self) -> list[psutil.Process]:
        """The processes below the command now."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            found = []
        self._seen.update({process.pid: process for process in found})
        return found

    def running(self, module: str) -> list[psutil.Process]:
        """Those of its processes that run a module of ours."""
        return [p for p in self.look() if module in _command(p)]

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
        return running + [path.name for path in self._temporary.glob("moeplace-*")]

    def end(self) -> None:
        self.look()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for process in self._seen.values():
            if process.is_running():
                process.kill()


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
