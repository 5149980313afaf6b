"""Optimizations over HTTP: asked for, waited for, cancelled, listed."""

import asyncio
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from httpx import AsyncClient
from redis.asyncio import Redis

from app.optimizations.schemas import MAX_RETAINED, OptimizationRecord, OptimizationState
from app.optimizations.store import revise
from app.storage.jobs import MAX_QUEUED, Job, JobKind
from app.storage.keys import ClusterKeys
from solvers.algorithms import ALGORITHMS

pytestmark = pytest.mark.anyio

BASE = "/v1/clusters/alpha/optimizations"
KEYS = ClusterKeys("alpha")


@pytest.fixture(autouse=True)
async def fleet(api: AsyncClient) -> None:
    for node_id in ("a", "b"):
        devices = [{"device_id": "g", "memory_bytes": 1000}]
        body = {"instance_uid": "i", "devices": devices}
        assert (await api.put(f"/v1/clusters/alpha/nodes/{node_id}", json=body)).status_code == 201


async def end(redis: Redis, optimization_id: str) -> None:
    """As the worker does when it has tried."""

    def change(record: OptimizationRecord) -> OptimizationRecord:
        update: dict[str, Any] = {"state": OptimizationState.FAILED, "finished_at": datetime.now(UTC)}
        return record.model_copy(update=update | {"error": "no model is registered"})

    assert await revise(redis, "alpha", optimization_id, change) is not None


async def test_asking_queues_a_job(api: AsyncClient, redis: Redis) -> None:
    """202, the record QUEUED at its Location, and a job that names it."""
    response = await api.post(BASE, json={"validate_only": True, "seed": 4})
    assert response.status_code == 202
    identity = response.json()["optimization_id"]
    assert response.headers["location"] == f"{BASE}/{identity}"
    assert (await api.get(response.headers["location"])).json() == response.json()
    jobs = cast("list[bytes]", await redis.lrange(KEYS.jobs, 0, -1))
    assert [Job.model_validate_json(job) for job in jobs] == [Job(kind=JobKind.OPTIMIZATION, id=identity)]


async def test_waiting_for_the_end(api: AsyncClient, redis: Redis) -> None:
    """With Prefer: wait the answer comes with 200 as soon as it has ended, and with 202 when time is up."""
    slow = await api.post(BASE, json={}, headers={"Prefer": "wait=1"})
    assert slow.status_code == 202
    assert slow.headers["preference-applied"] == "wait=1"

    await redis.delete(KEYS.jobs)

    async def finish() -> None:
        _, job = cast("tuple[bytes, bytes]", await redis.blpop([KEYS.jobs], timeout=4))
        await end(redis, Job.model_validate_json(job).id)

    asked, _ = await asyncio.gather(api.post(BASE, json={}, headers={"Prefer": "wait=30"}), finish())
    assert asked.status_code == 200
    assert asked.json()["state"] == "FAILED"
    tag = (await api.get(asked.headers["location"])).headers["etag"]
    unchanged = await api.get(asked.headers["location"], headers={"If-None-Match": tag})
    assert unchanged.status_code == 304


async def test_cancelling(api: AsyncClient, redis: Redis) -> None:
    """What waits or runs is cancelled, once or twice; what has ended otherwise cannot be."""
    first = (await api.post(BASE, json={})).json()["optimization_id"]
    for _ in range(2):
        cancelled = await api.post(f"{BASE}/{first}:cancel")
        assert cancelled.status_code == 200
        assert cancelled.json()["state"] == "CANCELLED"
    second = (await api.post(BASE, json={})).json()["optimization_id"]
    await end(redis, second)
    assert (await api.post(f"{BASE}/{second}:cancel")).status_code == 409
    assert (await api.post(f"{BASE}/none:cancel")).status_code == 404


async def test_the_queue_is_bounded_and_the_history_too(api: AsyncClient, redis: Redis) -> None:
    """429 while too many wait; the oldest records are forgotten; pages go from the newest to the oldest."""
    made = []
    for _ in range(MAX_RETAINED + 5):
        await redis.delete(KEYS.jobs)
        made.append((await api.post(BASE, json={})).json()["optimization_id"])
    seen: list[str] = []
    before: dict[str, str] = {}
    while True:
        page = (await api.get(BASE, params={"limit": "30", **before})).json()
        seen += [record["optimization_id"] for record in page["optimizations"]]
        if page["next_before"] is None:
            break
        before = {"before": page["next_before"]}
    assert seen == made[: -MAX_RETAINED - 1 : -1]
    assert await redis.exists(KEYS.optimization(made[0])) == 0
    assert (await api.get(BASE, params={"before": made[0]})).status_code == 422
    for _ in range(MAX_QUEUED - 1):
        assert (await api.post(BASE, json={})).status_code == 202
    refused = await api.post(BASE, json={})
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"algorithm": "magic"}, "/algorithm"),
        ({"overrides": {"remove_nodes": ["a"]}}, "/overrides"),
        ({"validate_only": True, "overrides": {"remove_nodes": ["z"]}}, "/overrides/remove_nodes/0"),
        ({"validate_only": True, "overrides": {"capacity_bytes": {"z": 1}}}, "/overrides/capacity_bytes/z"),
        ({"validate_only": True, "overrides": {"remove_nodes": ["a", "b"]}}, "/overrides/remove_nodes"),
        ({"time_limit_seconds": 1e9}, "/time_limit_seconds"),
        ({"seed": -1}, "/seed"),
    ],
)
async def test_faults_have_pointers(
    api: AsyncClient, redis: Redis, body: dict[str, Any], pointer: str
) -> None:
    """And nothing is queued."""
    response = await api.post(BASE, json=body)
    assert response.status_code == 422
    assert [fault["pointer"] for fault in response.json()["errors"]] == [pointer]
    assert await redis.llen(KEYS.jobs) == 0


async def test_algorithms_are_those_that_may_be_asked_for(api: AsyncClient) -> None:
    """Each with a summary; one that is not among them is refused."""
    listed = (await api.get("/v1/algorithms")).json()["algorithms"]
    assert [found["name"] for found in listed] == list(ALGORITHMS)
    assert all(found["summary"] for found in listed)
    assert (await api.post(BASE, json={"algorithm": "none of them"})).status_code == 422
