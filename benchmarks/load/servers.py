"""Servers under load: Valkey, the service's processes and the references, each a process of its own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from app.storage.embedded import find_server

START_SECONDS = 60.0


@dataclass(frozen=True)
class Running:
    """A process that serves `url`, and its use of the processor."""

    process: subprocess.Popen[bytes]
    url: str

    def cpu_seconds(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def waiting_seconds(self) -> float:
        """How long its first thread, that of the event loop, could run and had no processor."""
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[1]) / 1e9

    def memory_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def peak_memory_bytes(self) -> int:
        """The most that was ever resident, as Linux keeps it."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])


@contextlib.contextmanager
def valkey(*options: str) -> Iterator[Running]:
    """On a unix socket, without a file: what a disk takes is no matter of ours."""
    with tempfile.TemporaryDirectory(prefix="moeplace-load-") as folder:
        path = Path(folder) / "s"
        command = [str(find_server()), "--port", "0", "--unixsocket", str(path), "--dir", folder]
        command += ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction", *options]
        with _running(command, f"unix://{path}") as running:
            _until(path.exists, running)
            yield running


@contextlib.contextmanager
def api(redis_url: str, **settings: str) -> Iterator[Running]:
    """One API process, counting as one of several does."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="moeplace-load-") as metrics:
        command = [sys.executable, "-m", "app", "api", "--redis-url", redis_url, "--port", str(port)]
        command += ["--log-level", "error"]
        environment = {"PROMETHEUS_MULTIPROC_DIR": metrics, **settings}
        with _running(command, f"http://127.0.0.1:{port}", environment) as running:
            _until(lambda: _answers(port), running)
            yield running


@contextlib.contextmanager
def worker(redis_url: str, **settings: str) -> Iterator[Running]:
    command = [sys.executable, "-m", "app", "worker", "--redis-url", redis_url, "--log-level", "error"]
    with _running(command, redis_url, settings) as running:
        yield running


@contextlib.contextmanager
def reference(name: str, redis_url: str) -> Iterator[Running]:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.load.reference", name, redis_url, str(port)]
    with _running(command, f"http://127.0.0.1:{port}") as running:
        _until(lambda: _answers(port), running)
        yield running


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def _running(command: list[str], url: str, environment: dict[str, str] | None = None) -> Iterator[Running]:
    process = subprocess.Popen(
        command,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        # Where Linux shares processors among sessions, what loads a server does not count as the server.
        start_new_session=True,
    )
    try:
        yield Running(process, url)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    """Anything: the socket listens before the application has started."""
    with contextlib.suppress(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=2)
        return True
    return False


def _until(ready: object, running: Running) -> None:
    assert callable(ready)
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if running.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{running.process.args!r} did not start")
        time.sleep(0.02)
