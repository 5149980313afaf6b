"""More than one API process can do, from clients of every kind, for as long as asked: what it answers, what
it keeps in memory, and that every window it acknowledged is there once. Meanwhile `ATTACKERS` clients go
through `benchmarks.load.attacks`.

Clients would be on other machines. Here they have the same processors, so that they run at a lower priority
(`NICENESS`) than the service and those that measure it.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import re
import resource
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from typing import Protocol

import httpx
import numpy as np
import psutil
from isal import igzip

from app.storage.keys import ClusterKeys
from benchmarks.load import fleet, ingest, servers, wrk
from benchmarks.load.attacks import ATTACKS

FAST = 600
"""Connections that post as fast as they are answered, or at the rate asked for."""
SLOW = HALF_OPEN = MALICIOUS = 150
ATTACKERS = 2
"""Clients that make one attack after another; each has a node of its own."""
NICENESS = 10
SETTLING_SECONDS = 5.0
"""Until buffers and caches have the size that they keep."""
ANSWER_SECONDS = 10.0
"""What the probe and the patient client wait for an answer."""


@dataclass(frozen=True)
class Latencies:
    """Milliseconds of the answers that came; None where none came. unanswered: requests that nothing, or
    something unexpected, came to."""

    answered: int
    unanswered: int
    p50_ms: float | None
    p99_ms: float | None
    longest_ms: float | None


@dataclass(frozen=True)
class Processors:
    """Processors in use on average, by whom: the API process, Valkey, the clients, and what is not ours.
    waited: part of the time that the API's event loop could run and had no processor."""

    api: float
    redis: float
    clients: float
    others: float
    waited: float


@dataclass(frozen=True)
class Overload:
    """flood: windows/s that the fast connections offered together, None for as many as were answered; memory:
    of the API's resident set, after the settling, and the most it ever was; probe: GET /healthz meanwhile;
    patient: windows of a client that comes back when it is asked to; recovered: a second of load by 8
    connections after it; broken: fast connections that were closed or timed out."""

    seconds: float
    flood: float | None
    processors: Processors
    attacks: int
    accepted_rate: float
    refused_rate: float
    broken: int
    accepted: int
    stored: int
    counted: int
    memory_first_bytes: int
    memory_last_bytes: int
    memory_peak_bytes: int
    p50_ms: float
    p99_ms: float
    probe: Latencies
    patient: Latencies
    patient_refused: int
    recovered_refused: int
    recovered_p99_ms: float


