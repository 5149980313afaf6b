"""More than one API process can do, from clients of every kind, for as long as asked: what it answers, what
it keeps in memory, and that every window it acknowledged is there once. Meanwhile `ATTACKERS` clients go
through `benchmarks.load.attacks`."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx
import numpy as np
from isal import igzip

from app.storage.keys import ClusterKeys
from benchmarks.load import fleet, ingest, servers, wrk
from benchmarks.load.attacks import ATTACKS

FAST = 600
"""Connections that post as fast as they are answered."""
SLOW = HALF_OPEN = MALICIOUS = 150
ATTACKERS = 2
"""Clients that make one attack after another; each has a node of its own."""
SETTLING_SECONDS = 5.0
"""Until buffers and caches have the size that they keep."""


@dataclass(frozen=True)
class Overload:
    """memory: of the API's resident set, after the settling; probe: GET /healthz meanwhile; patient: windows
    of a client that comes back when it is told to; recovered: a second of load by 8 connections after it."""

    seconds: float
    accepted_rate: float
    refused_rate: float
    accepted: int
    stored: int
    counted: int
    memory_first_bytes: int
    memory_last_bytes: int
    memory_peak_bytes: int
    p50_ms: float
    p99_ms: float
    probe_p99_ms: float | None
    patient_accepted: int
    patient_refused: int
    patient_p99_ms: float
    recovered_refused: int
    recovered_p99_ms: float


def measure(seconds: float) -> Overload:
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
        probes: list[float] = []
        patient = Patient()
        threads = [
            threading.Thread(target=_watch, args=(api, stop, memory)),
            threading.Thread(target=_probe, args=(api.url, stop, probes)),
            threading.Thread(target=_post_patiently, args=(api.url, stop, patient)),
            threading.Thread(target=lambda: asyncio.run(_others(api.url, stop))),
        ]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        try:
            load = _post(api.url, body, fleet.SEQUENCE, seconds, FAST)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        # A window of now: what is ten minutes old is refused.
        after = _post(api.url, fleet.msgpack_window(), fleet.SEQUENCE + 500_000_000, 1, 8)
        time.sleep(1.0)
        counted = _counted(api.url)
        stored = total()
    settled = [size for at, size in memory if at - began > min(SETTLING_SECONDS, seconds / 4)]
    third = max(1, len(settled) // 3)
    return Overload(
        seconds,
        load.accepted / load.seconds,
        load.refused / load.seconds,
        load.accepted + after.accepted + len(patient.milliseconds),
        stored,
        counted,
        int(np.median(settled[:third])),
        int(np.median(settled[-third:])),
        max(size for _, size in memory),
        load.p50_ms,
        load.p99_ms,
        float(np.percentile(probes, 99)) if probes else None,
        len(patient.milliseconds),
        patient.refused,
        float(np.percentile(patient.milliseconds, 99)),
        after.refused,
        after.p99_ms,
    )


def _post(url: str, body: bytes, first: int, seconds: float, connections: int) -> wrk.Load:
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
    )


def _watch(api: servers.Running, stop: threading.Event, memory: list[tuple[float, int]]) -> None:
    while not stop.wait(0.5):
        memory.append((time.monotonic(), api.memory_bytes()))


def _probe(url: str, stop: threading.Event, milliseconds: list[float]) -> None:
    with httpx.Client(base_url=url, timeout=10) as client:
        while not stop.wait(0.2):
            began = time.perf_counter()
            assert client.get("/healthz").status_code == 200
            milliseconds.append(1e3 * (time.perf_counter() - began))


@dataclass
class Patient:
    """milliseconds: that accepted windows took, each with its last attempt."""

    milliseconds: list[float] = field(default_factory=list)
    refused: int = 0


def _post_patiently(url: str, stop: threading.Event, found: Patient) -> None:
    """Ten windows a second, each until it is accepted."""
    known = b"\xce" + fleet.SEQUENCE.to_bytes(4, "big")
    number = fleet.SEQUENCE
    with httpx.Client(base_url=url, timeout=10, headers={"Content-Type": ingest.MSGPACK}) as client:
        while not stop.wait(0.1):
            number += 1
            body = fleet.msgpack_window().replace(known, b"\xce" + number.to_bytes(4, "big"), 1)
            while True:
                began = time.perf_counter()
                answer = client.post(ingest.PATH % ingest.NODES, content=body)
                if answer.status_code != 503:
                    break
                found.refused += 1
                time.sleep(float(answer.headers["Retry-After"]))
            assert answer.status_code == 200, answer.text
            found.milliseconds.append(1e3 * (time.perf_counter() - began))


def _counted(url: str) -> int:
    """Windows accepted, as the API counts them."""
    text = httpx.get(f"{url}/metrics", timeout=10).text
    found = re.search(r'moeplace_telemetry_windows_total\{outcome="accepted"\} (\S+)', text)
    return 0 if found is None else int(float(found[1]))


# --- clients that do no good


async def _others(url: str, stop: threading.Event) -> None:
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
    tasks += [asyncio.create_task(_attack(url, node)) for node in nodes]
    await asyncio.to_thread(stop.wait)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _attack(url: str, node: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        while True:
            for attack in ATTACKS:
                with contextlib.suppress(httpx.TransportError):
                    await attack(client, node)


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
