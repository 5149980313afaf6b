"""A running `moeplace serve`, as tests see it: its URL, its processes and its last words."""

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from app.storage.embedded import runtime_path

READY = re.compile(r"^moeplace is serving on (http://\S+)$")
START_SECONDS = 90.0


@dataclass
class Service:
    """One `moeplace serve` with its children."""

    base_url: str
    process: subprocess.Popen[str]
    data_dir: Path
    log: Path
    _seen: dict[int, psutil.Process] = field(default_factory=dict)

    def child(self, name: str) -> psutil.Process:
        """The running child whose command is `name`: api, worker or server (Valkey)."""
        for process in self.children():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if _role(process) == name:
                    return process
        raise LookupError(f"no {name} process among the children of {self.process.pid}")

    def solvers(self) -> list[psutil.Process]:
        """The running processes beside the worker that solve and plan."""
        found = []
        for process in self.children():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if "--multiprocessing-fork" in process.cmdline():
                    found.append(process)
        return found

    def has(self, name: str) -> bool:
        """Whether the child runs. One that was killed is missing until another is started in its place."""
        try:
            return bool(self.child(name))
        except LookupError:
            return False

    def children(self) -> list[psutil.Process]:
        """All processes below the supervisor, which are remembered so that orphans are found too."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            found = []
        self._seen.update({process.pid: process for process in found})
        return found

    def survivors(self) -> list[psutil.Process]:
        """Processes once seen below the supervisor that still run."""
        return [
            process
            for process in self._seen.values()
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        ]

    def terminate(self, within_seconds: float = 15.0) -> int:
        """SIGTERM, and the exit status."""
        self.children()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_seconds)

    def kill_child(self, name: str) -> int:
        """SIGKILL to one child; its pid."""
        process = self.child(name)
        process.kill()
        return process.pid

    def kill_all(self) -> None:
        self.children()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        for process in self.survivors():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()
        # A killed supervisor cannot remove it, and nobody starts over this data directory again.
        shutil.rmtree(runtime_path(self.data_dir), ignore_errors=True)

    def logs(self) -> str:
        return self.log.read_text(errors="replace")


def start_service(*options: str, env: dict[str, str], data_dir: Path) -> Service:
    """Start `moeplace serve --port 0` and wait for the line that says where it serves."""
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    log = data_dir.parent / f"serve-{time.monotonic_ns()}.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "serve", "--port", "0", "--data-dir", str(data_dir), *options],
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    service = Service("", process, data_dir, log)
    try:
        service.base_url = _wait_for_url(service)
    except BaseException:
        service.kill_all()
        raise
    service.children()
    return service


def _wait_for_url(service: Service) -> str:
    stdout = service.process.stdout
    assert stdout is not None
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        readable, _, _ = select.select([stdout], [], [], 0.2)
        if readable:
            line = stdout.readline()
            if match := READY.match(line.strip()):
                return match[1]
            if line == "":
                break
    raise AssertionError(
        f"moeplace serve did not become ready (exit status {service.process.poll()}):\n{service.logs()}"
    )


def _role(process: psutil.Process) -> str:
    command = process.cmdline()
    if command and re.search(r"(valkey|redis)-server", command[0]):
        return "server"
    for index, part in enumerate(command[:-1]):
        if part == "app" and command[index - 1] == "-m":
            return command[index + 1]
    return "other"