def measure(seconds: float, flood: float | None) -> Overload:
    """`flood`: windows/s that the fast connections offer together; None: as many as are answered."""
    keys = ClusterKeys(fleet.CLUSTER)
    body = fleet.msgpack_window()
    with (
        servers.valkey() as redis,
        servers.api(redis.url) as api,
        ingest.emptied(redis.url, keys.telemetry, keys.telemetry_bytes) as total,
    ):
        # The first of these further ones is the patient client's, the others are the attackers'.
        asyncio.run(fleet.register(api.url, ingest.NODES + 1 + ATTACKERS))
        stop = threading.Event()
        memory: list[tuple[float, int]] = []
        probe, patient = Answers(), Answers()
        threads = [
            threading.Thread(target=_watch, args=(api, stop, memory)),
            threading.Thread(target=_probe, args=(api.url, stop, probe)),
            threading.Thread(target=_post_patiently, args=(api.url, stop, patient)),
        ]
        began = time.monotonic()
        used = Used(api, redis)
        with _bad_clients(api.url) as bad:
            for thread in threads:
                thread.start()
            try:
                load = _post(api.url, body, fleet.SEQUENCE, seconds, FAST, flood, NICENESS)
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
            processors = used.processors(bad.cpu_seconds())
            attacks = bad.attacks.value
        # A window of now: what is ten minutes old is refused.
        after = _post(api.url, fleet.msgpack_window(), fleet.SEQUENCE + 500_000_000, 1, 8)
        time.sleep(1.0)
        counted = _counted(api.url)
        stored = total()
        peak = api.peak_memory_bytes()
    settled = [size for at, size in memory if at - began > min(SETTLING_SECONDS, seconds / 4)]
    third = max(1, len(settled) // 3)
    return Overload(
        seconds,
        flood,
        processors,
        attacks,
        load.accepted / load.seconds,
        load.refused / load.seconds,
        load.broken,
        load.accepted + after.accepted + len(patient.milliseconds),
        stored,
        counted,
        int(np.median(settled[:third])),
        int(np.median(settled[-third:])),
        peak,
        load.p50_ms,
        load.p99_ms,
        probe.latencies(),
        patient.latencies(),
        patient.refused,
        after.refused,
        after.p99_ms,
    )


@dataclass
class Answers:
    """What one client saw; see `Latencies`. refused: answers of 503, after each of which it came back."""

    milliseconds: list[float] = field(default_factory=list)
    unanswered: int = 0
    refused: int = 0

    def latencies(self) -> Latencies:
        some = self.milliseconds
        p50, p99, longest = np.percentile(some, (50, 99, 100)) if some else (None, None, None)
        return Latencies(
            len(some),
            self.unanswered,
            *(None if value is None else float(value) for value in (p50, p99, longest)),
        )


class Used:
    """Processor time from now on, of the servers, of wrk and of the machine."""

    def __init__(self, api: servers.Running, redis: servers.Running) -> None:
        self._api, self._redis = api, redis
        self._began = time.monotonic()
        self._before = self._seconds()

    def _seconds(self) -> tuple[float, ...]:
        children, machine = resource.getrusage(resource.RUSAGE_CHILDREN), psutil.cpu_times()
        own = resource.getrusage(resource.RUSAGE_SELF)
        return (
            self._api.cpu_seconds(),
            self._redis.cpu_seconds(),
            self._api.waiting_seconds(),
            children.ru_utime + children.ru_stime + own.ru_utime + own.ru_stime,
            sum(machine) - machine.idle - machine.iowait - machine.guest - machine.guest_nice,
        )

    def processors(self, bad_clients_seconds: float) -> Processors:
        """On average until now."""
        passed = time.monotonic() - self._began
        api, redis, waited, clients, machine = (
            (after - before) / passed for after, before in zip(self._seconds(), self._before, strict=True)
        )
        clients += bad_clients_seconds / passed
        return Processors(api, redis, clients, max(0.0, machine - api - redis - clients), waited)


def _post(
    url: str,
    body: bytes,
    first: int,
    seconds: float,
    connections: int,
    rate: float | None = None,
    niceness: int = 0,
) -> wrk.Load:
    return wrk.post(
        url,
        ingest.PATH,
        body,
        fleet.SEQUENCE,
        media_type=ingest.MSGPACK,
        first=first,
        nodes=ingest.NODES,
        seconds=seconds,
        connections=connections,
        rate=rate,
        niceness=niceness,
    )


def _watch(api: servers.Running, stop: threading.Event, memory: list[tuple[float, int]]) -> None:
    while not stop.wait(0.5):
        memory.append((time.monotonic(), api.memory_bytes()))


def _probe(url: str, stop: threading.Event, found: Answers) -> None:
    with httpx.Client(base_url=url, timeout=ANSWER_SECONDS) as client:
        while not stop.wait(0.2):
            began = time.perf_counter()
            with contextlib.suppress(httpx.TransportError):
                if client.get("/healthz").status_code == 200:
                    found.milliseconds.append(1e3 * (time.perf_counter() - began))
                    continue
            found.unanswered += 1


def _post_patiently(url: str, stop: threading.Event, found: Answers) -> None:
    """Ten windows a second, each until it is accepted. The milliseconds are those of its last attempt."""
    known = b"\xce" + fleet.SEQUENCE.to_bytes(4, "big")
    number = fleet.SEQUENCE
    headers = {"Content-Type": ingest.MSGPACK}
    with httpx.Client(base_url=url, timeout=ANSWER_SECONDS, headers=headers) as client:
        while not stop.wait(0.1):
            number += 1
            body = fleet.msgpack_window().replace(known, b"\xce" + number.to_bytes(4, "big"), 1)
            while not _posted(client, body, found):
                if stop.is_set():
                    return


def _posted(client: httpx.Client, body: bytes, found: Answers) -> bool:
    """Whether it was accepted, now or when an answer was lost."""
    began = time.perf_counter()
    try:
        answer = client.post(ingest.PATH % ingest.NODES, content=body)
    except httpx.TransportError:
        found.unanswered += 1
        return False
    if answer.status_code == 503:
        found.refused += 1
        time.sleep(float(answer.headers["Retry-After"]))
        return False
    if answer.status_code != 200:
        found.unanswered += 1
        return False
    found.milliseconds.append(1e3 * (time.perf_counter() - began))
    return True


def _counted(url: str) -> int:
    """Windows accepted, as the API counts them."""
    text = httpx.get(f"{url}/metrics", timeout=10).text
    found = re.search(r'moeplace_telemetry_windows_total\{outcome="accepted"\} (\S+)', text)
    return 0 if found is None else int(float(found[1]))


# --- clients that do no good


class Counter(Protocol):
    """An integer that processes share."""

    value: int


class _BadClients:
    """In a process of their own, so that nobody who measures waits for them."""

    def __init__(self, url: str) -> None:
        spawned = multiprocessing.get_context("spawn")
        self.attacks = spawned.Value("i", 0)
        self._stop = spawned.Event()
        self._process = spawned.Process(target=_play, args=(url, self._stop, self.attacks))
        self._process.start()
        assert self._process.pid is not None
        self._pid = self._process.pid

    def cpu_seconds(self) -> float:
        times = psutil.Process(self._pid).cpu_times()
        return float(times.user + times.system)

    def end(self) -> None:
        self._stop.set()
        self._process.join(30)
        self._process.kill()
        self._process.join()


@contextlib.contextmanager
def _bad_clients(url: str) -> Iterator[_BadClients]:
    clients = _BadClients(url)
    try:
        yield clients
    finally:
        clients.end()


def _play(url: str, stop: Event, attacks: Counter) -> None:
    os.nice(NICENESS)
    asyncio.run(_others(url, stop, attacks))


async def _others(url: str, stop: Event, attacks: Counter) -> None:
    port = int(url.rpartition(":")[2])
    kinds: list[tuple[int, Callable[[int], Awaitable[None]]]] = [
        (SLOW, _slow),
        (HALF_OPEN, _half_open),
        (MALICIOUS // 3, _bomb),
        (MALICIOUS // 3, _endless_head),
        (MALICIOUS // 3, _garbage),
    ]
    tasks = [asyncio.create_task(_again(kind, port)) for number, kind in kinds for _ in range(number)]
    nodes = [fleet.node_name(ingest.NODES + 1 + index) for index in range(ATTACKERS)]
    tasks += [asyncio.create_task(_attack(url, node, attacks)) for node in nodes]
    await asyncio.to_thread(stop.wait)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _attack(url: str, node: str, attacks: Counter) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        while True:
            for attack in ATTACKS:
                with contextlib.suppress(httpx.TransportError):
                    await attack(client, node)
                attacks.value += 1


async def _again(kind: Callable[[int], Awaitable[None]], port: int) -> None:
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await kind(port)
        await asyncio.sleep(0.5)


def _head(length: int, extra: str = "") -> bytes:
    path = ingest.PATH % 0
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {ingest.MSGPACK}\r\n{extra}"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


@contextlib.asynccontextmanager
async def _connected(port: int):  # type: ignore[no-untyped-def]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _slow(port: int) -> None:
    """A body that comes by a few bytes a second."""
    async with _connected(port) as (_, writer):
        writer.write(_head(60_000))
        for _ in range(60):
            writer.write(b"\x00" * 16)
            await writer.drain()
            await asyncio.sleep(1)


async def _half_open(port: int) -> None:
    """Half a head, and silence until the service hangs up."""
    async with _connected(port) as (reader, writer):
        writer.write(_head(60_000)[:40])
        await reader.read(-1)


_BOMB = igzip.compress(b"\x00" * (64 << 20))


async def _bomb(port: int) -> None:
    """64 MiB of zeros in 64 KiB of gzip."""
    async with _connected(port) as (reader, writer):
        writer.write(_head(len(_BOMB), "Content-Encoding: gzip\r\nConnection: close\r\n") + _BOMB)
        await reader.read(-1)


async def _endless_head(port: int) -> None:
    async with _connected(port) as (_, writer):
        writer.write(_head(60_000)[:-2])
        while True:
            writer.write(b"X-More: " + b"x" * 1000 + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)


async def _garbage(port: int) -> None:
    """A window of the right length that is none."""
    async with _connected(port) as (reader, writer):
        body = b"\x87" + bytes(range(256)) * 200
        writer.write(_head(len(body), "Connection: close\r\n") + body)
        await reader.read(-1)
