"""The analysis over HTTP: whole, and in parts."""

from typing import Any

import orjson
import pytest
from httpx import AsyncClient
from redis.asyncio import Redis

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
