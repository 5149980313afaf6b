"""Placements over HTTP: an operator's, the history, the way back."""

from typing import Any

import pytest
from httpx import AsyncClient, Response
from redis.asyncio import Redis

from app.placements.schemas import PlacementOutcome
from app.storage.keys import ClusterKeys

pytestmark = pytest.mark.anyio

BASE = "/v1/clusters/alpha"
BLOCK = {"layer": 3, "experts": 4, "expert_bytes": 100, "top_k": 2}


def holds(**nodes: list[int]) -> dict[str, Any]:
    return {
        "holds": [
            {"node_id": node_id, "holds": [{"model_id": "tiny", "layer": 3, "experts": experts}]}
            for node_id, experts in nodes.items()
        ]
    }


@pytest.fixture
async def fleet(api: AsyncClient) -> None:
    """A model of four experts, and two nodes that hold three each, `b` on three small devices."""
    assert (await api.put(f"{BASE}/models/tiny", json={"blocks": [BLOCK]})).status_code == 201
    for node_id, memory in (("a", [350]), ("b", [120, 120, 120])):
        devices = [{"device_id": f"gpu{i}", "memory_bytes": size} for i, size in enumerate(memory)]
        body = {"instance_uid": "1", "devices": devices}
        assert (await api.put(f"{BASE}/nodes/{node_id}", json=body)).status_code == 201


async def put(api: AsyncClient, body: dict[str, Any], **headers: str) -> Response:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return await api.put(f"{BASE}/placement", json=body, headers=fields)


async def first(api: AsyncClient) -> Response:
    response = await put(api, holds(a=[0, 1], b=[2, 3]), if_none_match="*")
    assert response.status_code == 200, response.text
    return response


async def test_absent_placement_is_a_problem(api: AsyncClient, fleet: None) -> None:
    """Before the first placement there is none: 404, whether the cluster is known or not."""
    for cluster in ("alpha", "unknown"):
        response = await api.get(f"/v1/clusters/{cluster}/placement")
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.usefixtures("fleet")
async def test_writes_need_the_version_in_force(api: AsyncClient) -> None:
    """428 without If-Match, 412 with a stale or a weak one, 200 with the one in force in any coding."""
    assert (await put(api, holds(a=[0, 1], b=[2, 3]))).status_code == 428
    assert (await put(api, holds(a=[0, 1], b=[2, 3]), if_match='"x.1.y"')).status_code == 412
    tag = (await first(api)).headers["etag"]
    assert (await put(api, holds(a=[0, 1], b=[2, 3]), if_none_match="*")).status_code == 412
    assert (await put(api, holds(a=[1, 2], b=[0, 3]), if_match=f"W/{tag}")).status_code == 412
    coded = f'{tag[:-1]}-zstd"'
    second = await put(api, holds(a=[1, 2], b=[0, 3]), if_match=f'"other", {coded}')
    assert second.status_code == 200
    assert second.json()["metadata"]["generation"] == 2
    assert second.json()["metadata"]["supersedes"] == 1
    assert (await put(api, holds(a=[0, 1], b=[2, 3]), if_match=tag)).status_code == 412


@pytest.mark.usefixtures("fleet")
async def test_reads_follow_writes(api: AsyncClient, redis: Redis) -> None:
    """A version that is known is served without asking Redis, and never once another is written here, is
    named by a client, or its cluster is gone."""
    tag = (await first(api)).headers["etag"]
    for generation in range(2, 40):
        body = holds(a=[0, 1], b=[2, 3]) if generation % 2 else holds(a=[2, 3], b=[0, 1])
        tag = (await put(api, body, if_match=tag)).headers["etag"]
        for _ in range(2):
            assert (await api.get(f"{BASE}/placement")).headers["etag"] == tag
            known = await api.get(f"{BASE}/placement", headers={"If-None-Match": tag})
            assert known.status_code == 304

    # Written elsewhere, and the announcement is lost: who has the newer version is not told of the older one.
    keys = ClusterKeys("alpha")
    await redis.hset(keys.placement, "generation", 1)
    assert (await api.get(f"{BASE}/placement")).headers["etag"] == tag
    newer = tag.replace(".39.", ".1.")
    assert (await api.get(f"{BASE}/placement", headers={"If-None-Match": newer})).status_code == 304
    for node_id in ("a", "b"):
        await redis.zrem(keys.node_leases, node_id)
    assert (await api.delete(BASE)).status_code == 204
    assert (await api.get(f"{BASE}/placement")).status_code == 404


