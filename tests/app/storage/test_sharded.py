"""A cluster serves like one server: any server's keys, moving slots, and without one of its servers."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TryAgainError, WatchError

from app.storage.client import StorageError, check_server, connect, open_client, servers_of
from app.storage.durable import DiskSync, require_durability
from app.storage.embedded import EmbeddedServer
from app.storage.keys import CLUSTERS, INDEX_DISK_MARK, ClusterKeys
from app.storage.slots import TwoSlots
from tests.conftest import empty_servers
from tests.valkey_cluster import Member, ValkeyCluster

pytestmark = pytest.mark.anyio

KEYS = ClusterKeys("east")
SLOT = key_slot(b"east")


@pytest.fixture
async def sharded(valkey_cluster: ValkeyCluster) -> AsyncIterator[Redis]:
    """A client of the session's cluster, emptied."""
    async with open_client(valkey_cluster.url) as client:
        await empty_servers(client)
        yield client


async def other_than(cluster: ValkeyCluster, slot: int) -> Member:
    owner = await cluster.owner(slot)
    return next(member for member in cluster.members if member is not owner)


async def test_commands_go_to_the_server_that_has_the_key(sharded: Redis) -> None:
    """Many keys, one by one and in one pipeline; they are on all three servers."""
    names = [f"moeplace:{{c{index}}}:cluster" for index in range(60)]
    for name in names[:30]:
        await sharded.set(name, name)
    async with sharded.pipeline(transaction=False) as pipe:
        for name in names[30:]:
            pipe.set(name, name)
        assert await pipe.execute() == [True] * 30
        for name in names:
            pipe.get(name)
        assert await pipe.execute() == [name.encode() for name in names]
    sizes = [await server.dbsize() for server in await servers_of(sharded)]
    assert len(sizes) == 3
    assert min(sizes) > 0
    assert sum(sizes) == 60


async def test_a_transaction_watches_and_commits_on_its_slot(sharded: Redis) -> None:
    """As on one server: what was watched and changed meanwhile stops it, nothing else does."""
    async with sharded.pipeline(transaction=True) as pipe:
        await pipe.watch(KEYS.cluster)
        assert await pipe.get(KEYS.models) is None
        pipe.multi()  # type: ignore[no-untyped-call]
        pipe.set(KEYS.cluster, "1")
        pipe.get(KEYS.cluster)
        assert await pipe.execute() == [True, b"1"]
        await pipe.watch(KEYS.cluster)
        await sharded.set(KEYS.cluster, "2")
        pipe.multi()  # type: ignore[no-untyped-call]
        pipe.set(KEYS.cluster, "3")
        with pytest.raises(WatchError):
            await pipe.execute()
    assert await sharded.get(KEYS.cluster) == b"2"


async def test_two_slots_are_refused(sharded: Redis) -> None:
    """A transaction over a cluster and the index is a fault of the program, and says so at once."""
    async with sharded.pipeline(transaction=True) as pipe:
        pipe.set(KEYS.cluster, "1")
        pipe.sadd(CLUSTERS, "east")
        with pytest.raises(TwoSlots):
            await pipe.execute()
        await pipe.watch(KEYS.cluster)
        with pytest.raises(TwoSlots):
            await pipe.sismember(CLUSTERS, "east")
    with pytest.raises(TwoSlots):
        await sharded.eval("return 1", 2, KEYS.cluster, CLUSTERS)


async def test_a_moved_slot_is_followed(sharded: Redis, valkey_cluster: ValkeyCluster) -> None:
    """Commands, scripts, transactions and pipelines find their keys where they have gone, as does a scan."""
    await sharded.set(KEYS.cluster, "1")
    await valkey_cluster.migrate(SLOT, await other_than(valkey_cluster, SLOT))
    assert await sharded.get(KEYS.cluster) == b"1"
    await valkey_cluster.migrate(SLOT, await other_than(valkey_cluster, SLOT))
    async with sharded.pipeline(transaction=True) as pipe:
        pipe.incr(KEYS.cluster)
        assert await pipe.execute() == [2]
    await valkey_cluster.migrate(SLOT, await other_than(valkey_cluster, SLOT))
    async with sharded.pipeline(transaction=False) as pipe:
        pipe.incr(KEYS.cluster)
        pipe.get("elsewhere")
        assert await pipe.execute() == [3, None]
    await valkey_cluster.migrate(SLOT, await other_than(valkey_cluster, SLOT))
    assert await sharded.eval("return redis.call('INCR', KEYS[1])", 1, KEYS.cluster) == 4
    assert [key async for key in sharded.scan_iter(match="moeplace:{east}:*")] == [KEYS.cluster.encode()]


