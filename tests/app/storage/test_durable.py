"""What `durable` promises: an answer means that the disk has it."""

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from app.storage.client import open_client
from app.storage.durable import DiskSync, DurabilityUnsupported, NotOnDisk, require_durability
from app.storage.embedded import runtime_path
from app.storage.keys import ClusterKeys
from tests.service import Service

pytestmark = pytest.mark.anyio

MARK = ClusterKeys("lab").disk_mark


@pytest.fixture
async def server(redis: Redis) -> AsyncIterator[Redis]:
    """A server with WAITAOF, its append-only file on again afterwards."""
    try:
        await redis.execute_command("WAITAOF", 0, 0, 0)  # type: ignore[no-untyped-call]
    except ResponseError:
        with pytest.raises(DurabilityUnsupported, match="WAITAOF"):
            await require_durability(redis)
        pytest.skip("the server has no WAITAOF, and is refused")
    yield redis
    await redis.config_set("appendonly", "yes")
    await redis.config_set("appendfsync", "everysec")


async def test_servers_that_cannot_promise_are_refused(server: Redis) -> None:
    """Without an append-only file there is nothing to wait for, and the message says what to set."""
    await require_durability(server)
    await server.config_set("appendonly", "no")
    with pytest.raises(DurabilityUnsupported, match="append-only"):
        await require_durability(server)


async def test_waits_are_shared(server: Redis) -> None:
    """Many writers at once cost the server a few waits, and each ends."""
    await server.config_resetstat()
    disk = DiskSync(server)

    async def write(number: int) -> None:
        await server.set(f"k{number}", "v")
        await disk.wait(MARK)

    await asyncio.gather(*(write(number) for number in range(100)))
    waits = (await server.info("commandstats"))["cmdstat_waitaof"]["calls"]
    assert 1 <= waits <= 20


async def test_a_disk_that_never_confirms_is_told(server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """With syncing left to the operating system nothing confirms: the wait fails, and the next one works."""
    monkeypatch.setattr("app.storage.durable.WAITAOF_MILLISECONDS", 50)
    disk = DiskSync(server)
    await server.config_set("appendfsync", "no")
    with pytest.raises(NotOnDisk):
        await disk.wait(MARK)
    await server.config_set("appendfsync", "always")
    await disk.wait(MARK)


@pytest.mark.usefixtures("server")
async def test_every_write_waits_and_nothing_else_does(serve: Callable[..., Service]) -> None:
    """On a real service whose server stops syncing, writes are answered 503; reads and faults as ever."""
    service = serve(env={"MOEPLACE_DURABLE": "1"})
    node = {"instance_uid": "1", "devices": [{"device_id": "g", "memory_bytes": 10}]}
    async with (
        httpx.AsyncClient(base_url=f"{service.base_url}/v1/clusters", timeout=20) as client,
        open_client(f"unix://{runtime_path(service.data_dir) / 'valkey.sock'}") as embedded,
    ):
        assert (await client.put("/lab", json={})).is_success
        await embedded.config_set("appendfsync", "no")
        refused = await client.put("/lab/nodes/a", json=node)
        assert refused.status_code == 503
        assert refused.headers["content-type"] == "application/problem+json"
        assert "disk" in refused.json()["detail"]
        assert (await client.get("/lab")).json()["nodes"] == ["a"]
        assert (await client.put("/lab/models/m", json={"preset": "no such"})).status_code == 422
        await embedded.config_set("appendfsync", "always")
        assert (await client.put("/lab/nodes/a", json=node)).is_success
        issued = await client.post(f"{service.base_url}/v1/tokens", json={"role": "READER"})
        assert issued.status_code == 201  # of no cluster: waited for at the server that has what all share