@pytest.mark.usefixtures("fleet")
async def test_the_same_placement_is_no_new_generation(api: AsyncClient) -> None:
    """Order and empty layers do not matter: what is held decides."""
    tag = (await first(api)).headers["etag"]
    again = await put(api, holds(b=[3, 2], a=[1, 0]), if_match=tag)
    assert again.status_code == 200
    assert again.headers["etag"] == tag


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        (holds(a=[0, 1], z=[2, 3]), "/holds/1/node_id", "UNKNOWN_NODE"),
        (holds(a=[0, 4], b=[2, 3]), "/holds/0/holds/0/experts/1", "UNKNOWN_EXPERT"),
        (holds(a=[0, 0], b=[2, 3]), "/holds/0/holds/0/experts/1", "REPEATED_EXPERT"),
        (holds(a=[0, 1, 2, 3]), "/holds/0/holds", "OUT_OF_MEMORY"),
        (holds(a=[0, 1], b=[2]), "/holds", "NOT_COVERED"),
        (
            {"holds": [{"node_id": "a", "holds": [{"model_id": "no", "layer": 3, "experts": [0]}]}]},
            "/holds/0/holds/0/model_id",
            "UNKNOWN_MODEL_ID",
        ),
        (
            {"holds": [{"node_id": "a", "holds": [{"model_id": "tiny", "layer": 0, "experts": [0]}]}]},
            "/holds/0/holds/0/layer",
            "UNKNOWN_LAYER",
        ),
    ],
)
async def test_faults_have_pointers(api: AsyncClient, body: dict[str, Any], pointer: str, code: str) -> None:
    """What cannot come into force is refused, with the place of the fault."""
    response = await put(api, body, if_none_match="*")
    assert response.status_code == 422
    faults = [(fault["pointer"], fault["code"]) for fault in response.json()["errors"]]
    assert (pointer, code) in faults
    assert (await api.get(f"{BASE}/placement")).status_code == 404


async def test_experts_must_fit_on_devices(api: AsyncClient, fleet: None) -> None:
    """Memory enough in sum is not enough: each expert lies on one device."""
    block = {"layer": 3, "experts": 2, "expert_bytes": 150, "top_k": 1}
    assert (await api.put(f"{BASE}/models/tiny", json={"blocks": [block]})).status_code == 200
    response = await put(api, holds(a=[0], b=[1]), if_none_match="*")
    assert [fault["code"] for fault in response.json()["errors"]] == ["CANNOT_BE_PACKED"]


@pytest.mark.usefixtures("fleet")
async def test_history_is_kept_immutable_and_pruned(api: AsyncClient) -> None:
    """Generations are listed newest first in pages, never change, and those pruned are gone, not unknown."""
    settings = {"retained_generations": 3}
    assert (await api.put("/v1/clusters/alpha", json=settings)).status_code == 200
    tag = (await first(api)).headers["etag"]
    for generation in range(2, 6):
        body = holds(a=[0, 1], b=[2, 3]) if generation % 2 else holds(a=[2, 3], b=[0, 1])
        response = await put(api, body, if_match=tag)
        assert response.json()["metadata"]["generation"] == generation
        tag = response.headers["etag"]
    page = (await api.get(f"{BASE}/placements", params={"limit": 2})).json()
    assert [entry["metadata"]["generation"] for entry in page["placements"]] == [5, 4]
    rest = (await api.get(f"{BASE}/placements", params={"before": page["next_before"]})).json()
    assert [entry["metadata"]["generation"] for entry in rest["placements"]] == [3]
    assert rest["next_before"] is None
    kept = await api.get(f"{BASE}/placements/3")
    assert "immutable" in kept.headers["cache-control"]
    unchanged = await api.get(f"{BASE}/placements/3", headers={"If-None-Match": kept.headers["etag"]})
    assert unchanged.status_code == 304
    assert "immutable" in unchanged.headers["cache-control"]
    assert (await api.get(f"{BASE}/placements/2")).status_code == 410
    assert (await api.get(f"{BASE}/placements/9")).status_code == 404
    assert (await api.get(f"{BASE}/placements/0")).status_code == 422
    for limit in (0, 101):
        assert (await api.get(f"{BASE}/placements", params={"limit": limit})).status_code == 422


