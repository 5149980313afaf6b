"""Models over HTTP."""

import pytest
from httpx import AsyncClient
from redis.asyncio import Redis

from app.models.presets import PRESETS
from app.models.store import MAX_MODELS
from app.storage.keys import ClusterKeys

pytestmark = pytest.mark.anyio

BASE = "/v1/clusters/alpha/models"
BLOCK = {"layer": 0, "experts": 4, "expert_bytes": 100, "top_k": 2}


async def test_registering_creates_the_cluster(api: AsyncClient, redis: Redis) -> None:
    """201 and Location for a new one; the same again changes nothing, other blocks change the digest."""
    first = await api.put(f"{BASE}/m", json={"preset": "TINY-moe"})
    assert first.status_code == 201
    assert first.headers["location"] == f"{BASE}/m"
    assert first.json()["source"] == "preset:tiny-moe"
    assert len(first.json()["blocks"]) == 6
    assert (await api.get("/v1/clusters/alpha")).json()["models"] == ["m"]
    revision = await redis.get(ClusterKeys("alpha").revision)
    again = await api.put(f"{BASE}/m", json={"preset": "tiny-moe"})
    assert again.status_code == 200
    assert again.json() == first.json()
    assert await redis.get(ClusterKeys("alpha").revision) == revision
    other = await api.put(f"{BASE}/m", json={"blocks": [BLOCK]})
    assert other.status_code == 200
    assert other.json()["digest"] != first.json()["digest"]
    assert other.json()["created_at"] == first.json()["created_at"]
    assert (await api.get(f"{BASE}/m")).json() == other.json()
    assert (await api.delete(f"{BASE}/m")).status_code == 204
    assert (await api.delete(f"{BASE}/m")).status_code == 404
    assert (await api.get(f"{BASE}/m")).status_code == 404


async def test_deleted_models_are_remembered_until_they_come_back(api: AsyncClient, redis: Redis) -> None:
    """Nodes may hold experts of a deleted model; registered anew it is a model like others."""
    deleted = ClusterKeys("alpha").deleted_models
    for name in "ab":
        await api.put(f"{BASE}/{name}", json={"blocks": [BLOCK]})
        await api.delete(f"{BASE}/{name}")
    assert await redis.zrange(deleted, 0, -1) == [b"a", b"b"]
    await api.put(f"{BASE}/a", json={"blocks": [BLOCK]})
    assert await redis.zrange(deleted, 0, -1) == [b"b"]


async def test_pages(api: AsyncClient) -> None:
    """In order of id, each once; beyond the last page there is none."""
    for name in "dbca":
        await api.put(f"{BASE}/{name}", json={"blocks": [BLOCK]})
    first = (await api.get(BASE, params={"limit": 3})).json()
    assert [model["model_id"] for model in first["models"]] == ["a", "b", "c"]
    rest = (await api.get(BASE, params={"limit": 3, "after": first["next_after"]})).json()
    assert [model["model_id"] for model in rest["models"]] == ["d"]
    assert rest["next_after"] is None
    assert (await api.get("/v1/clusters/none/models")).status_code == 404


async def test_limits(api: AsyncClient) -> None:
    """So many models, and so many experts, in a cluster; what is there can still be replaced."""
    for index in range(MAX_MODELS):
        assert (await api.put(f"{BASE}/m{index}", json={"blocks": [BLOCK]})).status_code == 201
    assert (await api.put(f"{BASE}/more", json={"blocks": [BLOCK]})).status_code == 409
    blocks = [BLOCK | {"layer": layer, "experts": 4096} for layer in range(64)]
    assert (await api.put(f"{BASE}/m0", json={"blocks": blocks})).status_code == 409
    assert (await api.put(f"{BASE}/m0", json={"blocks": blocks[:63]})).status_code == 200
    too_many = [BLOCK | {"layer": layer, "experts": 4096} for layer in range(65)]
    assert (await api.put(f"{BASE}/m0", json={"blocks": too_many})).status_code == 422


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, ""),
        ({"preset": "tiny-moe", "blocks": [BLOCK]}, ""),
        ({"preset": "gpt-9"}, "/preset"),
        ({"blocks": []}, "/blocks"),
        ({"blocks": [BLOCK | {"top_k": 5}]}, "/blocks/0"),
        ({"blocks": [BLOCK, BLOCK]}, "/blocks"),
        ({"blocks": [BLOCK | {"expert_bytes": 2**41}]}, "/blocks/0/expert_bytes"),
        ({"blocks": [BLOCK | {"expert_digests": ["0" * 64]}]}, "/blocks/0"),
        ({"huggingface_config": {"model_type": "bert"}}, "/huggingface_config/model_type"),
    ],
)
async def test_faults_have_pointers(api: AsyncClient, body: dict[str, object], pointer: str) -> None:
    """And nothing is created by a request that is refused."""
    response = await api.put(f"{BASE}/m", json=body)
    assert response.status_code == 422
    assert [fault["pointer"] for fault in response.json()["errors"]] == [pointer]
    assert (await api.get("/v1/clusters")).json() == {"clusters": []}


async def test_every_preset_registers(api: AsyncClient) -> None:
    """All known architectures are within the limits."""
    for name in PRESETS:
        assert (await api.put(f"/v1/clusters/{name}/models/{name}", json={"preset": name})).status_code == 201
