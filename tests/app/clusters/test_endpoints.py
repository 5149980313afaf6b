"""Clusters over HTTP."""

import pytest
from httpx import ASGITransport, AsyncClient
from redis.asyncio import Redis

from app.config import Settings
from app.main import create_app
from app.storage.embedded import EmbeddedServer
from app.storage.keys import CLUSTERS, EVERYWHERE, ClusterKeys

pytestmark = pytest.mark.anyio

NODE = {"instance_uid": "1", "devices": [{"device_id": "g", "memory_bytes": 1}]}


async def test_settings_are_replaced(api: AsyncClient) -> None:
    """PUT creates with 201, replaces with 200: what is left out is as by default again."""
    first = await api.put("/v1/clusters/alpha", json={"horizon_seconds": 60.0, "coupling": "sum"})
    assert first.status_code == 201
    assert first.json()["settings"]["horizon_seconds"] == 60.0
    second = await api.put("/v1/clusters/alpha", json={"coupling": "sum"})
    assert second.status_code == 200
    assert second.json()["settings"]["horizon_seconds"] == 600.0
    assert second.json()["uid"] == first.json()["uid"]
    assert (await api.get("/v1/clusters/alpha")).json() == second.json()
    assert (await api.get("/v1/clusters")).json() == {"clusters": ["alpha"]}


@pytest.mark.parametrize(
    ("settings", "pointer"),
    [
        ({"min_replicas": 0}, "/min_replicas"),
        ({"algorithm": "magic"}, "/algorithm"),
        ({"coupling": "slow"}, "/coupling"),
        ({"horizon_seconds": 0}, "/horizon_seconds"),
        ({"automatic": "yes"}, "/automatic"),
        ({"origin": {"latency_seconds": -1}}, "/origin/latency_seconds"),
        ({"origin": {"base_url": "experts.example"}}, "/origin/base_url"),
        ({"nonsense": 1}, "/nonsense"),
    ],
)
async def test_faults_have_pointers(api: AsyncClient, settings: dict[str, object], pointer: str) -> None:
    """Each fault is told with its place."""
    response = await api.put("/v1/clusters/alpha", json=settings)
    assert response.status_code == 422
    assert [fault["pointer"] for fault in response.json()["errors"]] == [pointer]


async def test_deletion_needs_dead_nodes_and_leaves_nothing(api: AsyncClient, redis: Redis) -> None:
    """Refused while a node lives; then all is forgotten but what makes tokens and revisions rise for ever,
    and a cluster created anew has another uid."""
    keys = ClusterKeys("alpha")
    assert (await api.put("/v1/clusters/alpha/nodes/n", json=NODE)).status_code == 201
    uid = (await api.get("/v1/clusters/alpha")).json()["uid"]
    await redis.set(keys.fence, 7)
    await redis.set(keys.statistics("n", "gone"), "left over")
    assert (await api.delete("/v1/clusters/alpha")).status_code == 409
    await redis.zadd(keys.node_leases, {"n": 1000.0})
    revision = int(await redis.get(keys.revision) or 0)
    assert (await api.delete("/v1/clusters/alpha")).status_code == 204
    assert (await api.delete("/v1/clusters/alpha")).status_code == 404
    left = {keys.fence, keys.revision, ClusterKeys(EVERYWHERE).audit}
    assert set(await redis.keys("*")) == {key.encode() for key in left}
    assert not await redis.sismember(CLUSTERS, "alpha")
    assert int(await redis.get(keys.revision) or 0) > revision
    again = await api.put("/v1/clusters/alpha", json={})
    assert again.status_code == 201
    assert again.json()["uid"] != uid


async def test_most_clusters(redis_server: EmbeddedServer, redis: Redis) -> None:
    """One more than max_clusters is refused, by whatever route it would come to be."""
    app = create_app(Settings(redis_url=redis_server.url, max_clusters=2))
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://127.0.0.1") as api,
    ):
        assert (await api.put("/v1/clusters/a", json={})).status_code == 201
        assert (await api.put("/v1/clusters/b/nodes/n", json=NODE)).status_code == 201
        assert (await api.put("/v1/clusters/c", json={})).status_code == 409
        assert (await api.put("/v1/clusters/c/nodes/n", json=NODE)).status_code == 409
        assert (await api.put("/v1/clusters/c/models/m", json={"preset": "tiny-moe"})).status_code == 409
        assert (await api.put("/v1/clusters/a", json={"coupling": "sum"})).status_code == 200
