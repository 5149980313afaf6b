"""A server of a cluster that does not answer holds up its own clusters' windows, and nobody else's."""

import asyncio
import signal

import pytest
from redis.crc import key_slot

from app.errors import Unavailable
from app.storage.client import open_client
from app.storage.keys import ClusterKeys
from app.telemetry.lanes import CommitLanes
from app.telemetry.store import Append, Outcome
from tests.valkey_cluster import ValkeyCluster

pytestmark = pytest.mark.anyio


def window(cluster_id: str, sequence_number: int) -> Append:
    """Of a node that nobody has registered: what the server says of it is an answer too."""
    return Append(ClusterKeys(cluster_id), b"", "n", "i", sequence_number, b"w", 1 << 30)


async def test_a_stopped_server_stops_its_own_lane(
    valkey_cluster: ValkeyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one of three servers is stopped, windows of clusters on the others are answered at once, those of
    its own with 503 when it takes too long; once it goes on, they are taken again."""
    monkeypatch.setattr("app.storage.client.COMMAND_TIMEOUT_SECONDS", 0.5)
    stopped = await valkey_cluster.owner(key_slot(b"c0"))
    number = 1
    while await valkey_cluster.owner(key_slot(f"c{number}".encode())) is stopped:
        number += 1
    other = f"c{number}"
    async with open_client(valkey_cluster.url) as redis:
        lanes = CommitLanes(redis)
        assert await lanes.append(window("c0", 1)) is Outcome.UNKNOWN_INSTANCE
        assert await lanes.append(window(other, 1)) is Outcome.UNKNOWN_INSTANCE
        stopped.process.send_signal(signal.SIGSTOP)
        try:
            held_up = asyncio.ensure_future(lanes.append(window("c0", 2)))
            await asyncio.sleep(0)
            for sequence_number in range(2, 10):
                assert await lanes.append(window(other, sequence_number)) is Outcome.UNKNOWN_INSTANCE
            assert not held_up.done()
            with pytest.raises(Unavailable):
                await held_up
        finally:
            stopped.process.send_signal(signal.SIGCONT)
        await lanes.drain()
        await valkey_cluster.settled(valkey_cluster.members)
        assert await lanes.append(window("c0", 3)) is Outcome.UNKNOWN_INSTANCE
