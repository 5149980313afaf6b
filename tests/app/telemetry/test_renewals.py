"""Telemetry keeps its node alive."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from httpx import AsyncClient
from redis.asyncio import Redis

from app.storage.keys import ClusterKeys

pytestmark = pytest.mark.anyio

BASE = "/v1/clusters/alpha"
KEYS = ClusterKeys("alpha")


@pytest.fixture
async def node(api: AsyncClient) -> None:
    """Registered, and heard of once."""
    blocks = [{"layer": 0, "experts": 4, "expert_bytes": 10, "top_k": 2}]
    assert (await api.put(f"{BASE}/models/m", json={"blocks": blocks})).is_success
    spec = {"instance_uid": "i", "devices": [{"device_id": "g", "memory_bytes": 1000}]}
    assert (await api.put(f"{BASE}/nodes/n", json=spec)).is_success
    beat = {"instance_uid": "i", "sequence_number": 1, "holds": []}
    assert (await api.put(f"{BASE}/nodes/n/status", json=beat)).is_success


async def post(api: AsyncClient, number: int, *, ahead: float = 0.0, instance_uid: str = "i") -> int:
    end = datetime.now(UTC) + timedelta(seconds=ahead)
    window = {
        "model_id": "m",
        "instance_uid": instance_uid,
        "sequence_number": number,
        "window": {"start_at": (end - timedelta(seconds=10)).isoformat(), "end_at": end.isoformat()},
        "tokens": 10,
        "layers": [{"layer": 0, "counts": [1, 2, 3, 4]}],
    }
    return (await api.post(f"{BASE}/nodes/n/telemetry", json=window)).status_code


async def condition(api: AsyncClient) -> Any:
    return (await api.get(f"{BASE}/nodes/n")).json()["condition"]


async def ends_in(redis: Redis, seconds: float | None = None) -> float:
    """Of the node's lease; given seconds, it is made to."""
    if seconds is not None:
        await redis.zadd(KEYS.node_leases, {"n": (time.time() + seconds) * 1000})
    return float(await redis.zscore(KEYS.node_leases, "n") or 0.0) / 1000 - time.time()


@pytest.mark.usefixtures("node")
async def test_a_window_revives_a_lost_node(api: AsyncClient, redis: Redis) -> None:
    """Its lease begins anew, and the next heartbeat asks what it holds, as after every lapse."""
    await ends_in(redis, -100.0)
    assert await condition(api) == "LOST"
    assert await post(api, 1) == 200
    assert await condition(api) == "LIVE"
    beat = await api.put(f"{BASE}/nodes/n/status", json={"instance_uid": "i", "sequence_number": 2})
    assert beat.json()["directives"] == ["REPORT_FULL_STATE"]


@pytest.mark.usefixtures("node")
async def test_a_lease_is_renewed_once_in_a_tenth_of_it(api: AsyncClient, redis: Redis) -> None:
    """The second window of a moment leaves the lease: telemetry costs no write to it as a rule."""
    await ends_in(redis, 5.0)
    await post(api, 1)
    assert await ends_in(redis) > 25.0
    await ends_in(redis, 5.0)
    await post(api, 2)
    assert await ends_in(redis) < 6.0


@pytest.mark.usefixtures("node")
async def test_windows_of_another_instance_keep_no_node_alive(api: AsyncClient, redis: Redis) -> None:
    """An agent that was replaced sends on what it had: that says nothing of the one that has the node."""
    await ends_in(redis, -100.0)
    assert await post(api, 1, instance_uid="before") == 422
    assert await condition(api) == "LOST"


@pytest.mark.usefixtures("node")
async def test_a_window_that_ends_in_the_future_tells_of_a_clock_that_is_ahead(
    api: AsyncClient, redis: Redis
) -> None:
    """The node's clock is as much ahead at least."""
    await post(api, 1, ahead=40.0)
    assert float(await redis.hget(KEYS.node_clocks, "n") or 0) == pytest.approx(40.0, abs=3.0)
