"""How a placement comes into force: once, after the one it supersedes, and only by whoever may."""

import asyncio
from pathlib import Path

import pytest
from httpx import AsyncClient
from redis.asyncio import Redis

from app.clusters.store import require_cluster
from app.nodes.schemas import HeldExperts
from app.placements.publish import (
    GenerationChanged,
    RecomputationStopped,
    canonical,
    placement_digest,
    publish,
)
from app.placements.schemas import Evidence, NodeHoldings, PlacementDocument
from app.placements.store import generation_in_force, read_generation
from app.storage.client import open_client
from app.storage.keys import ClusterKeys
from app.storage.lease import Lease, LeaseLost, acquire
from tests.app.storage.lost_reply import losing_replies
from tests.conftest import ON_CLUSTER

pytestmark = pytest.mark.anyio

KEYS = ClusterKeys("alpha")
EVIDENCE = Evidence(
    algorithm="sgd",
    objective=None,
    lower_bound=None,
    gap_ratio=None,
    mean_latency_seconds=None,
    objective_before=None,
    migration_bytes=None,
    runtime_seconds=None,
    telemetry_until=None,
    reason="INTERVAL",
)


def holds(*experts: int) -> list[NodeHoldings]:
    return [NodeHoldings(node_id="n", holds=[HeldExperts(model_id="m", layer=0, experts=list(experts))])]


async def bring(
    redis: Redis, experts: tuple[int, ...], supersedes: int | None, lease: Lease | None = None
) -> PlacementDocument:
    cluster = await require_cluster(redis, "alpha")
    return await publish(
        redis,
        cluster,
        holds(*experts),
        EVIDENCE,
        nodes=["n"],
        models=["m"],
        supersedes=supersedes,
        lease=lease,
    )


@pytest.fixture(autouse=True)
async def cluster(api: AsyncClient) -> None:
    assert (await api.put("/v1/clusters/alpha", json={})).status_code == 201


async def test_generations_follow_one_another(redis: Redis) -> None:
    """Only after the generation in force; the document stored is the one returned, under its digest."""
    first = await bring(redis, (1, 0), None)
    assert (first.metadata.generation, first.metadata.supersedes) == (1, None)
    with pytest.raises(GenerationChanged):
        await bring(redis, (2,), None)
    second = await bring(redis, (2,), 1)
    assert (second.metadata.generation, second.metadata.supersedes) == (2, 1)
    with pytest.raises(GenerationChanged):
        await bring(redis, (3,), 1)
    stored = await read_generation(redis, "alpha", 2)
    assert stored is not None
    assert PlacementDocument.model_validate_json(stored.json).spec == second.spec
    assert stored.digest == second.metadata.digest == placement_digest(holds(2))


async def test_of_many_at_once_one_wins(redis: Redis) -> None:
    """However many publish after the same generation, one generation comes of it."""
    await bring(redis, (0,), None)
    results = await asyncio.gather(
        *(bring(redis, (number,), 1) for number in range(20)), return_exceptions=True
    )
    assert sum(isinstance(result, PlacementDocument) for result in results) == 1
    assert sum(isinstance(result, GenerationChanged) for result in results) == 19
    assert await generation_in_force(redis, "alpha") == 2


async def test_a_stale_worker_cannot_publish(redis: Redis) -> None:
    """Whoever lost the lease to another publishes nothing, though the generation is still the one it saw."""
    stale = await acquire(redis, KEYS, "one", 10)
    assert stale is not None
    await bring(redis, (0,), None, stale)
    await redis.delete(KEYS.lease)
    newer = await acquire(redis, KEYS, "two", 10)
    with pytest.raises(LeaseLost):
        await bring(redis, (1,), 1, stale)
    assert await generation_in_force(redis, "alpha") == 1
    assert (await bring(redis, (1,), 1, newer)).metadata.generation == 2


@pytest.mark.parametrize("stop", ["paused", "not automatic"])
async def test_nothing_recomputed_once_that_is_stopped(redis: Redis, api: AsyncClient, stop: str) -> None:
    """What was solved before an operator stopped recomputation comes not into force after; what an operator
    brings does."""
    solved_for = await require_cluster(redis, "alpha")

    async def bring(recomputed: bool) -> PlacementDocument:
        return await publish(
            redis, solved_for, holds(1), EVIDENCE, nodes=["n"], models=["m"], supersedes=None,
            recomputed=recomputed,
        )  # fmt: skip

    if stop == "paused":
        assert (await api.post("/v1/clusters/alpha/placement:pause")).status_code == 200
    else:
        settings = {**solved_for.settings.model_dump(), "automatic": False}
        assert (await api.put("/v1/clusters/alpha", json=settings)).status_code == 200
    with pytest.raises(RecomputationStopped):
        await bring(recomputed=True)
    assert await generation_in_force(redis, "alpha") is None
    assert (await bring(recomputed=False)).metadata.generation == 1


async def test_not_into_a_cluster_created_anew(redis: Redis, api: AsyncClient) -> None:
    """A placement made for a cluster that was deleted does not come into force in its successor."""
    old = await require_cluster(redis, "alpha")
    assert (await api.delete("/v1/clusters/alpha")).status_code == 204
    assert (await api.put("/v1/clusters/alpha", json={})).status_code == 201
    with pytest.raises(GenerationChanged):
        await publish(redis, old, holds(1), EVIDENCE, nodes=["n"], models=["m"], supersedes=None)
    assert await generation_in_force(redis, "alpha") is None


async def test_equal_placements_have_equal_digests() -> None:
    """Order and empty layers do not matter, what is held where does."""
    empty = HeldExperts(model_id="m", layer=9, experts=[])
    shuffled = [NodeHoldings(node_id="n", holds=[empty, *holds(2, 1)[0].holds])]
    assert canonical(shuffled) == holds(1, 2)
    assert placement_digest(shuffled) == placement_digest(holds(1, 2))
    assert placement_digest(holds(1, 2)) != placement_digest(holds(1, 3))


@pytest.mark.skipif(ON_CLUSTER, reason="the proxy is in front of one server")
@pytest.mark.parametrize("leased", [False, True])
async def test_a_placement_whose_reply_is_lost_is_in_force_not_refused(
    redis: Redis, shared_url: str, tmp_path: Path, leased: bool
) -> None:
    """EXEC arrived and its reply did not: the publisher gets the generation that it made, exactly one."""
    lease = await acquire(redis, KEYS, "w", 30) if leased else None
    async with losing_replies(shared_url, tmp_path) as proxy, open_client(proxy.url) as client:
        assert await client.ping()
        proxy.armed = True
        document = await bring(client, (1, 0), None, lease)
    assert proxy.lost == 1
    assert document.metadata.generation == await generation_in_force(redis, "alpha") == 1
