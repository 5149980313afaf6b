"""The service on a Redis Cluster: whole fleets, slots that move, a primary that dies, workers that share."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import httpx
import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

from app.storage.client import open_client
from app.storage.keys import CLUSTERS, ClusterKeys
from tests.conftest import TEST_SERVER
from tests.scripted_fleet import converge_and_follow
from tests.senders import NODES, Folded, Posting, Sender, read_folded, register, require_counted_once
from tests.service import Service, start_service
from tests.valkey_cluster import ValkeyCluster

SETTLE_SECONDS = 120.0
LEASE_SECONDS = 4.0
ENVIRONMENT = {"MOEPLACE_WORKER_TICK_SECONDS": "0.1", "MOEPLACE_WORKER_LEASE_SECONDS": str(LEASE_SECONDS)}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    """Of this module, whose last test changes it."""
    cluster = ValkeyCluster(tmp_path_factory.mktemp("cluster"), primaries=3, binary=TEST_SERVER)
    try:
        asyncio.run(cluster.join())
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def service(cluster: ValkeyCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests; each has clusters of its own."""
    service = start_service(
        env={"MOEPLACE_REDIS_URL": cluster.url, **ENVIRONMENT},
        data_dir=tmp_path_factory.mktemp("service") / "data",
    )
    yield service
    service.kill_all()


def on_each_server(cluster: ValkeyCluster, prefix: str) -> list[str]:
    """Ids of clusters, one on each primary."""
    found: dict[int, str] = {}
    index = 0
    while len(found) < 3:
        cluster_id = f"{prefix}{index}"
        owner = asyncio.run(cluster.owner(key_slot(cluster_id.encode())))
        found.setdefault(owner.port, cluster_id)
        index += 1
    return list(found.values())


def test_fleets_converge_on_every_server(service: Service, cluster: ValkeyCluster) -> None:
    """Three fleets at once, their keys on as many primaries: registered, told, migrated, folded, solved."""
    with ThreadPoolExecutor(3) as fleets:
        running = [
            fleets.submit(converge_and_follow, service.base_url, cluster_id)
            for cluster_id in on_each_server(cluster, "fleet")
        ]
        for fleet in running:
            fleet.result()
    assert httpx.get(f"{service.base_url}/readyz").status_code == 200


def test_long_polls_wake_whatever_server_the_change_is_on(service: Service, cluster: ValkeyCluster) -> None:
    """A request that waits for a cluster's status is answered when it changes, long before its time is up."""
    for cluster_id in on_each_server(cluster, "poll"):
        base = f"{service.base_url}/v1/clusters/{cluster_id}"
        httpx.put(base, json={}).raise_for_status()
        deadline = time.monotonic() + SETTLE_SECONDS
        while (answer := httpx.get(f"{base}/placement/status")).status_code != 200:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.05)
        with ThreadPoolExecutor(1) as beside:
            headers = {"If-None-Match": answer.headers["ETag"], "Prefer": "wait=30"}
            waiting = beside.submit(httpx.get, f"{base}/placement/status", headers=headers, timeout=40)
            time.sleep(0.3)
            began = time.monotonic()
            assert httpx.post(f"{base}/placement:pause").is_success
            assert waiting.result().json()["paused"]
            assert time.monotonic() - began < 10


def test_a_deleted_cluster_leaves_nothing(service: Service, cluster: ValkeyCluster) -> None:
    """Its keys are found at its own server, and it is in the index, which is at another one, no more."""

    async def keys_left(cluster_id: str) -> set[bytes]:
        async with open_client(cluster.url) as redis:
            return {key async for key in redis.scan_iter(match=f"moeplace:{{{cluster_id}}}:*")}

    for cluster_id in on_each_server(cluster, "gone"):
        base = f"{service.base_url}/v1/clusters/{cluster_id}"
        httpx.put(f"{base}/models/m", json={"preset": "mixtral-8x7b"}).raise_for_status()
        assert cluster_id in httpx.get(f"{service.base_url}/v1/clusters").json()["clusters"]
        httpx.delete(base).raise_for_status()
        assert cluster_id not in httpx.get(f"{service.base_url}/v1/clusters").json()["clusters"]
        kept = {getattr(ClusterKeys(cluster_id), name).encode() for name in ("fence", "revision", "lease")}
        deadline = time.monotonic() + SETTLE_SECONDS
        while asyncio.run(keys_left(cluster_id)) - kept:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_slot_moves_while_telemetry_flows(service: Service, cluster: ValkeyCluster) -> None:
    """The slot goes from server to server, key by key, four times: no window is lost or counted twice."""
    register(service.base_url, "moving")
    slot = key_slot(b"moving")
    senders = [Sender(service.base_url, "moving", node_id, seed) for seed, node_id in enumerate(NODES)]

    async def move() -> int:
        moved = 0
        for _ in range(4):
            before = sum(sender.windows for sender in senders)
            owner = await cluster.owner(slot)
            target = next(member for member in cluster.members if member is not owner)
            moved += await cluster.migrate(slot, target, pause_seconds=0.02)
            await asyncio.to_thread(wait_for_windows, senders, before + 20)
        return moved

    with Posting(senders):
        assert asyncio.run(move()) > 20
    require_counted_once(asyncio.run(settled(cluster.url, "moving")), senders)


