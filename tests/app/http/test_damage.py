"""A damaged record in Redis is a problem that names its key, for those alone who need it."""

import asyncio
from typing import Any

import pytest
from httpx import AsyncClient, Response
from redis.asyncio import Redis

from app.storage.documents import encode_document, queue_document
from app.storage.keys import ClusterKeys

pytestmark = pytest.mark.anyio

NODE = {"instance_uid": "i", "devices": [{"device_id": "gpu0", "memory_bytes": 1}]}
POINTERS: list[dict[Any, Any]] = [
    {"uid": "u", "generation": "not a number", "digest": "d"},
    {"uid": "u", "generation": "7"},
    {"uid": "u", "generation": "7", "digest": "\udcff".encode("utf-8", "surrogateescape").decode("latin-1")},
    {"uid": "u", "generation": "7", "digest": 'd" x'},
]


async def _placement(redis: Redis, cluster_id: str) -> None:
    keys = ClusterKeys(cluster_id)
    document = encode_document(b'{"x": 1}', uid="u", generation=7)
    async with redis.pipeline(transaction=True) as pipe:
        queue_document(pipe, keys.placement_generation(7), document)
        pipe.hset(keys.placement, mapping={"uid": "u", "generation": 7, "digest": document.digest})
        await pipe.execute()


def _names(answer: Response, key: str) -> bool:
    return (
        answer.status_code == 503
        and answer.json()["type"] == "/problems/damaged-record"
        and key in answer.json()["detail"]
        and int(answer.headers["retry-after"]) >= 5
    )


@pytest.mark.parametrize("pointer", POINTERS)
async def test_a_damaged_pointer_leaves_nobody_waiting(
    api: AsyncClient, redis: Redis, pointer: dict[Any, Any]
) -> None:
    """Hundreds of readers, who wait or not, are told at once which key it is and when to come again; those of
    another cluster, whose read goes to Redis together with theirs, get their placement."""
    for cluster_id in ("east", "west"):
        assert (await api.put(f"/v1/clusters/{cluster_id}", json={})).status_code == 201
    await _placement(redis, "west")
    keys = ClusterKeys("east")
    await redis.hset(keys.placement, mapping=pointer)
    waiting = {"Prefer": "wait=30", "If-None-Match": '"u.6.d"'}
    async with asyncio.timeout(20):
        answers = await asyncio.gather(
            api.get("/v1/clusters/west/placement"),
            *(api.get("/v1/clusters/east/placement", headers=waiting) for _ in range(100)),
            *(api.get("/v1/clusters/east/placement") for _ in range(20)),
        )
    assert answers[0].status_code == 200
    assert all(_names(answer, keys.placement) for answer in answers[1:])
    await redis.delete(keys.placement)
    await _placement(redis, "east")
    assert (await api.get("/v1/clusters/east/placement")).status_code == 200


async def test_a_pointer_to_nothing_names_what_is_missing(api: AsyncClient, redis: Redis) -> None:
    """It is not as though there were no placement yet."""
    assert (await api.put("/v1/clusters/east", json={})).status_code == 201
    await _placement(redis, "east")
    await redis.delete(ClusterKeys("east").placement_generation(7))
    answer = await api.get("/v1/clusters/east/placement")
    assert _names(answer, ClusterKeys("east").placement_generation(7))


@pytest.mark.parametrize("field", ["json", "gzip", "zstd", "digest"])
async def test_a_damaged_document_is_not_served(api: AsyncClient, redis: Redis, field: str) -> None:
    """What lacks a part, or begins with other bytes than its coding does, is no document."""
    assert (await api.put("/v1/clusters/east", json={})).status_code == 201
    assert (await api.put("/v1/clusters/east/nodes/n", json=NODE)).status_code == 201
    key = ClusterKeys("east").assignment("n")
    async with redis.pipeline(transaction=True) as pipe:
        queue_document(pipe, key, encode_document(b'{"x": "' + b"y" * 2000 + b'"}', uid="u", generation=7))
        await pipe.execute()
    await redis.hset(key, field, b"\x00 damaged")
    assert _names(await api.get("/v1/clusters/east/nodes/n/assignment"), key)
    await redis.hdel(key, field)
    assert _names(await api.get("/v1/clusters/east/nodes/n/assignment"), key)


async def test_a_key_of_another_type_is_named(api: AsyncClient, redis: Redis) -> None:
    """As a damaged one."""
    assert (await api.put("/v1/clusters/east", json={})).status_code == 201
    key = ClusterKeys("east").placement_status
    await redis.set(key, "text")
    assert _names(await api.get("/v1/clusters/east/placement/status"), key)


async def test_a_damaged_node_is_named(api: AsyncClient, redis: Redis) -> None:
    """Its own heartbeats and reads get the problem; those of others go on."""
    for name in ("a", "b"):
        assert (await api.put(f"/v1/clusters/east/nodes/{name}", json=NODE)).status_code == 201
    keys = ClusterKeys("east")
    await redis.hset(keys.nodes, "a", b"{damaged")
    beat = {"instance_uid": "i", "sequence_number": 1}
    assert _names(await api.put("/v1/clusters/east/nodes/a/status", json=beat), keys.nodes)
    assert _names(await api.get("/v1/clusters/east/nodes/a"), keys.nodes)
    assert (await api.put("/v1/clusters/east/nodes/b/status", json=beat)).status_code == 200
