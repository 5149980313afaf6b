"""A process about to end waits for no body, and says so."""

import asyncio
import time
from collections.abc import AsyncIterator

import orjson
import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from redis.asyncio import Redis

from tests.app.telemetry.cluster import PATH, register, window

pytestmark = pytest.mark.anyio


async def slowly(first: bytes, rest: bytes, after_seconds: float) -> AsyncIterator[bytes]:
    yield first
    await asyncio.sleep(after_seconds)
    yield rest


async def test_a_body_that_does_not_come_is_given_up(application: FastAPI, api: AsyncClient) -> None:
    """Whether it began before or after: 503 within the second that bodies have, and nothing is created."""
    headers = {"Content-Type": "application/json"}
    waiting = asyncio.create_task(
        api.put("/v1/clusters/early", content=slowly(b"{", b"}", 30), headers=headers)
    )
    await asyncio.sleep(0.05)
    began = time.monotonic()
    application.state.admission.receiving.begin_to_drain()
    for refused in (
        await waiting,
        await api.put("/v1/clusters/late", content=slowly(b"{", b"}", 30), headers=headers),
    ):
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "about to end" in refused.json()["detail"]
    assert time.monotonic() - began < 5
    assert (await api.get("/v1/clusters")).json() == {"clusters": []}


async def test_a_body_that_comes_in_time_is_taken(application: FastAPI, api: AsyncClient) -> None:
    """Draining loses no request that is nearly here."""
    application.state.admission.receiving.begin_to_drain()
    body = slowly(b"{", b"}", 0.1)
    taken = await api.put("/v1/clusters/c", content=body, headers={"Content-Type": "application/json"})
    assert taken.status_code == 201


async def test_a_stream_is_ended(application: FastAPI, api: AsyncClient, redis: Redis) -> None:
    """One that would go on for ever ends with what it has brought so far, and each of that counts once."""
    await register(redis)
    sent = 0

    async def windows() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield orjson.dumps(window(sent)) + b"\n"
            await asyncio.sleep(0.05)

    stream = asyncio.create_task(
        api.post(PATH, content=windows(), headers={"Content-Type": "application/x-ndjson"})
    )
    while sent < 3:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.01)
    application.state.admission.receiving.begin_to_drain()
    async with asyncio.timeout(5):
        ended = await stream
    assert ended.status_code == 503
    assert "windows before it were accepted" in ended.json()["detail"]
    again = await api.post(
        PATH, content=orjson.dumps(window(1)), headers={"Content-Type": "application/json"}
    )
    assert again.json()["duplicate"] is True
