"""`moeplace serve` with real processes: it starts only when it can, survives the death of any child, and ends
in order."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from app.storage.client import open_client
from app.storage.embedded import EmbeddedServer, runtime_path
from moeplace_agent.serving.listening import open_listener
from tests.conftest import TEST_SERVER
from tests.service import Service

Serve = Callable[..., Service]

MOEPLACE = [sys.executable, "-P", "-m", "app"]


def refused(*arguments: str, env: dict[str, str] | None = None, within_seconds: float = 30.0) -> str:
    """What a command says that ends with status 1: one line on stderr, nothing on stdout."""
    ended = subprocess.run(
        [*MOEPLACE, *arguments],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=within_seconds,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith("moeplace: ")
    return ended.stderr


def eventually(happened: Callable[[], bool], within_seconds: float, what: str) -> None:
    deadline = time.monotonic() + within_seconds
    while not happened():
        assert time.monotonic() < deadline, f"not within {within_seconds:g} s: {what}"
        time.sleep(0.05)


def answers(url: str, status: int = 200) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == status
    except httpx.TransportError:
        return False


def put_cluster(service: Service, cluster_id: str) -> None:
    """Create a cluster, sent again while the service cannot answer, as clients do."""

    def sent() -> bool:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.put(f"{service.base_url}/v1/clusters/{cluster_id}", json={}, timeout=5)
            assert answer.status_code in {200, 201, 503}, answer.text
            return answer.status_code != 503
        return False

    eventually(sent, 20, f"cluster {cluster_id} is stored")


def has_cluster(service: Service, cluster_id: str) -> bool:
    return answers(f"{service.base_url}/v1/clusters/{cluster_id}")


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def orphans_end(service: Service, within_seconds: float) -> None:
    eventually(lambda: service.survivors() == [], within_seconds, f"{service.survivors()} end")


def test_serves_and_ends_in_order(serve: Serve) -> None:
    """The URL is printed once the service is ready; a second service on its directory is refused; SIGTERM
    takes readiness away, releases whoever waits with 304, and ends all of it with status 0, leaving no
    process and no runtime directory."""
    service = serve()
    assert answers(f"{service.base_url}/readyz")
    said = refused("serve", "--port", "0", "--data-dir", str(service.data_dir))
    assert f"another moeplace serve uses {service.data_dir}, pid {service.process.pid}" in said
    runtime = runtime_path(service.data_dir)
    assert runtime.is_dir()

    put_cluster(service, "east")
    url = f"{service.base_url}/v1/clusters/east/placement/status"
    eventually(lambda: answers(url), 20, "the worker has looked at the cluster")
    service.children()
    with httpx.Client(timeout=40) as client, ThreadPoolExecutor(1) as beside:
        tag = settled_tag(client, url)
        began = time.monotonic()
        waiting = beside.submit(client.get, url, headers={"If-None-Match": tag, "Prefer": "wait=30"})
        time.sleep(0.5)
        assert not waiting.done()
        service.process.send_signal(signal.SIGTERM)
        seen = readiness_until_refused(service)
        assert waiting.result().status_code == 304
    assert seen[-1] == 503
    assert set(seen) <= {200, 503}
    assert service.process.wait(10) == 0
    assert time.monotonic() - began < 10
    orphans_end(service, 1)
    assert not runtime.exists()


def settled_tag(client: httpx.Client, url: str) -> str:
    """The entity tag of a document that has stopped changing: a wait of a second ended with 304."""
    tag = client.get(url).headers["etag"]
    for _ in range(20):
        answer = client.get(url, headers={"If-None-Match": tag, "Prefer": "wait=1"})
        if answer.status_code == 304:
            return str(tag)
        tag = answer.headers["etag"]
    raise AssertionError(f"{url} keeps changing")


def readiness_until_refused(service: Service) -> list[int]:
    """What /readyz answers, asked on a new connection each time, until the port is closed."""
    seen: list[int] = []
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            seen.append(httpx.get(f"{service.base_url}/readyz", timeout=5).status_code)
        except httpx.TransportError:
            return seen
    raise AssertionError("the port stays open")


def test_metrics_of_all_processes_are_in_one_place(serve: Serve) -> None:
    """/metrics shows series of the API processes and of the worker, also after one of them was replaced."""
    service = serve("--workers", "2")

    def value(name: str) -> float:
        text = httpx.get(f"{service.base_url}/metrics", timeout=5).text
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))

    for _ in range(20):
        assert answers(f"{service.base_url}/healthz")
    assert value("moeplace_http_requests_total") >= 20
    put_cluster(service, "east")
    eventually(lambda: value("moeplace_worker_clusters") == 1, 20, "the worker's gauge counts the cluster")
    acquired = value("moeplace_lease_changes_total")
    assert acquired >= 1
    worker = service.child("worker")
    service.kill_child("worker")
    eventually(lambda: gone(worker), 5, "the worker is dead")
    eventually(lambda: value("moeplace_worker_clusters") == 1, 40, "the next worker alone is counted")
    assert value("moeplace_lease_changes_total") >= acquired


def test_killed_children_are_replaced(serve: Serve) -> None:
    """SIGKILL to API, worker and Valkey in turn: another one is started each time, and what was acknowledged
    before and after is there in the end."""
    service = serve(env={"MOEPLACE_WORKER_LEASE_SECONDS": "1"})
    stored = []
    for name in ("api", "worker", "server"):
        put_cluster(service, f"before-{name}")
        killed = service.child(name)
        killed.kill()
        eventually(partial(gone, killed), 5, f"the {name} is dead")
        put_cluster(service, f"after-{name}")
        stored += [f"before-{name}", f"after-{name}"]
        eventually(partial(service.has, name), 40, f"another {name} is started")
        eventually(lambda: answers(f"{service.base_url}/readyz"), 40, "the service is ready again")
        assert service.child(name).pid != killed.pid
    assert all(has_cluster(service, cluster_id) for cluster_id in stored)
    assert service.logs().count("ended unexpectedly") == 3
    assert "SIGKILL" in service.logs()
    assert service.terminate() == 0
    orphans_end(service, 1)


def test_killed_supervisor_leaves_no_orphan(serve: Serve) -> None:
    """SIGKILL to `moeplace serve` itself: its processes end, and the same directory serves again. There, a
    client that never finishes its body is told to repeat it elsewhere, and holds SIGTERM up no longer."""
    service = serve()
    put_cluster(service, "east")
    assert {service.child(name).pid for name in ("api", "worker", "server")}
    service.children()
    service.process.kill()
    service.process.wait()
    orphans_end(service, 5)

    again = serve(data_dir=service.data_dir, env={"MOEPLACE_DRAIN_SECONDS": "50"})
    assert has_cluster(again, "east")
    with slow_request(again) as connection:
        assert again.terminate(within_seconds=15) == 0
        assert connection.recv(100).startswith(b"HTTP/1.1 503")
    orphans_end(again, 1)


def test_second_signal_ends_at_once(serve: Serve) -> None:
    """While a process that hangs holds the drain up, a second signal ends everything without waiting."""
    service = serve(env={"MOEPLACE_DRAIN_SECONDS": "50"})
    service.children()
    service.child("api").suspend()
    service.process.send_signal(signal.SIGINT)
    time.sleep(1.5)
    assert service.process.poll() is None
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(5) == 1
    orphans_end(service, 1)


def test_taken_port_is_told_before_anything_starts(tmp_path: Path) -> None:
    """One line with the port; the data directory is not even made."""
    with open_listener("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        said = refused("serve", "--port", port, "--data-dir", str(tmp_path / "data"))
        assert f"port: {port}" in said
        assert f"port: {port}" in refused("api", "--port", port, "--redis-url", "redis://127.0.0.1:1")
    assert not (tmp_path / "data").exists()


def test_unwritable_directory(tmp_path: Path) -> None:
    """One line that names the directory and the option."""
    (tmp_path / "file").touch()
    said = refused("serve", "--port", "0", "--data-dir", str(tmp_path / "file" / "data"))
    assert "data_dir: cannot write to" in said
    assert "--data-dir" in said


@pytest.mark.parametrize("command", ["serve", "api", "worker"])
def test_unreachable_redis(command: str) -> None:
    """Each command that needs a server says in one line that it is not there, without the password."""
    options = [] if command == "worker" else ["--port", "0"]
    said = refused(command, *options, env={"MOEPLACE_REDIS_URL": "valkey://:secret@127.0.0.1:1"})
    assert "valkey://:***@127.0.0.1:1: cannot be reached: Connection refused" in said
    assert "secret" not in said


def test_durability_that_the_server_cannot_promise(tmp_path: Path) -> None:
    """Told in one line before anything listens, not by processes that die one after another."""
    server = EmbeddedServer(tmp_path / "redis", binary=TEST_SERVER)
    server.spawn()

    async def without_append_only_file() -> None:
        await server.ready()
        async with open_client(server.url) as redis:
            await redis.config_set("appendonly", "no")

    try:
        asyncio.run(without_append_only_file())
        environment = {"MOEPLACE_DURABLE": "1", "MOEPLACE_REDIS_URL": server.url}
        for command in ("serve", "api"):
            assert "durable: the server " in refused(command, "--port", "0", env=environment)
    finally:
        server.kill()
        server.close()


@pytest.mark.parametrize("command", ["api", "worker"])
def test_redis_is_needed(command: str) -> None:
    """Alone, API and worker have no server of their own: they name the option."""
    ended = subprocess.run([*MOEPLACE, command], capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert "--redis-url" in ended.stderr


def test_open_address_is_refused(tmp_path: Path) -> None:
    """Without an operator's token, an address others reach has to be allowed by name; a secret that can be
    guessed is none."""
    options = ("serve", "--host", "0.0.0.0", "--port", "0", "--data-dir", str(tmp_path / "data"))
    said = refused(*options)
    assert "--allow-unauthenticated" in said
    assert "moeplace token make" in said
    said = refused(*options, env={"MOEPLACE_OPERATOR_TOKEN": "hunter2"})
    assert "operator_token: expected one secret of 32 or more" in said
    assert "hunter2" not in said


def test_broken_installation_is_given_up(tmp_path: Path) -> None:
    """A worker that cannot start ends `serve` with status 1 instead of being restarted for ever."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif sys.argv[-1:] == ['worker'] or 'worker' in sys.orig_argv: sys.exit('broken')\n"
    )
    ended = subprocess.run(
        [*MOEPLACE, "serve", "--port", "0", "--data-dir", str(tmp_path / "data")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "the worker process ended 3 times while starting" in ended.stderr


def test_api_and_worker_run_apart(tmp_path: Path) -> None:
    """`moeplace api` and `moeplace worker` on a server of somebody else work together and end in order."""
    server = EmbeddedServer(tmp_path / "redis", binary=TEST_SERVER)
    server.spawn()
    environment = {**os.environ, "MOEPLACE_REDIS_URL": server.url}
    with open_listener("127.0.0.1", 0) as probe:
        metrics_port = str(probe.getsockname()[1])
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*MOEPLACE, *arguments], env=environment, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process

    try:
        eventually(lambda: Path(server.url.removeprefix("unix://")).is_socket(), 10, "the server listens")
        api = start("api", "--port", "0")
        assert api.stdout is not None
        line = api.stdout.readline()
        url = line.split()[-1]
        eventually(lambda: answers(f"{url}/readyz", 503), 20, "the API says that there is no worker")
        worker = start("worker", "--metrics-port", metrics_port)
        eventually(lambda: answers(f"{url}/readyz"), 60, "the API is ready")
        said = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics", timeout=5).text
        assert "moeplace_worker_clusters" in said
        worker.terminate()
        assert worker.wait(10) == 0
        eventually(lambda: answers(f"{url}/readyz", 503), 5, "the worker has said good-bye")
        api.terminate()
        assert api.wait(10) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        server.kill()
        server.close()


@contextlib.contextmanager
def slow_request(service: Service) -> Iterator[socket.socket]:
    """A connection whose request has begun and does not end."""
    url = httpx.URL(service.base_url)
    assert url.port is not None
    with socket.create_connection((url.host, url.port)) as connection:
        connection.sendall(
            b"PUT /v1/clusters/slow HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        time.sleep(0.3)
        yield connection
