"""What operators change is on record: who, what, when, in which trace, from which generation to which."""

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from redis.asyncio import Redis
from structlog.testing import capture_logs

from app.audit import store
from tests.app.access.fleet import OPERATOR, client_of, issue, started

pytestmark = pytest.mark.anyio

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPEC = {"instance_uid": "i", "devices": [{"device_id": "gpu0", "memory_bytes": 100_000_000}]}


@pytest.fixture
async def app(shared_url: str, redis: Redis) -> AsyncIterator[FastAPI]:
    async with started(shared_url) as app:
        yield app


async def prepare(client: AsyncClient) -> None:
    for path, body in (
        ("", {"origin": {}, "min_replicas": 0}),
        ("/models/tiny", {"preset": "tiny-moe"}),
        ("/nodes/a", SPEC),
    ):
        assert (await client.put(f"/v1/clusters/east{path}", json=body)).is_success


async def test_a_new_placement_is_on_record(app: FastAPI) -> None:
    """With the token's id, the trace of the request and both generations; newest first."""
    token = await issue(app, "east", {"role": "OPERATOR", "note": "Ada"})
    held = [{"node_id": "a", "holds": [{"model_id": "tiny", "layer": 0, "experts": [0]}]}]
    async with client_of(app, token["token"]) as client:
        await prepare(client)
        first = await client.put(
            "/v1/clusters/east/placement", json={"holds": held}, headers={"If-None-Match": "*"}
        )
        traced = {"If-Match": first.headers["etag"], "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        second = await client.put("/v1/clusters/east/placement", json={"holds": []}, headers=traced)
        assert second.status_code == 200, second.text
        answer = (await client.get("/v1/clusters/east/audit")).json()
    entries = answer["entries"]
    assert [entry["operation"] for entry in entries] == [
        "put_placement",
        "put_placement",
        "put_model",
        "issue_token",
    ]
    newest = entries[0]
    assert (newest["generation_before"], newest["generation_after"]) == (1, 2)
    assert (newest["token_id"], newest["role"]) == (token["token_id"], "OPERATOR")
    assert (newest["trace_id"], newest["method"], newest["status"]) == (TRACE, "PUT", 200)
    assert newest["path"] == "/v1/clusters/east/placement"
    assert (entries[1]["generation_before"], entries[1]["generation_after"]) == (None, 1)
    assert entries[-1]["token_id"] == "operator-setting"
    assert answer["next_before"] is None


async def test_neither_nodes_nor_refusals_fill_the_record(app: FastAPI) -> None:
    """A registration is a node's business; what was refused changed nothing."""
    async with client_of(app, OPERATOR) as client, client_of(app) as stranger:
        await prepare(client)
        assert (await stranger.delete("/v1/clusters/east")).status_code == 401
        assert (await client.delete("/v1/clusters/east/models/nothing")).status_code == 404
        assert (await client.put("/v1/clusters/east/models/x", json={"preset": "?"})).status_code == 422
        entries = (await client.get("/v1/clusters/east/audit")).json()["entries"]
    assert [entry["operation"] for entry in entries] == ["put_model"]


async def test_what_concerns_all_clusters_is_elsewhere(app: FastAPI, redis: Redis) -> None:
    """That a cluster was made and deleted outlives it; its own record goes with it."""
    await issue(app, None, {"role": "READER"})
    async with client_of(app, OPERATOR) as client:
        assert (await client.put("/v1/clusters/east", json={})).status_code == 201
        assert (await client.post("/v1/clusters/east/placement:pause")).status_code == 200
        assert (await client.delete("/v1/clusters/east")).status_code == 204
        entries = (await client.get("/v1/audit?limit=2")).json()
        assert [entry["operation"] for entry in entries["entries"]] == ["delete_cluster", "put_cluster"]
        rest = (await client.get(f"/v1/audit?before={entries['next_before']}")).json()
        assert [entry["operation"] for entry in rest["entries"]] == ["issue_global_token"]
        assert (await client.get("/v1/clusters/east/audit")).status_code == 404
    assert not await redis.exists("moeplace:{east}:audit")


async def test_the_record_is_bounded(app: FastAPI, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest entries make room."""
    monkeypatch.setattr(store, "KEPT", 50)
    async with client_of(app, OPERATOR) as client:
        assert (await client.put("/v1/clusters/east", json={})).status_code == 201
        for _ in range(400):
            await client.post("/v1/clusters/east/placement:pause")
        assert await redis.xlen("moeplace:{east}:audit") <= 50 + 200
        page = (await client.get("/v1/clusters/east/audit?limit=100")).json()
        assert len(page["entries"]) >= 50


async def test_actions_without_tokens_are_on_record_too(api: AsyncClient) -> None:
    """Where nobody is asked, it is said that nobody was."""
    await api.put("/v1/clusters/east", json={})
    [entry] = (await api.get("/v1/audit")).json()["entries"]
    assert (entry["token_id"], entry["operation"]) == ("anonymous", "put_cluster")


async def _changes(api: AsyncClient, path: str) -> list[tuple[str, object, object]]:
    entry = (await api.get(path)).json()["entries"][0]
    return [(change["pointer"], change["old"], change["new"]) for change in entry["changes"]]


async def test_settings_are_on_record_with_old_and_new_values(api: AsyncClient) -> None:
    """What a PATCH or a PUT changed of the settings, also what it reset; a password in a URL is not kept."""
    origin = {"base_url": "https://user:secret@o.example/x"}
    await api.put("/v1/clusters/east", json={"horizon_seconds": 60.0})
    await api.patch("/v1/clusters/east", json={"horizon_seconds": 70.0, "origin": origin})
    changed = await _changes(api, "/v1/audit")
    assert ("/horizon_seconds", 60.0, 70.0) in changed
    assert ("/origin/base_url", None, "https://o.example/x") in changed
    await api.put("/v1/clusters/east", json={"origin": origin, "min_replicas": 1})
    assert await _changes(api, "/v1/audit") == [("/horizon_seconds", 70.0, 600.0)]
    assert "secret" not in (await api.get("/v1/audit")).text


async def test_drains_and_pauses_are_on_record_with_old_and_new_values(api: AsyncClient) -> None:
    """The condition of the node, and whether recomputation is paused."""
    await api.put("/v1/clusters/east/nodes/a", json=SPEC)
    path = "/v1/clusters/east/audit"
    await api.delete("/v1/clusters/east/nodes/a")
    assert await _changes(api, path) == [("/condition", "LIVE", "DRAINING")]
    await api.post("/v1/clusters/east/nodes/a:undrain")
    assert await _changes(api, path) == [("/condition", "DRAINING", "LIVE")]
    await api.post("/v1/clusters/east/placement:pause")
    assert await _changes(api, path) == [("/paused", False, True)]


async def test_the_log_has_changes_only_where_there_are_some(app: FastAPI) -> None:
    """The line of an operation that changes no setting has no empty list."""
    token = await issue(app, "east", {"role": "OPERATOR"})
    async with client_of(app, token["token"]) as client:
        with capture_logs() as logs:
            await client.put("/v1/clusters/east", json={"automatic": False})
            await client.put("/v1/clusters/east/models/tiny", json={"preset": "tiny-moe"})
    lines = {line["operation"]: line for line in logs if line["event"] == "operator action"}
    assert "changes" not in lines["put_model"]
    assert lines["put_cluster"]["changes"]


@pytest.mark.parametrize("before", ["0-0", "00-000", "9" * 19 + "-" + "9" * 19])
async def test_the_ends_of_the_record_are_pages_not_failures(api: AsyncClient, before: str) -> None:
    """The lowest id that a page may be asked before has nothing before it, and the highest everything."""
    assert (await api.get(f"/v1/audit?before={before}")).status_code == 200
