"""API processes are replaced one after another while clients go on: no request fails, nothing is lost."""

import asyncio
import contextlib
import itertools
import os
import re
import secrets
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import trustme
from redis.asyncio import Redis

from tests.integration.test_processes import eventually

MOEPLACE = [sys.executable, "-P", "-m", "app"]
NODE = "/v1/clusters/east/nodes/a"
SPEC = {"instance_uid": "i-1", "devices": [{"device_id": "gpu0", "memory_bytes": 100_000_000}]}


@dataclass
class Api:
    """`moeplace api --workers 2`."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def workers(self) -> set[int]:
        """Processes that serve, by id."""
        found = set()
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if "--listen-fd" in child.cmdline():
                    found.add(child.pid)
        return found


@pytest.fixture
def start(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Api]]:
    processes: list[subprocess.Popen[str]] = []

    def begin(*options: str, env: dict[str, str] | None = None) -> Api:
        log = tmp_path / "api.log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [*MOEPLACE, "api", "--port", "0", "--workers", "2", *options],
                env={**os.environ, "MOEPLACE_REDIS_URL": redis_url, **(env or {})},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("moeplace api is listening on "), log.read_text()
        return Api(process, line.split()[-1], log)

    yield begin
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


async def in_time(happened: Callable[[], bool], within_seconds: float, what: str) -> None:
    """`eventually`, beside other tasks."""
    await asyncio.to_thread(eventually, happened, within_seconds, what)


def window(number: int) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "model_id": "tiny",
        "instance_uid": "i-1",
        "sequence_number": number,
        "window": {"start_at": (now - timedelta(seconds=1)).isoformat(), "end_at": now.isoformat()},
        "tokens": 4,
        "layers": [{"layer": 0, "counts": [1, 1, 1, 1]}],
        "routes": [],
    }


@dataclass
class Traffic:
    """What clients saw. A failure is anything but the answer expected, lost connections included."""

    answers: int = 0
    failures: list[str] = field(default_factory=list)

    async def ask(
        self, request: Callable[[], Awaitable[httpx.Response]], expected: set[int]
    ) -> httpx.Response | None:
        try:
            answer = await request()
        except httpx.HTTPError as error:
            self.failures.append(f"{type(error).__name__}: {error}")
            return None
        self.answers += 1
        if answer.status_code not in expected:
            self.failures.append(f"{answer.status_code}: {answer.text[:200]}")
        return answer


@contextlib.asynccontextmanager
async def running(*loops: Awaitable[None]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(loop) for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.anyio
async def test_no_request_fails_while_processes_are_replaced(
    start: Callable[..., Api], redis: Redis, redis_url: str
) -> None:
    """Clients that keep their connection, that make a new one each time, that wait long, and that pause
    between requests see none of two rolling restarts; each window counts once; one scrape counts the requests
    of all processes, those that ended too; and SIGTERM in the middle of a third one ends all in order."""
    api = start()
    first = api.workers()
    assert len(first) == 2
    traffic = Traffic()
    numbers = itertools.count(1)
    released = 0

    async with httpx.AsyncClient(base_url=api.url, timeout=40) as client:
        block = {"layer": 0, "experts": 4, "expert_bytes": 100, "top_k": 1}
        await client.put("/v1/clusters/east/models/tiny", json={"blocks": [block]})
        assert (await client.put(NODE, json=SPEC)).status_code == 201

        posting = True

        async def post_windows() -> None:
            """On a connection that is kept. The last is waited for: given up, it might be counted later."""
            while posting:
                number = next(numbers)
                await traffic.ask(lambda n=number: client.post(f"{NODE}/telemetry", json=window(n)), {200})  # type: ignore[misc]

        async def connect_anew() -> None:
            while True:
                async with httpx.AsyncClient(base_url=api.url) as fresh:
                    await traffic.ask(lambda: fresh.get("/v1/clusters/east"), {200})

        async def pause() -> None:
            """The connection is idle most of the time."""
            async with httpx.AsyncClient(base_url=api.url) as idle:
                while True:
                    await traffic.ask(lambda: idle.get("/v1/clusters/east"), {200})
                    await asyncio.sleep(0.7)

        async def wait_long() -> None:
            nonlocal released
            async with httpx.AsyncClient(base_url=api.url, timeout=40) as waiting:
                tag = (await waiting.get(f"{NODE}/moves")).headers["etag"]
                waiting.headers.update({"If-None-Match": tag, "Prefer": "wait=30"})
                while True:
                    began = time.monotonic()
                    answer = await traffic.ask(lambda: waiting.get(f"{NODE}/moves"), {304})
                    released += answer is not None and time.monotonic() - began < 25

        posts = asyncio.ensure_future(post_windows())
        async with running(posts, connect_anew(), connect_anew(), pause(), wait_long(), wait_long()):
            for before in (first, None):
                before = before or api.workers()
                answers = traffic.answers
                api.process.send_signal(signal.SIGHUP)
                await in_time(
                    lambda before=before: len(api.workers()) == 2 and not before & api.workers(),  # type: ignore[misc]
                    60,
                    "both processes are others",
                )
                assert traffic.answers > answers + 10
            # Some that those who answer now are asked.
            answers = traffic.answers
            await in_time(lambda: traffic.answers > answers + 50, 20, "the new processes answer")
            posting = False
            await posts
        assert traffic.failures == []
        assert released >= 2

        # One view: what clients counted is what a scrape says, whichever process answers it.
        text = (await client.get("/metrics")).text
        posted = re.findall(
            r'^moeplace_http_requests_total\{.*telemetry.*status="2xx"\} (\S+)$', text, re.MULTILINE
        )
        accepted = re.findall(
            r'^moeplace_telemetry_windows_total\{outcome="accepted"\} (\S+)$', text, re.MULTILINE
        )
        assert [float(value) for value in accepted] == [float(value) for value in posted]
        assert float(accepted[0]) == next(numbers) - 1
    assert await redis.xlen("moeplace:{east}:telemetry") == int(float(accepted[0]))

    before = api.workers()
    api.process.send_signal(signal.SIGHUP)
    await in_time(lambda: bool(api.workers() - before), 30, "a successor starts")
    children = psutil.Process(api.process.pid).children(recursive=True)
    api.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(api.process.wait, 15) == 0
    await in_time(lambda: not any(child.is_running() for child in children), 2, "none is left")


def certificate(directory: Path, authority: trustme.CA) -> tuple[Path, Path]:
    """Signed anew, in the same two files."""
    issued = authority.issue_cert("127.0.0.1")
    chain, key = directory / "tls.crt", directory / "tls.key"
    issued.cert_chain_pems[0].write_to_path(chain)
    issued.private_key_pem.write_to_path(key)
    return chain, key


def test_https_and_a_new_certificate(start: Callable[..., Api], tmp_path: Path) -> None:
    """HTTPS on an address that others reach, with tokens: those who trust the authority are served, commands
    too; a certificate that is no certificate changes nothing; a new one is served after a rolling restart."""
    authority = trustme.CA()
    chain, key = certificate(tmp_path, authority)
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(trusted)
    secret = secrets.token_urlsafe(32)
    (tmp_path / "operator.token").write_text(secret)
    api = start(
        "--host", "0.0.0.0",
        "--operator-token-file", str(tmp_path / "operator.token"),
        "--tls-certificate", str(chain),
        "--tls-key", str(key),
        "--trusted-proxies", "127.0.0.1",
        # Little time for idle connections: here there are none worth waiting for.
        env={"MOEPLACE_FAILED_AUTHENTICATIONS_PER_MINUTE": "3", "MOEPLACE_DRAIN_SECONDS": "3"},
    )  # fmt: skip
    assert api.url.startswith("https://127.0.0.1:")
    environment = {**os.environ, "MOEPLACE_TOKEN": secret, "MOEPLACE_CA_FILE": str(trusted)}

    def moeplace(*arguments: str, status: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            [*MOEPLACE, *arguments],
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == status, ended.stderr
        return ended

    issue = ("token", "issue", "--service", api.url, "--cluster", "east")
    token = moeplace(*issue, "--role", "node", "--node", "a").stdout.strip()
    assert token.startswith("mpl_east~")
    assert token.split("~")[1] in moeplace("token", "list", "--service", api.url, "--cluster", "east").stdout
    assert (
        "the server's certificate is not trusted"
        in moeplace(*issue, "--role", "reader", status=1, MOEPLACE_CA_FILE="").stderr
    )

    def served() -> str:
        context = ssl.create_default_context(cafile=str(trusted))
        with httpx.Client(verify=context, headers={"Authorization": f"Bearer {token}"}) as client:
            assert client.put(f"{api.url}{NODE}", json=SPEC).status_code in (200, 201)
            assert client.get(f"{api.url}/v1/clusters/east/placement").status_code == 403
            assert client.get(f"{api.url}/metrics").status_code == 403
            with client.stream("GET", f"{api.url}/healthz") as answer:
                connection = answer.extensions["network_stream"].get_extra_info("ssl_object")
                assert connection.version() in ("TLSv1.2", "TLSv1.3")
                return str(connection.getpeercert()["serialNumber"])

    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{api.url}/healthz")
    # The proxy says who asks: wrong tokens count against them, and not against it.
    context = ssl.create_default_context(cafile=str(trusted))
    with httpx.Client(verify=context, headers={"Authorization": "Bearer wrong"}) as client:
        for asking in ("203.0.113.1", "203.0.113.2"):
            forwarded = {"X-Forwarded-For": asking}
            refused = [client.get(f"{api.url}/metrics", headers=forwarded).status_code for _ in range(8)]
            assert refused.count(401) in range(3, 7)  # each of the two processes counts for itself
            assert set(refused) == {401, 429}
    before, workers = served(), api.workers()

    pem = chain.read_bytes()
    chain.write_text("no certificate")
    api.process.send_signal(signal.SIGHUP)
    eventually(lambda: "nothing is replaced" in api.log.read_text(), 10, "the new certificate is refused")
    assert (served(), api.workers()) == (before, workers)

    certificate(tmp_path, authority)
    assert chain.read_bytes() != pem
    api.process.send_signal(signal.SIGHUP)
    eventually(lambda: "all API processes are replaced" in api.log.read_text(), 60, "both are replaced")
    assert served() != before
    assert not workers & api.workers()

    revoked = moeplace("token", "revoke", token.split("~")[1], "--service", api.url, "--cluster", "east")
    assert "is revoked" in revoked.stdout
    context = ssl.create_default_context(cafile=str(trusted))
    with httpx.Client(verify=context, headers={"Authorization": f"Bearer {token}"}) as client:
        eventually(lambda: client.get(f"{api.url}{NODE}").status_code == 401, 5, "the token is refused")
    api.process.terminate()
    assert api.process.wait(15) == 0
