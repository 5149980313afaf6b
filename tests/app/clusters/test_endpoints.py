"""Clusters over HTTP."""

import json

import pytest
from httpx import ASGITransport, AsyncClient, Response
from redis.asyncio import Redis

from app.config import Settings
from app.main import create_app
from app.storage.embedded import EmbeddedServer
from app.storage.keys import CLUSTERS, EVERYWHERE, PROCESS_CLOCKS, ClusterKeys

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


ORIGIN = {"base_url": "https://o.example", "latency_seconds": 0.2}


async def test_put_names_what_it_reset(api: AsyncClient) -> None:
    """Settings that a PUT leaves out and that were another than their default are named by pointer; what it
    gives, and what was as by default, is not."""
    given = {"horizon_seconds": 60.0, "origin": ORIGIN, "min_replicas": 2, "time_limit_seconds": 9.0}
    assert (await api.put("/v1/clusters/alpha", json=given)).json()["reset"] == []
    kept = {"time_limit_seconds": 8.0, "origin": {"base_url": "https://o.example"}}
    second = await api.put("/v1/clusters/alpha", json=kept)
    assert second.json()["reset"] == ["/horizon_seconds", "/min_replicas", "/origin/latency_seconds"]
    assert (await api.get("/v1/clusters/alpha")).json()["reset"] == second.json()["reset"]


@pytest.mark.parametrize(
    ("given", "replicas"),
    [({}, 1), ({"origin": ORIGIN}, 0), ({"origin": ORIGIN, "min_replicas": 1}, 1), ({"min_replicas": 2}, 2)],
)
async def test_with_an_origin_no_replica_is_required_by_default(
    api: AsyncClient, given: dict[str, object], replicas: int
) -> None:
    """min_replicas left out is 0 with an origin and 1 without one; what is given stands."""
    answer = await api.put("/v1/clusters/alpha", json=given)
    assert answer.json()["settings"]["min_replicas"] == replicas


async def test_stored_clusters_keep_their_replicas(api: AsyncClient, redis: Redis) -> None:
    """A cluster stored with an origin and min_replicas 1 keeps the 1 when another setting is patched."""
    await api.put("/v1/clusters/alpha", json={"origin": ORIGIN, "min_replicas": 1})
    patched = await patch(api, {"horizon_seconds": 60.0})
    assert patched.json()["settings"]["min_replicas"] == 1


async def patch(api: AsyncClient, body: object, **headers: str) -> Response:
    return await api.patch(
        "/v1/clusters/alpha",
        content=json.dumps(body),
        headers={"Content-Type": "application/merge-patch+json", **headers},
    )


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        ({"horizon_seconds": 60.0}, {"horizon_seconds": 60.0}),
        ({}, {}),
        ({"origin": {"latency_seconds": 0.5}}, {"origin": {**ORIGIN, "latency_seconds": 0.5}}),
        ({"origin": {"base_url": None}}, {"origin": {**ORIGIN, "base_url": None}}),
        ({"origin": None, "min_replicas": None}, {"origin": None, "min_replicas": 1}),
        ({"min_replicas": None}, {"min_replicas": 0}),
        ({"time_limit_seconds": None}, {"time_limit_seconds": 30.0}),
        ({"max_moves_per_interval": 7}, {"max_moves_per_interval": 7}),
        ({"max_moves_per_interval": None}, {"max_moves_per_interval": None}),
        ({"statistics_half_life_seconds": None}, {"statistics_half_life_seconds": None}),
        ({"origin": None}, {"origin": None}),
        ({"origin": {"egress_bytes_per_second": None}}, {"origin": {"egress_bytes_per_second": 1.25e8}}),
    ],
)
async def test_a_merge_patch_changes_what_it_names(
    api: AsyncClient, body: dict[str, object], changed: dict[str, object]
) -> None:
    """RFC 7396: members replace, objects merge, the rest stays; null turns off what can be off, and sets any
    other setting back to its default."""
    given = {
        "origin": {**ORIGIN, "egress_bytes_per_second": 1e6},
        "min_replicas": 2,
        "time_limit_seconds": 9.0,
        "max_moves_per_interval": 5,
    }
    before = (await api.put("/v1/clusters/alpha", json=given)).json()["settings"]
    answer = await patch(api, body)
    assert answer.status_code == 200, answer.text
    expected = {**before, **changed}
    if expected["origin"]:
        expected["origin"] = {**before["origin"], **expected["origin"]}
    assert answer.json()["settings"] == expected
    assert answer.json()["reset"] == []


