"""The analysis over HTTP: whole, and in parts."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import pytest
from httpx import AsyncClient
from redis.asyncio import Redis

from app.analysis.packed import PackedLayer
from app.storage.documents import encode_document
from app.storage.documents import queue_document as queue
from app.storage.keys import ClusterKeys

pytestmark = pytest.mark.anyio

URL = "/v1/clusters/alpha/analysis"


async def write(redis: Redis) -> dict[str, Any]:
    layers = [{"model_id": model, "layer": layer} for model in ("m1", "m2") for layer in range(3)]
    analysis = {"objective": 2.5, "nodes": [{"node_id": name, "layers": layers} for name in ("a", "b")]}
    document = encode_document(orjson.dumps(analysis), uid="u", generation=4)
    async with redis.pipeline() as pipe:
        queue(pipe, ClusterKeys("alpha").analysis, document)
        await pipe.execute()
    return analysis


async def test_absent_until_the_worker_wrote_one(api: AsyncClient) -> None:
    """404, whether the cluster is known or not."""
    assert (await api.get(URL)).status_code == 404
    await api.put("/v1/clusters/alpha", json={})
    response = await api.get(URL)
    assert response.status_code == 404
    assert "worker" in response.json()["detail"]


async def test_parts_are_picked(api: AsyncClient, redis: Redis) -> None:
    """By node, model and layer; what is of the whole fleet stays, and every part has a tag of its own."""
    whole = await write(redis)
    response = await api.get(URL)
    assert response.json() == whole
    part = await api.get(URL, params={"node_id": "b", "model_id": "m2", "layer": 1})
    assert part.json() == {
        "objective": 2.5,
        "nodes": [{"node_id": "b", "layers": [{"model_id": "m2", "layer": 1}]}],
    }
    assert part.headers["etag"] != response.headers["etag"]
    tag = {"If-None-Match": response.headers["etag"]}
    assert (await api.get(URL, headers=tag)).status_code == 304
    assert (await api.get(URL, params={"layer": 1}, headers=tag)).status_code == 200
    assert (await api.get(URL, params={"layer": -1})).status_code == 422


async def test_the_overview_is_served_as_written(api: AsyncClient, redis: Redis) -> None:
    """404 until there is one, then the worker's document by its version."""
    url = f"{URL}/overview"
    assert (await api.get(url)).status_code == 404
    await api.put("/v1/clusters/alpha", json={})
    assert "worker" in (await api.get(url)).json()["detail"]
    async with redis.pipeline() as pipe:
        queue(pipe, ClusterKeys("alpha").analysis_overview, encode_document(b"{}", uid="u", generation=1))
        await pipe.execute()
    found = await api.get(url)
    assert found.json() == {}
    tag = {"If-None-Match": found.headers["etag"]}
    assert (await api.get(url, headers=tag)).status_code == 304


async def test_a_layer_is_told_and_not_told_twice(api: AsyncClient, redis: Redis) -> None:
    """404 for a cluster or layer that is not there; else who activates and holds what, once per version."""
    url = f"{URL}/layers/m/4"
    assert (await api.get(url)).status_code == 404
    await api.put("/v1/clusters/alpha", json={})
    calls = np.zeros((2, 3))
    calls[0] = 1.0, 0.0, 3.0
    keys = ClusterKeys("alpha")
    for held in ([1, 0, 0], [1, 1, 0]):
        layer = PackedLayer.of(
            cluster_uid="u",
            generation=1,
            created_at=datetime(2026, 3, 1, tzinfo=UTC),
            telemetry_until=None,
            model_id="m",
            layer=4,
            node_ids=["a", "b"],
            live=[True, True],
            calls=calls,
            held=np.array([held, [0, 0, 0]], np.uint8),
            desired=np.array([[0, 0, 1], [0, 1, 0]], np.uint8),
        )
        await redis.hset(keys.analysis_layers, layer.field, layer.encoded())
        found = await api.get(url)
        a, b = found.json()["nodes"]
        assert a["shares"] == [0.25, 0.0, 0.75]
        assert a["activations_per_second"] == 4.0
        assert a["held"] == np.flatnonzero(held).tolist()
        assert (a["desired"], b["desired"], b["shares"]) == ([2], [1], [])
        tag = {"If-None-Match": found.headers["etag"]}
        assert (await api.get(url, headers=tag)).status_code == 304
    assert "layer 5" in (await api.get(f"{URL}/layers/m/5")).json()["detail"]
    assert (await api.get(f"{URL}/layers/m/-1")).status_code == 422
