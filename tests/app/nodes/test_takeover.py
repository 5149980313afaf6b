"""Two agents under one node_id: the second is refused by name, and an agent that was started again is not."""

import time
from typing import Any

import orjson
import pytest
from httpx import AsyncClient, Response
from redis.asyncio import Redis

from app.observability.metrics import NODE_REGISTRATIONS
from app.storage.keys import ClusterKeys

pytestmark = pytest.mark.anyio

NODE = "/v1/clusters/alpha/nodes/edge-a"
KEYS = ClusterKeys("alpha")


async def register(api: AsyncClient, instance_uid: str, url: str | None, **parameters: Any) -> Response:
    spec = {
        "instance_uid": instance_uid,
        "devices": [{"device_id": "g", "memory_bytes": 1000}],
        "experts_url": url,
    }
    return await api.put(NODE, json=spec, params=parameters)


async def holder(api: AsyncClient) -> str:
    return str((await api.get(NODE)).json()["spec"]["instance_uid"])


async def silent_for(redis: Redis, seconds: float) -> None:
    """The node's lease, of 30 s, is as if it had been heard of so long ago."""
    await redis.zadd(KEYS.node_leases, {"edge-a": (time.time() + 30.0 - seconds) * 1000})


async def test_a_second_agent_is_refused_and_told_of_the_first(api: AsyncClient) -> None:
    """409 node-taken names the agent that lives and when it was heard of, says when to ask again, and leaves
    the node to it."""
    assert (await register(api, "one", "http://10.0.0.1:9000")).status_code == 201
    refused = await register(api, "two", "http://10.0.0.2:9000")
    assert refused.status_code == 409
    problem = refused.json()
    assert problem["type"] == "/problems/node-taken"
    assert [(fault["pointer"], fault["code"]) for fault in problem["errors"]] == [
        ("/instance_uid", "NODE_ID_TAKEN")
    ]
    assert "another agent runs as edge-a at http://10.0.0.1:9000" in problem["detail"]
    assert "registered 0 s ago, heard of 0 s ago, alive" in problem["detail"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 15
    assert await holder(api) == "one"


async def test_a_conflict_is_counted_and_kept_for_the_conditions(api: AsyncClient, redis: Redis) -> None:
    """Each refusal counts, and the cluster keeps who the two agents are."""
    before = NODE_REGISTRATIONS.labels("refused")._value.get()
    await register(api, "one", "http://10.0.0.1:9000")
    for _ in range(3):
        await register(api, "two", "http://10.0.0.2:9000")
    assert NODE_REGISTRATIONS.labels("refused")._value.get() == before + 3
    kept = orjson.loads(await redis.hget(KEYS.node_conflicts, "edge-a") or b"")
    assert "http://10.0.0.1:9000" in kept["holder"]
    assert "http://10.0.0.2:9000" in kept["other"]
    assert abs(kept["at_milliseconds"] / 1000 - time.time()) < 60.0


async def test_an_agent_that_was_started_again_has_its_node_at_once(api: AsyncClient) -> None:
    """A new instance at the URL of the one before waits for nothing."""
    await register(api, "one", "http://10.0.0.1:9000")
    assert (await register(api, "two", "http://10.0.0.1:9000")).status_code == 200
    assert await holder(api) == "two"


@pytest.mark.parametrize("url", ["http://10.0.0.1:9000", None])
async def test_two_agents_at_one_url_do_not_take_turns(api: AsyncClient, url: str | None) -> None:
    """Where both say that they serve at the same place, the later one has the node, and the first is refused
    by the other's name when it comes back."""
    await register(api, "one", url)
    await register(api, "two", url)
    refused = await register(api, "one", url)
    assert refused.status_code == 409
    assert "instance_uid two" in refused.json()["detail"]
    assert await holder(api) == "two"


async def test_a_silent_agent_is_replaced_before_its_lease_ends(api: AsyncClient, redis: Redis) -> None:
    """A node that has moved to another address comes back after one and a half heartbeats (10 s each)."""
    await register(api, "one", "http://10.0.0.1:9000")
    await silent_for(redis, 13.0)
    refused = await register(api, "two", "http://10.0.0.2:9000")
    assert refused.status_code == 409
    assert int(refused.headers["Retry-After"]) <= 2
    await silent_for(redis, 16.0)
    assert (await register(api, "two", "http://10.0.0.2:9000")).status_code == 200


async def test_a_replaced_agent_returns_once_the_other_is_silent(api: AsyncClient, redis: Redis) -> None:
    """A refusal lasts no longer than the agent that it is for."""
    await register(api, "one", "http://10.0.0.1:9000")
    await register(api, "two", "http://10.0.0.1:9000")
    await silent_for(redis, 16.0)
    assert (await register(api, "one", "http://10.0.0.1:9000")).status_code == 200
    assert (await register(api, "two", "http://10.0.0.1:9000")).status_code == 409


async def test_take_over_takes_the_node_from_an_agent_that_lives(api: AsyncClient) -> None:
    """An operator who knows better says so, and the agent before is refused from then on."""
    await register(api, "one", "http://10.0.0.1:9000")
    assert (await register(api, "two", "http://10.0.0.2:9000", take_over=True)).status_code == 200
    assert await holder(api) == "two"
    assert (await register(api, "one", "http://10.0.0.1:9000")).status_code == 409


async def test_a_heartbeat_of_a_replaced_agent_names_the_other(api: AsyncClient) -> None:
    """The 409 of a heartbeat says at which URL the agent is that has the node."""
    await register(api, "one", "http://10.0.0.1:9000")
    await register(api, "two", "http://10.0.0.2:9000", take_over=True)
    refused = await api.put(f"{NODE}/status", json={"instance_uid": "one", "sequence_number": 1})
    assert refused.status_code == 409
    assert "by the agent at http://10.0.0.2:9000" in refused.json()["detail"]
