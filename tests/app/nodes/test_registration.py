"""Registering, reading, listing and draining nodes."""

import asyncio
import json
from typing import Any

import pytest
from httpx import AsyncClient
from redis.asyncio import Redis

from app.nodes.store import MAX_NODES
from app.storage.keys import ClusterKeys

pytestmark = pytest.mark.anyio

BASE = "/v1/clusters/alpha/nodes"
KEYS = ClusterKeys("alpha")


def spec(**changes: Any) -> dict[str, Any]:
    return {"instance_uid": "i", "devices": [{"device_id": "g", "memory_bytes": 1000}], **changes}


async def test_the_same_registration_changes_nothing(api: AsyncClient, redis: Redis) -> None:
    """201 the first time; again 200 and no news for workers, but a lease that begins anew; a changed spec
    keeps uid and holdings."""
    first = await api.put(f"{BASE}/n", json=spec())
    assert first.status_code == 201
    assert first.headers["location"] == f"{BASE}/n"
    assert first.json()["condition"] == "LIVE"
    assert first.json()["intervals"]["heartbeat_seconds"] > 0
    revision = await redis.get(KEYS.revision)
    again = await api.put(f"{BASE}/n", json=spec())
    assert again.status_code == 200
    assert again.json()["lease"]["expires_at"] > first.json()["lease"]["expires_at"]
    assert {**again.json(), "lease": None} == {**first.json(), "lease": None}
    assert await redis.get(KEYS.revision) == revision
    await redis.sadd(KEYS.holdings("n"), "m/0/0")
    changed = await api.put(f"{BASE}/n", json=spec(base_url="http://n"))
    assert changed.json()["uid"] == first.json()["uid"]
    assert await redis.scard(KEYS.holdings("n")) == 1
    assert await redis.get(KEYS.revision) != revision


async def test_labels_of_older_agents_are_ignored(api: AsyncClient, redis: Redis) -> None:
    """A registration with labels, whatever their size, is the same as one without them, and a record that an
    earlier version stored with labels is read."""
    plain = await api.put(f"{BASE}/n", json=spec())
    labelled = await api.put(f"{BASE}/n", json=spec(labels={"rack": "r" * 60_000}))
    assert labelled.status_code == 200
    assert {**labelled.json(), "lease": None} == {**plain.json(), "lease": None}
    assert "labels" not in labelled.json()["spec"]
    stored = json.loads(await redis.hget(KEYS.nodes, "n") or b"")
    stored["spec"]["labels"] = {"rack": "r1"}
    await redis.hset(KEYS.nodes, "n", json.dumps(stored))
    assert (await api.get(f"{BASE}/n")).json() == labelled.json()


async def test_holdings_versions_never_come_again(api: AsyncClient, redis: Redis) -> None:
    """A worker reads holdings again where their version is another: so it is for a new instance, and for a
    node of the same name after all of the old one was forgotten."""

    async def version() -> int:
        return int(await redis.hget(KEYS.holdings_versions, "n") or 0)

    await api.put(f"{BASE}/n", json=spec())
    first = await version()
    await redis.hincrby(KEYS.holdings_versions, "n", 3)
    await asyncio.sleep(0.02)
    await api.put(f"{BASE}/n", json=spec(instance_uid="j"))
    second = await version()
    assert second > first + 3
    await redis.hdel(KEYS.holdings_versions, "n")
    await redis.hdel(KEYS.nodes, "n")
    await asyncio.sleep(0.02)
    await api.put(f"{BASE}/n", json=spec())
    assert await version() > second


async def test_draining_stays_until_gone(api: AsyncClient) -> None:
    """DELETE drains, once or twice; a restart of the agent does not end it."""
    await api.put(f"{BASE}/n", json=spec())
    for _ in range(2):
        drained = await api.delete(f"{BASE}/n")
        assert drained.status_code == 202
        assert drained.json()["condition"] == "DRAINING"
    restarted = await api.put(f"{BASE}/n", json=spec(instance_uid="j"))
    assert restarted.json()["condition"] == "DRAINING"
    assert (await api.delete(f"{BASE}/nobody")).status_code == 404