@pytest.mark.timeout(300)
def test_workers_share_evenly_and_take_over(service: Service, cluster: ValkeyCluster) -> None:
    """A second worker gets half of the clusters; killed, it loses them to the first within a lease's time."""
    ids = [f"share{index}" for index in range(24)]
    with httpx.Client(base_url=service.base_url, timeout=20) as client:
        for cluster_id in ids:
            client.put(f"/v1/clusters/{cluster_id}", json={}).raise_for_status()
    everyone = len(httpx.get(f"{service.base_url}/v1/clusters").json()["clusters"])
    holders_become(cluster, [everyone])
    halves = [everyone // 2, everyone - everyone // 2]
    worker = start_worker(cluster)
    try:
        holders_become(cluster, halves)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        killed = time.monotonic()
        holders_become(cluster, [everyone])
        assert time.monotonic() - killed < LEASE_SECONDS + 3  # a busy machine is slow to look
    finally:
        worker.kill()
        worker.wait()


@pytest.mark.timeout(300)
def test_a_dead_primary_is_replaced(service: Service, cluster: ValkeyCluster) -> None:
    """The primary of a cluster's keys is killed while telemetry flows. Its replica takes over, and the
    service goes on by itself. Replication is asynchronous: windows acknowledged in the last moment may be
    lost, and nothing else may; none is counted twice. It comes last: the cluster is changed afterwards."""
    dying = asyncio.run(cluster.owner(key_slot(b"failing")))
    asyncio.run(cluster.replicate(dying))
    register(service.base_url, "failing")
    senders = [Sender(service.base_url, "failing", node_id, seed) for seed, node_id in enumerate(NODES)]
    with Posting(senders):
        wait_for_windows(senders, 30)
        earlier = sum(sender.windows for sender in senders)
        time.sleep(0.5)
        at_death = sum(sender.windows for sender in senders)
        dying.kill()
        wait_for_windows(senders, at_death + 30)
    folded = asyncio.run(settled(cluster.url, "failing"))
    acknowledged = sum(sender.windows for sender in senders)
    lost = acknowledged - folded.totals["windows_total"]
    print(f"{acknowledged} windows acknowledged, {lost} of them lost with the primary")
    assert 0 <= lost <= at_death - earlier + len(senders)
    for sender in senders:
        counted = zip(folded.counts[sender.node_id], sender.counts.tolist(), strict=True)
        assert all(found <= sent for found, sent in counted)
    assert folded.totals["discarded_total"] == 0


def start_worker(cluster: ValkeyCluster) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "app", "worker", "--log-level", "warning"],
        env={**os.environ, "MOEPLACE_REDIS_URL": cluster.url, **ENVIRONMENT},
    )


def holders_become(cluster: ValkeyCluster, expected: list[int]) -> None:
    """Wait until workers hold as many clusters as `expected` says, in any order."""

    async def look() -> None:
        async with open_client(cluster.url) as redis:
            deadline = time.monotonic() + SETTLE_SECONDS
            while (found := await holders(redis)) != sorted(expected):
                assert time.monotonic() < deadline, f"clusters by worker: {found}, expected {expected}"
                await asyncio.sleep(0.05)

    asyncio.run(look())


async def holders(redis: Redis) -> list[int]:
    """How many clusters each worker has."""
    ids = cast("set[bytes]", await redis.smembers(CLUSTERS))
    async with redis.pipeline(transaction=False) as pipe:
        for cluster_id in ids:
            pipe.get(ClusterKeys(cluster_id.decode()).lease)
        values = await pipe.execute()
    return sorted(Counter(value.partition(b":")[2] for value in values if value is not None).values())


def wait_for_windows(senders: list[Sender], goal: int) -> None:
    """Until that many are acknowledged."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while sum(sender.windows for sender in senders) < goal:
        assert time.monotonic() < deadline, [sender.failure for sender in senders]
        time.sleep(0.02)


async def settled(url: str, cluster_id: str) -> Folded:
    """What is folded, once nothing waits any more."""
    deadline = time.monotonic() + SETTLE_SECONDS
    async with open_client(url) as redis:
        while (folded := await read_folded(redis, cluster_id)).left:
            assert time.monotonic() < deadline, folded
            await asyncio.sleep(0.05)
        return folded
