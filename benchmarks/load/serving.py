"""Placements served: 304 and 200 beside bare Starlette, and thousands of long polls woken together."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import redis as sync_redis

from app.storage import topics
from app.storage.documents import EncodedDocument, encode_document
from app.storage.keys import ClusterKeys
from benchmarks.load import fleet, servers, wrk
from benchmarks.load.reference import DOCUMENT

CONNECTIONS = 32
BODY_BYTES = 60_000
OPEN_AT_ONCE = 100
PATH = f"{fleet.BASE}/placement"


@dataclass(frozen=True)
class Row:
    answer: str
    bytes: int
    rate: float
    cpu_us: float
    reference_rate: float
    reference_cpu_us: float
    ratio: float


@dataclass(frozen=True)
class Polls:
    """woken_ms: from the publication to the whole answer at the client, which shares the processors."""

    polls: int
    bytes_each: int
    woken_p50_ms: float
    woken_p99_ms: float
    woken_last_ms: float


def _document(size: int, generation: int) -> EncodedDocument:
    return encode_document(json.dumps({"filling": "x" * size}).encode(), uid="u", generation=generation)


def _publish(client: sync_redis.Redis, document: EncodedDocument) -> None:
    """As the worker does it."""
    keys = ClusterKeys(fleet.CLUSTER)
    fields: dict[Any, Any] = {"json": document.json, "gzip": document.gzip, "zstd": document.zstd}
    version: dict[Any, Any] = {
        "uid": document.uid,
        "generation": document.generation,
        "digest": document.digest,
    }
    with client.pipeline(transaction=True) as pipe:
        pipe.hset(keys.placement_generation(document.generation), mapping={**fields, **version})
        pipe.hset(keys.placement, mapping=version)
        pipe.publish(keys.wake, topics.PLACEMENT)
        pipe.execute()


def measure(seconds: float, rounds: int) -> list[Row]:
    document = _document(BODY_BYTES, 1)
    found: dict[str, list[tuple[wrk.Load, float]]] = {}
    with servers.valkey() as redis:
        client = sync_redis.Redis.from_url(redis.url)
        client.set(DOCUMENT, document.json)
        _publish(client, document)
        known = {"If-None-Match": f'"{document.version}"'}
        for _ in range(rounds):
            with servers.api(redis.url) as api:
                for name, headers in (("304", known), ("200", {})):
                    found.setdefault(name, []).append(_loaded(api, PATH, headers, seconds))
            with servers.reference("plain", redis.url) as plain:
                for name, headers in (("304", known), ("200", {})):
                    found.setdefault(f"plain {name}", []).append(_loaded(plain, f"/{name}", headers, seconds))
    return [
        _row(name, size, found[name], found[f"plain {name}"])
        for name, size in (("304", 0), ("200", BODY_BYTES))
    ]


def _loaded(
    server: servers.Running, path: str, headers: dict[str, str], seconds: float
) -> tuple[wrk.Load, float]:
    wrk.get(server.url, path, seconds=1, connections=CONNECTIONS, headers=headers)
    before = server.cpu_seconds()
    load = wrk.get(server.url, path, seconds=seconds, connections=CONNECTIONS, headers=headers)
    assert load.refused == load.broken == 0, load
    return load, server.cpu_seconds() - before


def _row(
    name: str, size: int, ours: list[tuple[wrk.Load, float]], theirs: list[tuple[wrk.Load, float]]
) -> Row:
    rate, cpu = _mean(ours)
    reference_rate, reference_cpu = _mean(theirs)
    return Row(name, size, rate, cpu, reference_rate, reference_cpu, rate / reference_rate)


def _mean(several: list[tuple[wrk.Load, float]]) -> tuple[float, float]:
    requests = sum(load.requests for load, _ in several)
    return sum(load.rate for load, _ in several) / len(several), 1e6 * sum(
        cpu for _, cpu in several
    ) / requests


class _Poll(asyncio.Protocol):
    """One client that waits for the next placement; `answered` at the end of its answer."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._received = b""
        self.answered: float | None = None
        self.status = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if end:
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            if len(body) >= length:
                self.answered = time.perf_counter()
                self.status = int(head.split(b" ", 2)[1])


async def long_polls(number: int) -> Polls:
    """All wait; then a placement is published."""
    with servers.valkey() as redis, servers.api(redis.url) as api:
        client = sync_redis.Redis.from_url(redis.url)
        first = _document(500, 1)
        _publish(client, first)
        request = (
            f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=30\r\n"
            f'If-None-Match: "{first.version}"\r\n\r\n'
        ).encode()
        loop = asyncio.get_running_loop()
        port = int(api.url.rpartition(":")[2])
        wrk.get(api.url, PATH, seconds=1, connections=8, headers={})
        before = api.memory_bytes()
        polls: list[_Poll] = []
        transports = []
        for begin in range(0, number, OPEN_AT_ONCE):
            some = [
                loop.create_connection(lambda: _Poll(request), "127.0.0.1", port)
                for _ in range(min(OPEN_AT_ONCE, number - begin))
            ]
            for transport, poll in await asyncio.gather(*some):
                transports.append(transport)
                polls.append(poll)
        await asyncio.sleep(2)  # until all wait
        assert not any(poll.answered for poll in polls), [poll.status for poll in polls if poll.answered][:5]
        each = (api.memory_bytes() - before) // number
        published = time.perf_counter()
        _publish(client, _document(500, 2))
        deadline = published + 25
        while time.perf_counter() < deadline:
            await asyncio.sleep(0.02)
            if all(poll.answered for poll in polls):
                break
        for transport in transports:
            transport.close()
    assert {poll.status for poll in polls} == {200}
    woken = np.sort([1e3 * ((poll.answered or np.inf) - published) for poll in polls])
    return Polls(number, each, float(np.median(woken)), float(np.percentile(woken, 99)), float(woken[-1]))
