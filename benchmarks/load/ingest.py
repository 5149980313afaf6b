"""Windows a second of one API process, beside the least that an application doing the same could do."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import redis as sync_redis

from app.storage.keys import ClusterKeys
from benchmarks.load import fleet, servers, wrk
from benchmarks.load.reference import STREAM

CONNECTIONS = 32
FEW_CONNECTIONS = 8
NODES = 64
SAMPLED = 64
MSGPACK = "application/msgpack"
JSON = "application/json"
PATH = f"{fleet.BASE}/nodes/n%04d/telemetry"


@dataclass(frozen=True)
class Row:
    """One form of the window: requests a second and microseconds of processor time a request; `ratio`: of the
    reference's rate in the same run. Each connection posts again as soon as it is answered: with
    `CONNECTIONS` the process is full, with `few` = `FEW_CONNECTIONS` it is nearly."""

    form: str
    bytes: int
    rate: float
    cpu_us: float
    p99_ms: float
    few_rate: float
    few_p99_ms: float
    reference: str
    reference_rate: float
    reference_cpu_us: float
    reference_p99_ms: float
    ratio: float
    accepted: int
    stored: int


@dataclass(frozen=True)
class Measured:
    """accepted: with those of the warming."""

    load: wrk.Load
    cpu_seconds: float
    accepted: int

    @staticmethod
    def cpu_us(several: list[Measured]) -> float:
        return 1e6 * sum(one.cpu_seconds for one in several) / sum(one.load.requests for one in several)

    @staticmethod
    def rate(several: list[Measured]) -> float:
        return sum(one.load.rate for one in several) / len(several)


def measure(seconds: float, rounds: int) -> list[Row]:
    mp, js = fleet.msgpack_window(), fleet.json_window()
    rows = [_compare("MessagePack, packed", mp, MSGPACK, "bare", seconds, rounds)]
    sampled = fleet.msgpack_window(SAMPLED)
    rows.append(_compare("MessagePack, 64 routes a layer", sampled, MSGPACK, "bare", seconds, rounds))
    rows.append(_compare("JSON, lists", js, JSON, "validated", seconds, rounds))
    return rows


def _compare(form: str, body: bytes, media_type: str, against: str, seconds: float, rounds: int) -> Row:
    """Service and reference in turn, `rounds` times each."""
    ours: list[Measured] = []
    theirs: list[Measured] = []
    few: list[Measured] = []
    stored = 0
    keys = ClusterKeys(fleet.CLUSTER)
    with servers.valkey() as redis:
        for turn in range(rounds):
            with (
                servers.api(redis.url) as api,
                emptied(redis.url, keys.telemetry, keys.telemetry_bytes) as total,
            ):
                asyncio.run(fleet.register(api.url, NODES))
                first = fleet.SEQUENCE + turn * 10_000_000
                ours.append(_loaded(api, body, media_type, first, seconds))
                few.append(_loaded(api, body, media_type, first + 5_000_000, seconds, FEW_CONNECTIONS))
            stored += total()
            with servers.reference(against, redis.url) as other, emptied(redis.url, STREAM):
                theirs.append(_loaded(other, body, media_type, fleet.SEQUENCE, seconds))
    return Row(
        form,
        len(body),
        Measured.rate(ours),
        Measured.cpu_us(ours),
        max(one.load.p99_ms for one in ours),
        Measured.rate(few),
        max(one.load.p99_ms for one in few),
        against,
        Measured.rate(theirs),
        Measured.cpu_us(theirs),
        max(one.load.p99_ms for one in theirs),
        Measured.rate(ours) / Measured.rate(theirs),
        sum(one.accepted for one in [*ours, *few]),
        stored,
    )


def _loaded(
    server: servers.Running,
    body: bytes,
    media_type: str,
    first: int,
    seconds: float,
    connections: int = CONNECTIONS,
) -> Measured:
    """After a moment of warming."""

    def load(first: int, seconds: float) -> wrk.Load:
        return wrk.post(
            server.url,
            PATH,
            body,
            fleet.SEQUENCE,
            media_type=media_type,
            first=first,
            nodes=NODES,
            seconds=seconds,
            connections=connections,
        )

    warm = load(first, 1)
    before = server.cpu_seconds()
    done = load(first + 1_000_000, seconds)
    return Measured(done, server.cpu_seconds() - before, warm.accepted + done.accepted)


@contextlib.contextmanager
def emptied(redis_url: str, stream: str, size: str | None = None) -> Iterator[Callable[[], int]]:
    """Have the stream emptied all the time, in the place of a worker; tells how many entries it ever had."""
    stop = threading.Event()
    client = sync_redis.Redis.from_url(redis_url)

    def empty() -> None:
        while not stop.wait(0.05):
            with client.pipeline(transaction=True) as pipe:
                pipe.xtrim(stream, maxlen=0, approximate=False)
                if size:
                    pipe.set(size, 0)
                pipe.execute()

    def total() -> int:
        with contextlib.suppress(sync_redis.ResponseError):
            return int(client.xinfo_stream(stream)["entries-added"])
        return 0

    before = total()
    thread = threading.Thread(target=empty)
    thread.start()
    try:
        yield lambda: total() - before
    finally:
        stop.set()
        thread.join()
