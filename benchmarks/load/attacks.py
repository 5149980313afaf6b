"""Requests made to cost a process much more than they cost their sender, who has one node's token, or none.

`ATTACKS` is a list to add to. Each entry is a coroutine that is given a client of the service and the name of
a registered node, sends what it has once, and looks at no answer; its docstring says what it is after.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

import httpx
from isal import igzip

from benchmarks.load import fleet

MSGPACK = "application/msgpack"
JSON = "application/json"
NDJSON = "application/x-ndjson"

Attack = Callable[[httpx.AsyncClient, str], Awaitable[None]]


async def experts_in_gzip(client: httpx.AsyncClient, node: str) -> None:
    """A heartbeat of half a megabyte that stands for fourteen million experts."""
    await _heartbeat(client, node, _numbers(14_000_000), coding="gzip")


async def experts_of_no_number(client: httpx.AsyncClient, node: str) -> None:
    """A heartbeat in which each of a million experts is a fault to be reported."""
    await _heartbeat(client, node, _strings(1_000_000))


async def bomb_in_zeros(client: httpx.AsyncClient, node: str) -> None:
    """64 MiB of blanks in a small body, for a route that takes a few bytes."""
    headers = {"Content-Type": JSON, "Content-Encoding": "gzip"}
    await client.put(fleet.BASE, content=_blanks(), headers=headers)


async def keys_of_an_object(client: httpx.AsyncClient, node: str) -> None:
    """Latencies to two hundred thousand nodes that cannot be."""
    spec = b'{"instance_uid":"i-1","devices":[],"latency":{"peers_seconds":{' + _keys(200_000) + b"}}}"
    await client.put(f"{fleet.BASE}/nodes/{node}", content=spec, headers={"Content-Type": JSON})


async def nils(client: httpx.AsyncClient, node: str) -> None:
    """A window of a megabyte of nils: values to be counted one by one."""
    for head in (b"", b"\x81\xa6layers", b"\x81\xa6routes"):
        await _telemetry(client, node, head + b"\xdd\x00\x10\x00\x00" + b"\xc0" * (1 << 20), MSGPACK)


async def nils_cut_short(client: httpx.AsyncClient, node: str) -> None:
    """The same, so large as is read at once, and without its end: is there more than one value in it?"""
    await _telemetry(client, node, b"\xdd\x00\x0f\xff\xf8" + b"\xc0" * ((1 << 20) - 16), MSGPACK)


async def nils_streamed(client: httpx.AsyncClient, node: str) -> None:
    """The same after a value that ends the first window, so that the body is framed."""
    await _telemetry(client, node, b"\xc0\xdd\x00\x20\x00\x00" + b"\xc0" * (2 << 20), MSGPACK)


async def arrays_in_arrays(client: httpx.AsyncClient, node: str) -> None:
    """Nested as deep as a body is long."""
    await _telemetry(client, node, b"\x91" * (1 << 20), MSGPACK)
    await _heartbeat(client, node, b"[" * 500_000)


async def lists_of_numbers(client: httpx.AsyncClient, node: str) -> None:
    """Windows of the largest size in which counts may be lists, with as many numbers as fit."""
    body = b'{"model_id":"v3","layers":[{"layer":3,"counts":[' + b"0," * 250_000 + b"0]}]}"
    await _telemetry(client, node, body, JSON)


async def lines_of_nothing(client: httpx.AsyncClient, node: str) -> None:
    """A stream of lines that are no windows."""
    await _telemetry(client, node, b"{}\n" * 300_000, NDJSON)


async def holdings_without_end(client: httpx.AsyncClient, node: str) -> None:
    """Heartbeats that each add as many experts of no model as one may name."""
    for number in range(2, 5):
        experts = ",".join(map(str, range(4096)))
        held = ",".join(
            f'{{"model_id":"none-{number}","layer":{layer},"experts":[{experts}]}}' for layer in range(64)
        )
        report = f'{{"instance_uid":"i-1","sequence_number":{number},"holds_changed":{{"added":[{held}]}}}}'
        await client.put(f"{fleet.BASE}/nodes/{node}/status", content=report, headers={"Content-Type": JSON})


async def models_of_digests(client: httpx.AsyncClient, node: str) -> None:
    """Digests that are none, one fault each."""
    body = b'{"blocks":[{"layer":0,"experts":1,"expert_bytes":1,"top_k":1,"expert_digests":[' + _strings(
        500_000
    )
    await client.put(f"{fleet.BASE}/models/m", content=body + b"]}]}", headers={"Content-Type": JSON})


async def pages_of_nodes(client: httpx.AsyncClient, node: str) -> None:
    """Nodes that each tell a thousand latencies, read in one page."""
    peers = {f"{'p' * 50}{index}": 0.001 for index in range(1000)}
    await client.put(f"{fleet.BASE}/nodes/{node}", json={**_spec(1), "latency": {"peers_seconds": peers}})
    await client.get(f"{fleet.BASE}/nodes", params={"limit": 1000})


async def labels(client: httpx.AsyncClient, node: str) -> None:
    """60 kB of text beside a node, read again in every list of nodes."""
    text = {f"{'k' * 50}{index}": "v" * 50 for index in range(600)}
    await client.put(f"{fleet.BASE}/nodes/{node}", json={**_spec(1), "labels": text})
    await client.get(f"{fleet.BASE}/nodes", params={"limit": 1000})


async def registrations(client: httpx.AsyncClient, node: str) -> None:
    """A node that registers again and again, as another each time: everybody would have to read it anew."""
    for number in range(80):
        await client.put(f"{fleet.BASE}/nodes/{node}", json=_spec(1 + number % 2))


ATTACKS: list[Attack] = [
    experts_in_gzip,
    experts_of_no_number,
    bomb_in_zeros,
    keys_of_an_object,
    nils,
    nils_cut_short,
    nils_streamed,
    arrays_in_arrays,
    lists_of_numbers,
    lines_of_nothing,
    holdings_without_end,
    models_of_digests,
    pages_of_nodes,
    labels,
    registrations,
]


def _spec(memory_bytes: int) -> dict[str, Any]:
    return {"instance_uid": "i-1", "devices": [{"device_id": "gpu0", "memory_bytes": memory_bytes}]}


async def _telemetry(client: httpx.AsyncClient, node: str, body: bytes, media_type: str) -> None:
    path = f"{fleet.BASE}/nodes/{node}/telemetry"
    await client.post(path, content=body, headers={"Content-Type": media_type})


async def _heartbeat(
    client: httpx.AsyncClient, node: str, experts: bytes, *, coding: str | None = None
) -> None:
    body = (
        b'{"instance_uid":"i-1","sequence_number":1,"holds":[{"model_id":"v3","layer":3,"experts":['
        + experts
        + b"]}]}"
    )
    headers = {"Content-Type": JSON}
    if coding is not None:
        body, headers = igzip.compress(body), {**headers, "Content-Encoding": coding}
    await client.put(f"{fleet.BASE}/nodes/{node}/status", content=body, headers=headers)


@cache
def _numbers(count: int) -> bytes:
    return b"1," * count + b"1"


@cache
def _strings(count: int) -> bytes:
    return b'"",' * count + b'""'


@cache
def _blanks() -> bytes:
    return igzip.compress(b"{" + b" " * (64 << 20) + b"}")


@cache
def _keys(count: int) -> bytes:
    return b",".join(b'"-%d":-1' % index for index in range(count))