@pytest.mark.usefixtures("fleet")
async def test_rollback(api: AsyncClient) -> None:
    """An earlier placement comes into force as a new generation, unless the fleet cannot hold it any more."""
    tag = (await first(api)).headers["etag"]
    await put(api, holds(a=[2, 3], b=[0, 1]), if_match=tag)
    back = await api.post(f"{BASE}/placement:rollback", json={"to_generation": 1})
    assert back.status_code == 200
    assert back.json()["metadata"] | {"generation": 3, "supersedes": 2} == back.json()["metadata"]
    assert back.json()["evidence"]["algorithm"] == "rollback"
    assert back.headers["etag"].split(".")[2] == tag.split(".")[2]
    assert (await api.post(f"{BASE}/placement:rollback", json={"to_generation": 7})).status_code == 404
    assert (await api.delete(f"{BASE}/nodes/a")).status_code == 202
    refused = await api.post(f"{BASE}/placement:rollback", json={"to_generation": 1})
    assert refused.status_code == 409
    assert refused.json()["errors"][0]["code"] == "DRAINING_NODE"


@pytest.mark.usefixtures("fleet")
async def test_rollback_from_what_was_seen(api: AsyncClient) -> None:
    """With If-Match only while that version is in force: 412 otherwise, and nothing is rolled back."""
    seen = (await first(api)).headers["etag"]
    now = (await put(api, holds(a=[2, 3], b=[0, 1]), if_match=seen)).headers["etag"]
    ask = f"{BASE}/placement:rollback"
    stale = await api.post(ask, json={"to_generation": 1}, headers={"If-Match": seen})
    assert stale.status_code == 412
    assert (await api.get(f"{BASE}/placement")).json()["metadata"]["generation"] == 2
    back = await api.post(ask, json={"to_generation": 1}, headers={"If-Match": now})
    assert back.json()["metadata"]["generation"] == 3


@pytest.mark.usefixtures("fleet")
async def test_pause_and_resume(api: AsyncClient, redis: Redis) -> None:
    """The worker reads whether it is paused where the API writes it."""
    for verb, flag in (("pause", b"1"), ("pause", b"1"), ("resume", b"0")):
        response = await api.post(f"{BASE}/placement:{verb}")
        assert response.json() == {"paused": flag == b"1"}
        assert await redis.hget(ClusterKeys("alpha").control, "paused") == flag
    assert (await api.post("/v1/clusters/none/placement:pause")).status_code == 404


@pytest.mark.usefixtures("fleet")
async def test_outcome_is_told_beside_the_immutable_placement(api: AsyncClient, redis: Redis) -> None:
    """Before anything is measured the outcome says so; what the worker writes is shown by itself and in the
    list, and the placement's own document and ETag stay as they were; 404 for what never was."""
    await first(api)
    document = await api.get(f"{BASE}/placements/1")
    answer = await api.get(f"{BASE}/placements/1/outcome")
    assert answer.status_code == 200
    assert answer.json()["converged_at"] is None
    assert answer.json()["achieved_improvement_ratio"] is None
    measured = answer.json() | {
        "converged_at": "2026-01-01T00:00:00.000Z",
        "achieved_improvement_ratio": 0.25,
    }
    key = ClusterKeys("alpha").placement_generation(1)
    await redis.hset(key, "outcome", PlacementOutcome.model_validate(measured).model_dump_json())
    assert (await api.get(f"{BASE}/placements/1/outcome")).json() == measured
    (entry,) = (await api.get(f"{BASE}/placements")).json()["placements"]
    assert entry["outcome"] == measured
    again = await api.get(f"{BASE}/placements/1")
    assert again.content == document.content
    assert again.headers["etag"] == document.headers["etag"]
    assert (await api.get(f"{BASE}/placements/7/outcome")).status_code == 404