async def test_a_slot_on_its_way_serves_single_keys(
    sharded: Redis, valkey_cluster: ValkeyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a slot half moved, each key is found on its side; a script over both waits, and gives up."""
    monkeypatch.setattr("app.storage.sharded.REDIRECTED_SECONDS", 0.2)
    source, target = await valkey_cluster.owner(SLOT), await other_than(valkey_cluster, SLOT)
    await sharded.set(KEYS.cluster, "1")
    await sharded.set(KEYS.models, "2")
    await valkey_cluster.ask(target, "CLUSTER SETSLOT", SLOT, "IMPORTING", source.node_id)
    await valkey_cluster.ask(source, "CLUSTER SETSLOT", SLOT, "MIGRATING", target.node_id)
    moved = KEYS.models
    await valkey_cluster.ask(source, "MIGRATE", "127.0.0.1", target.port, moved, 0, 5000)
    assert await sharded.get(KEYS.cluster) == b"1"
    assert await sharded.get(moved) == b"2"
    script = "return {redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])}"
    with pytest.raises(TryAgainError):
        await sharded.eval(script, 2, KEYS.cluster, moved)

    async def wait() -> object:
        return await sharded.eval(script, 2, KEYS.cluster, moved)

    waiting = asyncio.create_task(wait())
    await valkey_cluster.migrate(SLOT, target)
    assert await waiting == [b"1", b"2"]


async def test_announcements_reach_every_server(sharded: Redis, valkey_cluster: ValkeyCluster) -> None:
    """Whichever server a subscriber is at, it hears of every cluster."""
    heard = []
    for member in valkey_cluster.members:
        async with open_client(member.url) as client, client.pubsub() as channel:
            await channel.psubscribe("moeplace:*:wake")
            await channel.get_message(timeout=5)
            await sharded.publish(KEYS.wake, "work")
            message = await channel.get_message(timeout=5)
            heard.append(message and message["data"])
    assert heard == [b"work"] * 3


async def test_on_disk_at_each_server(sharded: Redis) -> None:
    """`durable` waits at the servers that were written to."""
    await require_durability(sharded)
    await DiskSync(sharded).wait(KEYS.disk_mark, INDEX_DISK_MARK)
    assert await sharded.exists(KEYS.disk_mark) == 1


async def test_the_wrong_kind_of_url_is_told(
    valkey_cluster: ValkeyCluster, redis_server: EmbeddedServer
) -> None:
    """A cluster's server given as a single one, a single one as a cluster's, and hosts that are none."""
    with pytest.raises(StorageError, match=r"redis\+cluster://"):
        await connect(valkey_cluster.members[0].url)
    async with open_client(valkey_cluster.url) as client:
        assert (await check_server(client)).engine in {"Valkey", "Redis"}
    for url in ("redis+cluster://", "redis+cluster://a:b,c", "redis+cluster://a:1/3", "unix+cluster:///a"):
        with pytest.raises(StorageError, match="redis_url"):
            open_client(url)


async def test_one_server_less_leaves_the_others(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The keys of a dead server are out of reach, those of the others are not, in the same pipeline too;
    with a replica it is replaced, and everything is found again."""
    cluster = ValkeyCluster(tmp_path_factory.mktemp("losing"), primaries=3)
    try:
        await cluster.join()
        dead = await cluster.owner(SLOT)
        await cluster.replicate(dead)
        names = [KEYS.cluster, *(f"moeplace:{{c{index}}}:cluster" for index in range(20))]
        async with open_client(cluster.url) as client:
            for name in names:
                await client.set(name, "1")
            await asyncio.sleep(0.1)  # replication is asynchronous
            elsewhere = [name for name in names if await cluster.owner(key_slot(name.encode())) is not dead]
            dead.kill()
            async with client.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.get(name)
                replies = await pipe.execute(raise_on_error=False)
            there = [name for name, reply in zip(names, replies, strict=True) if reply == b"1"]
            assert there == elsewhere
            async with asyncio.timeout(30):
                while True:
                    try:
                        assert await client.get(KEYS.cluster) == b"1"
                        break
                    except RedisConnectionError:
                        await asyncio.sleep(0.1)
    finally:
        cluster.close()
