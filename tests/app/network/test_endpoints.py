"""The network over HTTP: measured before specified before the default, as placements are computed with it."""

from typing import Any

import pytest
from httpx import AsyncClient

pytestmark = pytest.mark.anyio

BASE = "/v1/clusters/alpha"


async def register(api: AsyncClient, node_id: str, latency: dict[str, Any]) -> None:
    device = {"device_id": "gpu0", "memory_bytes": 100}
    body = {"instance_uid": "1", "devices": [device], "latency": latency, "egress_bytes_per_second": 5000.0}
    assert (await api.put(f"{BASE}/nodes/{node_id}", json=body)).status_code == 201


async def test_unknown_cluster(api: AsyncClient) -> None:
    """404; a cluster without nodes has an empty network."""
    assert (await api.get(f"{BASE}/network")).status_code == 404
    await api.put(BASE, json={})
    assert (await api.get(f"{BASE}/network")).json()["nodes"] == []


async def test_how_each_latency_is_known(api: AsyncClient) -> None:
    """Measured over specified over the cluster's default, of peers registered; the origin's only with one;
    304 until something differs."""
    await api.put(BASE, json={"default_latency_seconds": 0.5})
    await register(api, "a", {"local_seconds": 0.001, "peers_seconds": {"b": 0.1, "c": 0.2, "gone": 0.3}})
    await register(api, "b", {"origin_seconds": 0.7})
    await register(api, "c", {})
    heartbeat = {"instance_uid": "1", "sequence_number": 1, "latency": {"peers_seconds": {"b": 0.15}}}
    assert (await api.put(f"{BASE}/nodes/a/status", json=heartbeat)).status_code == 200
    found = await api.get(f"{BASE}/network")
    a, b, c = found.json()["nodes"]
    assert [node["node_id"] for node in (a, b, c)] == ["a", "b", "c"]
    assert a["latency_seconds"] == [0.001, 0.15, 0.2]
    assert (a["measured"], a["defaulted"]) == ([1], [])
    assert b["latency_seconds"] == [0.5, 0.0, 0.5]
    assert (b["measured"], b["defaulted"]) == ([], [0, 2])
    assert [node["origin_seconds"] for node in (a, b, c)] == [None, None, None]
    assert a["egress_bytes_per_second"] == 5000.0
    tag = {"If-None-Match": found.headers["etag"]}
    assert (await api.get(f"{BASE}/network", headers=tag)).status_code == 304
    await api.put(BASE, json={"default_latency_seconds": 0.5, "origin": {"latency_seconds": 0.9}})
    changed = await api.get(f"{BASE}/network", headers=tag)
    assert [node["origin_seconds"] for node in changed.json()["nodes"]] == [0.9, 0.7, 0.9]


async def test_fleets_larger_than_a_page_are_told_whole(api: AsyncClient) -> None:
    """Every node in order of its id, however many are decoded at once."""
    names = [f"n{index:03d}" for index in range(40)]
    for name in names:
        await register(api, name, {})
    nodes = (await api.get(f"{BASE}/network")).json()["nodes"]
    assert [node["node_id"] for node in nodes] == names
    assert all(len(node["latency_seconds"]) == len(names) for node in nodes)