async def test_a_drained_node_that_registers_again_stays_out(api: AsyncClient, redis: Redis) -> None:
    """What left, drained, comes back as drained; its agent hears so with every heartbeat until an operator
    lets it in."""
    await api.put(f"{BASE}/n", json=spec())
    await redis.hdel(KEYS.nodes, "n")
    await redis.zadd(KEYS.drained_nodes, {"n": 1.0})
    again = await api.put(f"{BASE}/n", json=spec(instance_uid="j"))
    assert (again.status_code, again.json()["condition"]) == (201, "DRAINED")
    beat = {"instance_uid": "j", "sequence_number": 1, "holds": []}
    heard = await api.put(f"{BASE}/n/status", json=beat)
    assert "DRAIN" in heard.json()["directives"]
    let_in = await api.post(f"{BASE}/n:undrain")
    assert (let_in.status_code, let_in.json()["condition"]) == (200, "LIVE")
    heard = await api.put(f"{BASE}/n/status", json={**beat, "sequence_number": 2})
    assert "DRAIN" not in heard.json()["directives"]
    assert (await api.post(f"{BASE}/n:undrain")).status_code == 200


async def test_a_drain_is_undone(api: AsyncClient) -> None:
    """:undrain ends a drain that is under way."""
    await api.put(f"{BASE}/n", json=spec())
    await api.delete(f"{BASE}/n")
    assert (await api.post(f"{BASE}/n:undrain")).json()["condition"] == "LIVE"
    assert (await api.get(f"{BASE}/n")).json()["condition"] == "LIVE"


async def test_a_node_that_is_away_is_let_in_before_it_comes(api: AsyncClient, redis: Redis) -> None:
    """:undrain of a node that left gives 204, and it registers as any other; a node never heard of is 404."""
    await api.put(f"{BASE}/m", json=spec())
    await redis.zadd(KEYS.drained_nodes, {"n": 1.0})
    assert (await api.post(f"{BASE}/n:undrain")).status_code == 204
    assert (await api.put(f"{BASE}/n", json=spec())).json()["condition"] == "LIVE"
    assert (await api.post(f"{BASE}/nobody:undrain")).status_code == 404


async def test_many_at_once(api: AsyncClient, redis: Redis) -> None:
    """Nodes that register at the same moment do not get into each other's way, up to the limit."""
    answers = await asyncio.gather(*(api.put(f"{BASE}/n{index}", json=spec()) for index in range(100)))
    assert {answer.status_code for answer in answers} == {201}
    async with redis.pipeline() as pipe:
        for index in range(100, MAX_NODES):
            pipe.hset(KEYS.nodes, f"x{index}", "{}")
        await pipe.execute()
    assert (await api.put(f"{BASE}/one-more", json=spec())).status_code == 409
    assert (await api.put(f"{BASE}/n1", json=spec(instance_uid="j"))).status_code == 200


async def test_pages(api: AsyncClient) -> None:
    """In order of id, each once."""
    for name in "cabd":
        await api.put(f"{BASE}/{name}", json=spec())
    first = (await api.get(BASE, params={"limit": 2})).json()
    rest = (await api.get(BASE, params={"limit": 2, "after": first["next_after"]})).json()
    assert [node["node_id"] for node in first["nodes"] + rest["nodes"]] == list("abcd")
    assert rest["next_after"] is None
    for limit in (0, 1001):
        assert (await api.get(BASE, params={"limit": limit})).status_code == 422


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (spec(devices=[]), "/devices"),
        (spec(devices=[{"device_id": "g", "memory_bytes": -1}]), "/devices/0/memory_bytes"),
        (spec(devices=[{"device_id": "g", "memory_bytes": 2**54}]), "/devices/0/memory_bytes"),
        (spec(devices=2 * [{"device_id": "g", "memory_bytes": 1}]), "/devices"),
        (spec(base_url="ftp://n"), "/base_url"),
        (spec(base_url="n:8000"), "/base_url"),
        (spec(base_url="http://n/?key=1"), "/base_url"),
        (spec(ingress_bytes_per_second=0), "/ingress_bytes_per_second"),
        (spec(latency={"peers_seconds": {"m": -1}}), "/latency/peers_seconds/m"),
        (spec(instance_uid=""), "/instance_uid"),
    ],
)
async def test_faults_have_pointers(api: AsyncClient, body: dict[str, Any], pointer: str) -> None:
    """Each fault of a registration is told with its place."""
    response = await api.put(f"{BASE}/n", json=body)
    assert response.status_code == 422
    assert [fault["pointer"] for fault in response.json()["errors"]] == [pointer]
