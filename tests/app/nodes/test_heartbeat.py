"""Heartbeats: what they change, and when a node is asked for its full state."""

import hashlib
from typing import Any, cast

import pytest
from httpx import AsyncClient
from redis.asyncio import Redis

from app.nodes.schemas import NodeStatusRecord
from app.storage.keys import ClusterKeys

pytestmark = pytest.mark.anyio

BASE = "/v1/clusters/alpha"
KEYS = ClusterKeys("alpha")


def spec(instance_uid: str = "first", **changes: Any) -> dict[str, Any]:
    return {
        "instance_uid": instance_uid,
        "devices": [{"device_id": "gpu0", "memory_bytes": 1_000_000}],
        **changes,
    }


def held(*experts: int) -> list[dict[str, Any]]:
    return [{"model_id": "tiny", "layer": 0, "experts": list(experts)}]


def digest(*experts: int) -> str:
    lines = sorted(f"tiny/0/{expert}" for expert in experts)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


async def beat(api: AsyncClient, number: int, **changes: Any) -> dict[str, Any]:
    body = {"instance_uid": "first", "sequence_number": number, **changes}
    response = await api.put(f"{BASE}/nodes/n1/status", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def holdings(redis: Redis) -> set[str]:
    members = cast("set[bytes]", await redis.smembers(KEYS.holdings("n1")))
    return {member.decode() for member in members}


@pytest.fixture
async def node(api: AsyncClient) -> dict[str, Any]:
    response = await api.put(f"{BASE}/nodes/n1", json=spec())
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_full_state_replaces_holdings(api: AsyncClient, node: dict[str, Any], redis: Redis) -> None:
    """`holds` replaces what the node is known to hold, and raises the version only when it differs."""
    first = await beat(api, 1, holds=held(1, 2), holds_digest=digest(1, 2))
    assert first["directives"] == []
    assert first["cluster_uid"] == node["cluster_uid"]
    version = await redis.hget(KEYS.holdings_versions, "n1")
    await beat(api, 2, holds=held(2, 1))
    assert await redis.hget(KEYS.holdings_versions, "n1") == version
    await beat(api, 3, holds=held(3))
    assert await holdings(redis) == {"tiny/0/3"}
    assert int(await redis.hget(KEYS.holdings_versions, "n1") or 0) == int(version or 0) + 1


async def test_changes_apply_in_sequence_only(api: AsyncClient, node: dict[str, Any], redis: Redis) -> None:
    """`holds_changed` edits the holdings after the last heartbeat; after a gap it is not applied, and the
    full state stays asked for until it comes."""
    await beat(api, 1, holds=held(1, 2))
    changed = {"added": held(5), "removed": held(1)}
    assert (await beat(api, 2, holds_changed=changed))["directives"] == []
    assert await holdings(redis) == {"tiny/0/2", "tiny/0/5"}
    gap = await beat(api, 4, holds_changed={"added": held(7)})
    assert gap["directives"] == ["REPORT_FULL_STATE"]
    assert await holdings(redis) == {"tiny/0/2", "tiny/0/5"}
    again = await beat(api, 5, holds_changed={"added": held(8)})
    assert again["directives"] == ["REPORT_FULL_STATE"]
    assert (await beat(api, 6, holds=held(7, 8)))["directives"] == []
    assert await holdings(redis) == {"tiny/0/7", "tiny/0/8"}


async def test_the_orders_a_node_goes_by_are_of_what_it_is_known_to_hold(
    api: AsyncClient, node: dict[str, Any], redis: Redis
) -> None:
    """What a node says of its orders is kept with the heartbeat, and so is whether its holdings, which may
    show what it did for older ones, are known as of then: not after a gap."""

    async def kept() -> tuple[str | None, bool]:
        stored = await redis.hget(KEYS.node_status, "n1")
        assert stored is not None
        status = NodeStatusRecord.model_validate_json(stored)
        return status.moves_version, status.full_state_due

    await beat(api, 1, holds=held(1, 2), moves_version="u.1.a")
    assert await kept() == ("u.1.a", False)
    await beat(api, 2, holds_changed={"removed": held(2)}, moves_version="u.1.b")
    assert await kept() == ("u.1.b", False)
    assert await holdings(redis) == {"tiny/0/1"}
    await beat(api, 4, holds_changed={}, moves_version="u.1.c")
    assert await kept() == ("u.1.c", True)
    await beat(api, 5, holds=held(1))
    assert await kept() == (None, False)


async def test_first_heartbeat_without_state_asks_for_it(api: AsyncClient, node: dict[str, Any]) -> None:
    """What a node holds is unknown until it said so once."""
    assert (await beat(api, 1))["directives"] == ["REPORT_FULL_STATE"]


async def test_digest_that_differs_asks_for_full_state(
    api: AsyncClient, node: dict[str, Any], redis: Redis
) -> None:
    """A node that believes to hold something else than the service knows is asked, also when a report of a
    move changed the holdings in between."""
    await beat(api, 1, holds=held(1), holds_digest=digest(1))
    assert (await beat(api, 2, holds_digest=digest(1)))["directives"] == []
    await redis.sadd(KEYS.holdings("n1"), "tiny/0/2")
    await redis.hincrby(KEYS.holdings_versions, "n1", 1)
    assert (await beat(api, 3, holds_digest=digest(1)))["directives"] == ["REPORT_FULL_STATE"]
    assert (await beat(api, 4, holds_digest=digest(1, 2)))["directives"] == []


async def test_stale_and_repeated_heartbeats(api: AsyncClient, node: dict[str, Any], redis: Redis) -> None:
    """A heartbeat older than the last is refused; the last one again changes nothing."""
    await beat(api, 5, holds=held(1))
    await redis.sadd(KEYS.holdings("n1"), "tiny/0/9")
    await beat(api, 5, holds=held(1))
    assert await holdings(redis) == {"tiny/0/1", "tiny/0/9"}
    stale = {"instance_uid": "first", "sequence_number": 4}
    response = await api.put(f"{BASE}/nodes/n1/status", json=stale)
    assert response.status_code == 409
    assert response.json()["errors"][0]["pointer"] == "/sequence_number"


async def test_other_instance_must_register(api: AsyncClient, node: dict[str, Any], redis: Redis) -> None:
    """A new instance empties the holdings; the old one is told to register again from then on."""
    await beat(api, 1, holds=held(1))
    assert (await api.put(f"{BASE}/nodes/n1", json=spec("second"))).status_code == 200
    assert await holdings(redis) == set()
    assert await redis.hget(KEYS.telemetry_instances, "n1") == b"second"
    old = {"instance_uid": "first", "sequence_number": 2}
    response = await api.put(f"{BASE}/nodes/n1/status", json=old)
    assert response.status_code == 409
    assert "register again" in response.json()["detail"]


async def test_lapsed_lease_asks_for_full_state(api: AsyncClient, node: dict[str, Any], redis: Redis) -> None:
    """A node that was silent past its lease counts as lost, and on its return is asked what it holds."""
    await beat(api, 1, holds=held(1))
    await redis.zadd(KEYS.node_leases, {"n1": 1000.0})
    assert (await api.get(f"{BASE}/nodes/n1")).json()["condition"] == "LOST"
    assert (await beat(api, 2))["directives"] == ["REPORT_FULL_STATE"]
    assert (await api.get(f"{BASE}/nodes/n1")).json()["condition"] == "LIVE"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"sequence_number": 1}, "/instance_uid"),
        ({"instance_uid": "first", "sequence_number": "1"}, "/sequence_number"),
        ({"instance_uid": "first", "sequence_number": 0}, "/sequence_number"),
        (
            {
                "instance_uid": "first",
                "sequence_number": 1,
                "holds": [{"model_id": "tiny", "layer": 0, "experts": [0, -1]}],
            },
            "/holds/0/experts/1",
        ),
        (
            {"instance_uid": "first", "sequence_number": 1, "holds": [], "holds_digest": "0" * 64},
            "/holds_digest",
        ),
        (
            {
                "instance_uid": "first",
                "sequence_number": 1,
                "holds_changed": {"added": held(1), "removed": held(1)},
            },
            "/holds_changed/removed",
        ),
    ],
)
async def test_faults_have_pointers(
    api: AsyncClient, node: dict[str, Any], body: dict[str, Any], pointer: str
) -> None:
    """Each fault of a heartbeat is told with its place."""
    response = await api.put(f"{BASE}/nodes/n1/status", json=body)
    assert response.status_code == 422
    assert [fault["pointer"] for fault in response.json()["errors"]] == [pointer]


async def test_large_holdings(api: AsyncClient, node: dict[str, Any], redis: Redis) -> None:
    """Holdings beyond what one Redis command takes from a script are stored whole, and edited."""
    large = [{"model_id": "big", "layer": layer, "experts": list(range(256))} for layer in range(58)]
    await beat(api, 1, holds=large)
    assert await redis.scard(KEYS.holdings("n1")) == 58 * 256
    await beat(api, 2, holds_changed={"added": [], "removed": large[:30]})
    assert await redis.scard(KEYS.holdings("n1")) == 28 * 256
    assert (await api.get(f"{BASE}/nodes/n1")).json()["status"]["holds_count"] == 28 * 256