async def test_without_its_origin_a_cluster_needs_a_replica_again(api: AsyncClient) -> None:
    """A patch that removes the origin sets min_replicas 0 back to 1 and names it; 0 beside it is refused."""
    await api.put("/v1/clusters/alpha", json={"origin": ORIGIN})
    refused = await patch(api, {"origin": None, "min_replicas": 0})
    assert [fault["pointer"] for fault in refused.json()["errors"]] == ["/min_replicas"]
    answer = await patch(api, {"origin": None})
    assert (answer.status_code, answer.json()["reset"]) == (200, ["/min_replicas"])
    assert answer.json()["settings"]["origin"] is None
    assert answer.json()["settings"]["min_replicas"] == 1


async def test_an_origin_added_by_a_patch_leaves_the_replicas(api: AsyncClient) -> None:
    """The setting was not named, so it stays; null beside the origin gives the default, 0."""
    await api.put("/v1/clusters/alpha", json={})
    added = await patch(api, {"origin": {"latency_seconds": 0.2}})
    assert added.json()["settings"]["min_replicas"] == 1
    assert added.json()["settings"]["origin"]["latency_seconds"] == 0.2
    assert (await patch(api, {"min_replicas": None})).json()["settings"]["min_replicas"] == 0


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"nonsense": None}, "/nonsense"),
        ({"origin": {"nonsense": None}}, "/origin/nonsense"),
        ({"origin": 5}, "/origin"),
        ({"horizon_seconds": "60"}, "/horizon_seconds"),
        ({"nonsense": 1}, "/nonsense"),
        ({"origin": {"latency_seconds": -1}}, "/origin/latency_seconds"),
        ({"algorithm": "magic"}, "/algorithm"),
        ({"min_replicas": 0}, "/min_replicas"),
        ([1], ""),
    ],
)
async def test_a_patch_that_is_wrong_changes_nothing(api: AsyncClient, body: object, pointer: str) -> None:
    """422 with the pointer, and the settings are as they were."""
    before = (await api.put("/v1/clusters/alpha", json={"horizon_seconds": 60.0})).json()
    answer = await patch(api, body)
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]
    assert (await api.get("/v1/clusters/alpha")).json() == before


async def test_settings_change_only_while_they_are_as_seen(api: AsyncClient) -> None:
    """If-Match with the ETag of the settings: 412 once another changed them, for PATCH and for PUT; a node
    that registers changes no tag; without a cluster PATCH is 404."""
    assert (await patch(api, {})).status_code == 404
    tag = (await api.put("/v1/clusters/alpha", json={})).headers["etag"]
    await api.put("/v1/clusters/alpha/nodes/n", json=NODE)
    assert (await api.get("/v1/clusters/alpha")).headers["etag"] == tag
    first = await patch(api, {"horizon_seconds": 60.0}, **{"If-Match": tag})
    assert first.status_code == 200
    assert first.headers["etag"] != tag
    assert (await patch(api, {"horizon_seconds": 70.0}, **{"If-Match": tag})).status_code == 412
    put = await api.put("/v1/clusters/alpha", json={}, headers={"If-Match": tag})
    assert put.status_code == 412
    assert (await patch(api, {}, **{"Content-Type": "text/plain"})).status_code == 415


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
    # What processes say of their clocks belongs to no cluster.
    assert set(await redis.keys("*")) - {PROCESS_CLOCKS.encode()} == {key.encode() for key in left}
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
