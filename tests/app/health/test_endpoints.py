"""Liveness says the process turns, readiness that it can work, metrics what it did."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from app.config import Settings
from app.main import create_app
from app.storage import workers
from app.storage.client import CONNECTIONS, open_client
from app.storage.embedded import EmbeddedServer
from tests.conftest import TEST_SERVER

pytestmark = pytest.mark.anyio

COUNTS = (
    "moeplace_build_info",
    "moeplace_waiters",
    "moeplace_http_requests_in_flight",
    "moeplace_placement_generation",
    "moeplace_workers",
    "moeplace_worker_clusters",
    "moeplace_clusters",
    "moeplace_cluster_condition",
    "moeplace_cluster_paused",
    "moeplace_cluster_nodes",
    "moeplace_cluster_experts",
    "moeplace_cluster_copies",
    "moeplace_migration_moves",
)
"""Gauges without a unit: they count, or are 0 or 1."""


@contextlib.asynccontextmanager
async def running(redis_url: str) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    app = create_app(Settings(redis_url=redis_url))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
    ):
        yield app, client


def codes(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    return [fault["code"] for fault in answer.json()["errors"]]


async def test_ready_while_a_worker_lives(redis_url: str, redis: Redis) -> None:
    """Not ready without a worker, ready with one, and not any more when it fell silent or left."""
    async with running(redis_url) as (_, client):
        assert codes(await client.get("/readyz")) == ["NO_WORKER"]
        await workers.beat(redis, "w1", 0.3)
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["live_workers"]) == (200, 1)
        await asyncio.sleep(0.4)
        assert codes(await client.get("/readyz")) == ["NO_WORKER"]
        await workers.beat(redis, "w2", 30)
        assert (await client.get("/readyz")).status_code == 200
        await workers.leave(redis, "w2")
        assert codes(await client.get("/readyz")) == ["NO_WORKER"]


async def test_a_worker_that_starts_is_not_reported_as_missing(redis_url: str, redis: Redis) -> None:
    """While a worker compiles its kernels, readiness says so; one that left meanwhile is missing."""
    async with running(redis_url) as (_, client):
        await workers.beat_starting(redis, "w1", 30)
        answer = await client.get("/readyz")
        assert codes(answer) == ["NO_WORKER"]
        assert answer.json()["errors"][0]["detail"].startswith("a worker starts")
        await workers.leave(redis, "w1")
        assert (await client.get("/readyz")).json()["errors"][0]["detail"].startswith("no worker lives")


async def test_silent_workers_are_forgotten(redis: Redis) -> None:
    """Workers that died leave nothing behind: the next heartbeat of any worker removes them."""
    for index in range(5):
        await workers.beat(redis, f"dead{index}", 0.05)
    await asyncio.sleep(0.1)
    await workers.beat(redis, "alive", 30)
    assert await workers.alive(redis) == 1
    assert await redis.zcard("moeplace:workers") == 1


async def test_not_ready_without_redis_but_alive() -> None:
    """A lost server takes readiness away, and nothing else: restarting the API would not help."""
    async with running("unix:///nonexistent/valkey.sock") as (_, client):
        assert codes(await client.get("/readyz")) == ["UNREACHABLE"]
        assert (await client.get("/healthz")).json() == {"status": "ALIVE"}


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("replica", "read-only replica: give the address of the primary"),
        ("full", "uses all of its maxmemory"),
        ("disk", "could not save to its disk"),
        ("replicas", "fewer replicas than min-replicas-to-write"),
    ],
)
async def test_not_ready_where_redis_refuses_writes(trouble: str, words: str, tmp_path: Path) -> None:
    """A server that answers and takes nothing: readiness goes, and says what is wrong with it. So does the
    answer to a client that writes."""
    server = EmbeddedServer(tmp_path / "data", binary=TEST_SERVER)
    server.spawn()
    try:
        await server.ready()
        async with open_client(server.url) as redis, running(server.url) as (_, client):
            await workers.beat(redis, "w1", 30)
            assert (await client.get("/readyz")).status_code == 200
            match trouble:
                case "replica":
                    await redis.replicaof("127.0.0.1", 1)
                case "full":
                    await redis.config_set("maxmemory", 1)
                    await redis.config_set("maxmemory-policy", "noeviction")
                case "disk":
                    await redis.config_set("save", "3600 1")
                    shutil.rmtree(tmp_path / "data")
                    await redis.bgsave()
                    while (await redis.info("persistence"))["rdb_last_bgsave_status"] == "ok":  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                case "replicas":
                    await redis.config_set("min-replicas-to-write", 1)
            answer = await client.get("/readyz")
            assert codes(answer) == ["WRITES_REFUSED"]
            assert words in answer.json()["errors"][0]["detail"]
            written = await client.put("/v1/clusters/east", json={})
            assert written.status_code == 503
            assert words in written.json()["detail"]
    finally:
        server.kill()
        with contextlib.suppress(OSError):
            server.close()


async def test_ready_while_busy(redis_url: str, redis: Redis) -> None:
    """Requests that use all connections to Redis, and wait for more, do not make the process look broken."""
    await workers.beat(redis, "w1", 30)
    async with running(redis_url) as (app, client):
        busy = [asyncio.create_task(app.state.redis.blpop(["nothing"], 2)) for _ in range(2 * CONNECTIONS)]
        await asyncio.sleep(0.5)
        assert (await client.get("/readyz")).status_code == 200
        assert not any(task.done() for task in busy)
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)


async def test_not_ready_while_draining(redis_url: str, redis: Redis) -> None:
    """A process about to end says so although it could still work."""
    await workers.beat(redis, "w1", 30)
    async with running(redis_url) as (app, client):
        app.state.waiters.drain()
        assert codes(await client.get("/readyz")) == ["DRAINING"]
        assert (await client.get("/healthz")).status_code == 200


async def test_requests_are_counted_by_route_template(redis_url: str, redis: Redis) -> None:
    """Counts carry method, template and class of status; unknown paths and methods make no new series."""

    async def count(client: httpx.AsyncClient, **labels: str) -> float:
        text = (await client.get("/metrics")).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "moeplace_http_requests_total"
            and all(sample.labels[name] == value for name, value in labels.items())
        )

    await workers.beat(redis, "w1", 30)
    async with running(redis_url) as (_, client):
        ready = await count(client, route="/readyz", method="GET", status="2xx")
        unrouted = await count(client, route="unrouted", status="4xx")
        for path in ("/readyz", "/no/such/route", "/no/other/route"):
            await client.get(path)
        await client.request("BREW", "/pot")
        plain = "/v1/clusters/{cluster_id}/nodes/{node_id}/telemetry"
        posted = await count(client, route=plain, method="POST", status="4xx")
        assert (await client.post("/v1/clusters/c/nodes/n/telemetry")).status_code == 415
        assert await count(client, route=plain, method="POST", status="4xx") == posted + 1
        assert await count(client, route="/readyz", method="GET", status="2xx") == ready + 1
        assert await count(client, route="unrouted", status="4xx") == unrouted + 3
        assert await count(client, method="BREW") == 0
        assert await count(client, route="/no/such/route") == 0


async def test_metrics_are_valid_and_in_base_units(redis_url: str) -> None:
    """The exposition parses, and each name of ours ends in a unit or says what it counts."""
    async with running(redis_url) as (_, client):
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {
        family.name: family
        for family in text_string_to_metric_families(answer.text)
        if family.name.startswith("moeplace_")
    }
    assert len(families) > 20
    for name, family in families.items():
        assert family.documentation.endswith(".") or name == "moeplace_build_info"
        if family.type == "histogram":
            assert name.endswith("_seconds"), name
        if family.type == "gauge" and not name.startswith(COUNTS):
            assert name.endswith(("_seconds", "_bytes", "_ratio", "_per_second")), name
    build = families["moeplace_build_info"].samples[0]
    assert build.value == 1
    assert build.labels["version"]


async def test_root_is_the_console(redis_url: str) -> None:
    """Whoever opens the address in a browser finds a page, which leads to the contract."""
    async with running(redis_url) as (_, client):
        answer = await client.get("/", follow_redirects=True)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "openapi.json" in answer.text
