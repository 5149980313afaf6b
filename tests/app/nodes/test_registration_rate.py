"""A node that registers again and again disturbs nobody."""

from typing import Any

import pytest
from httpx import AsyncClient
from redis.asyncio import Redis

from app.nodes.store import REGISTRATION_SECONDS, REGISTRATIONS_AT_ONCE
from app.storage.keys import ClusterKeys

pytestmark = pytest.mark.anyio

BASE = "/v1/clusters/alpha/nodes"
KEYS = ClusterKeys("alpha")


def spec(**changes: Any) -> dict[str, Any]:
    return {"instance_uid": "i", "devices": [{"device_id": "g", "memory_bytes": 1000}], **changes}


async def test_registrations_of_one_node_have_a_rate(api: AsyncClient) -> None:
    """429 with Retry-After from the eleventh of a burst on; another node is not affected."""
    answers = [await api.put(f"{BASE}/n", json=spec(instance_uid=f"i{number}")) for number in range(40)]
    taken = [answer for answer in answers if answer.is_success]
    assert REGISTRATIONS_AT_ONCE <= len(taken) <= REGISTRATIONS_AT_ONCE + 10
    refused = answers[-1]
    assert refused.status_code == 429
    assert refused.json()["type"] == "/problems/rate-limited"
    assert 1 <= int(refused.headers["Retry-After"]) <= REGISTRATION_SECONDS
    assert (await api.put(f"{BASE}/m", json=spec())).status_code == 201


async def test_an_agent_started_again_invalidates_nothing_of_the_others(
    api: AsyncClient, redis: Redis
) -> None:
    """A new instance of the same specification leaves the cluster's revision, by which windows under way are
    judged and for which workers read everything anew; other memory raises it."""
    await api.put(f"{BASE}/n", json=spec())
    revision = await redis.get(KEYS.revision)
    await api.put(f"{BASE}/n", json=spec(instance_uid="j"))
    assert await redis.get(KEYS.revision) == revision
    larger = [{"device_id": "g", "memory_bytes": 2000}]
    await api.put(f"{BASE}/n", json=spec(instance_uid="j", devices=larger))
    assert await redis.get(KEYS.revision) != revision


async def test_registering_again_revives_a_lost_node(api: AsyncClient, redis: Redis) -> None:
    """The same registration begins the lease anew, and the next heartbeat asks what the node holds."""
    await api.put(f"{BASE}/n", json=spec())
    await api.put(f"{BASE}/n/status", json={"instance_uid": "i", "sequence_number": 1, "holds": []})
    await redis.zadd(KEYS.node_leases, {"n": 1000.0})
    assert (await api.get(f"{BASE}/n")).json()["condition"] == "LOST"
    assert (await api.put(f"{BASE}/n", json=spec())).json()["condition"] == "LIVE"
    beat = await api.put(f"{BASE}/n/status", json={"instance_uid": "i", "sequence_number": 2})
    assert beat.json()["directives"] == ["REPORT_FULL_STATE"]
