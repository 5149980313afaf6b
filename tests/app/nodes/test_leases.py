"""Leases of nodes while the API's host has another time than Redis."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from httpx import AsyncClient
from redis.asyncio import Redis

from app.storage.keys import ClusterKeys

pytestmark = pytest.mark.anyio

BASE = "/v1/clusters/alpha"
KEYS = ClusterKeys("alpha")
LEASE_SECONDS = 30.0
SPEC = {"instance_uid": "i", "devices": [{"device_id": "g", "memory_bytes": 1000}]}
REAL = time.time


async def lease_left(redis: Redis) -> float:
    """By the server's clock."""
    seconds, microseconds = await redis.time()
    ends = await redis.zscore(KEYS.node_leases, "n") or 0.0
    return float(ends / 1000 - seconds - microseconds / 1e6)


async def heartbeat(api: AsyncClient, **headers: str) -> dict[str, Any]:
    body = {"instance_uid": "i", "sequence_number": 1}
    answer = await api.put(f"{BASE}/nodes/n/status", json=body, headers=headers)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("ahead", [-2 * LEASE_SECONDS, -LEASE_SECONDS + 1, LEASE_SECONDS, 2 * LEASE_SECONDS])
async def test_an_api_with_a_wrong_clock_gives_whole_leases(
    api: AsyncClient, redis: Redis, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    """Up to two leases ahead or behind, a registration and a heartbeat keep the node alive for one lease of
    the server's clock, and the cluster cannot be deleted under it."""
    monkeypatch.setattr(time, "time", lambda: REAL() + ahead)
    registered = await api.put(f"{BASE}/nodes/n", json=SPEC)
    assert registered.json()["condition"] == "LIVE"
    assert LEASE_SECONDS - 5.0 < await lease_left(redis) <= LEASE_SECONDS
    answer = await heartbeat(api)
    assert LEASE_SECONDS - 5.0 < await lease_left(redis) <= LEASE_SECONDS
    ends = datetime.fromisoformat(answer["lease"]["expires_at"]).timestamp()
    assert ends == pytest.approx(REAL() + LEASE_SECONDS, abs=5.0)
    assert (await api.get(f"{BASE}/nodes/n")).json()["condition"] == "LIVE"
    assert (await api.delete(BASE)).status_code == 409


async def test_a_heartbeat_tells_how_wrong_the_nodes_clock_is(api: AsyncClient, redis: Redis) -> None:
    """Its Date is compared with the server's time; a heartbeat without one changes nothing."""
    await api.put(f"{BASE}/nodes/n", json=SPEC)
    shown = format_datetime(datetime.now(UTC) + timedelta(seconds=42), usegmt=True)
    await heartbeat(api, Date=shown)
    await heartbeat(api, Date="yesterday")
    await heartbeat(api)
    assert float(await redis.hget(KEYS.node_clocks, "n") or 0) == pytest.approx(42.0, abs=2.0)
