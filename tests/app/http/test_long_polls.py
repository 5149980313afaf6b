"""Long polls over HTTP: they end with the change, with 304 in time, when a newer comes, when it drains."""

import asyncio
import gzip
import time
from typing import Any

import orjson
import pytest
import zstandard
from fastapi import FastAPI
from httpx import AsyncClient, Response
from redis.asyncio import Redis

from app.http.waiting import Waiters
from app.storage import topics
from app.storage.documents import encode_document, queue_document
from app.storage.keys import ClusterKeys

pytestmark = pytest.mark.anyio

BASE = "/v1/clusters/alpha"
ASSIGNMENT = f"{BASE}/nodes/n/assignment"
KEYS = ClusterKeys("alpha")


@pytest.fixture(autouse=True)
async def node(api: AsyncClient) -> None:
    devices = [{"device_id": "g", "memory_bytes": 1000}]
    assert (await api.put(f"{BASE}/nodes/n", json={"instance_uid": "i", "devices": devices})).is_success


async def write(redis: Redis, generation: int, key: str, topic: str) -> None:
    body = orjson.dumps({"generation": generation, "filling": ["x" * 10] * 500})
    async with redis.pipeline(transaction=True) as pipe:
        queue_document(pipe, key, encode_document(body, uid="u", generation=generation))
        topics.announce(pipe, KEYS, topic)
        await pipe.execute()


async def assign(redis: Redis, generation: int) -> None:
    await write(redis, generation, KEYS.assignment("n"), topics.assignment("n"))


async def poll(api: AsyncClient, tag: str | None, seconds: int = 30, coding: str | None = None) -> Response:
    headers = {"Prefer": f"wait={seconds}"}
    if tag is not None:
        headers["If-None-Match"] = tag
    if coding is not None:
        headers["Accept-Encoding"] = coding
    return await api.get(ASSIGNMENT, headers=headers)


async def held(application: FastAPI, count: int) -> None:
    """Until so many requests wait."""
    waiters: Waiters = application.state.waiters
    async with asyncio.timeout(5):
        while waiters.count != count:  # noqa: ASYNC110 - there is no event for it, outside of tests
            await asyncio.sleep(0.005)


async def test_a_change_ends_the_wait(application: FastAPI, api: AsyncClient, redis: Redis) -> None:
    """The new document comes as soon as it is there; the one known before is waited over."""
    await assign(redis, 1)
    tag = (await poll(api, None)).headers["etag"]
    waiting = asyncio.create_task(poll(api, tag))
    await held(application, 1)
    await assign(redis, 2)
    response = await asyncio.wait_for(waiting, 5)
    assert response.status_code == 200
    assert response.json()["generation"] == 2
    assert response.headers["preference-applied"] == "wait=30"
    assert (await poll(api, tag)).json()["generation"] == 2


async def test_what_is_not_there_yet_can_be_waited_for(
    application: FastAPI, api: AsyncClient, redis: Redis
) -> None:
    """404 after the wait, or the first document as soon as it is written; nobody waits for the unknown."""
    assert (await poll(api, None, seconds=1)).status_code == 404
    waiting = asyncio.create_task(poll(api, None))
    await held(application, 1)
    await assign(redis, 1)
    assert (await asyncio.wait_for(waiting, 5)).status_code == 200
    began = time.monotonic()
    unknown = await api.get(f"{BASE}/nodes/nobody/assignment", headers={"Prefer": "wait=30"})
    assert unknown.status_code == 404
    assert time.monotonic() - began < 10


async def test_unchanged_is_304_when_time_is_up(api: AsyncClient, redis: Redis) -> None:
    """In time, under the tag that the client named, in whatever coding."""
    await assign(redis, 1)
    for coding in ("identity", "gzip", "zstd"):
        tag = (await poll(api, None, coding=coding)).headers["etag"]
        assert tag.endswith(f'-{coding}"') == (coding != "identity")
        response = await poll(api, tag, seconds=1)
        assert response.status_code == 304
        assert response.headers["etag"] == tag


async def test_codings_carry_the_same_document(api: AsyncClient, redis: Redis) -> None:
    """What is sent is in the coding it says, and not coded a second time on its way."""
    await assign(redis, 1)
    plain = (await api.get(ASSIGNMENT, headers={"Accept-Encoding": "identity"})).content
    inflate: dict[str, Any] = {
        "gzip": gzip.decompress,
        "zstd": lambda body: zstandard.ZstdDecompressor().decompress(body),
    }
    for coding, inflated in inflate.items():
        async with api.stream("GET", ASSIGNMENT, headers={"Accept-Encoding": coding}) as response:
            assert response.headers["content-encoding"] == coding
            raw = b"".join([chunk async for chunk in response.aiter_raw()])
        assert len(raw) < len(plain)
        assert inflated(raw) == plain


async def test_one_waits_per_node(application: FastAPI, api: AsyncClient, redis: Redis) -> None:
    """A newer request of the same node ends the older with 304, and gets the change itself."""
    await assign(redis, 1)
    tag = (await poll(api, None)).headers["etag"]
    older = asyncio.create_task(poll(api, tag))
    await held(application, 1)
    newer = asyncio.create_task(poll(api, tag))
    assert (await asyncio.wait_for(older, 5)).status_code == 304
    await held(application, 1)
    await assign(redis, 2)
    assert (await asyncio.wait_for(newer, 5)).status_code == 200


async def test_draining_ends_all_waits(application: FastAPI, api: AsyncClient, redis: Redis) -> None:
    """With 304, at once; who comes later does not wait."""
    await assign(redis, 1)
    tag = (await poll(api, None)).headers["etag"]
    waiting = asyncio.create_task(poll(api, tag))
    await held(application, 1)
    application.state.waiters.drain()
    assert (await asyncio.wait_for(waiting, 5)).status_code == 304
    assert (await asyncio.wait_for(poll(api, tag), 5)).status_code == 304


async def test_no_moves_yet_is_an_empty_list_to_wait_on(
    application: FastAPI, api: AsyncClient, redis: Redis
) -> None:
    """A node to which nothing was ever released polls as any other."""
    url = f"{BASE}/nodes/n/moves"
    first = await api.get(url)
    assert first.status_code == 200
    assert first.json()["moves"] == []
    headers = {"If-None-Match": first.headers["etag"], "Prefer": "wait=30"}
    waiting = asyncio.create_task(api.get(url, headers=headers))
    await held(application, 1)
    await write(redis, 1, KEYS.moves("n"), topics.moves("n"))
    assert (await asyncio.wait_for(waiting, 5)).json()["generation"] == 1
    assert (await api.get(f"{BASE}/nodes/nobody/moves")).status_code == 404
