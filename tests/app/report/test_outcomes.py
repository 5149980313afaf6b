"""What became of a placement is measured on traffic from after its convergence, and survives the worker."""

import asyncio
import math
import random
import struct
import time

import numpy as np
import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from app.nodes.schemas import HeldExperts
from app.observe.observation import Observer
from app.placements.publish import publish
from app.placements.schemas import Evidence, NodeHoldings, PlacementOutcome
from app.placements.store import read_outcome
from app.report.outcomes import Outcomes, improvement
from app.solve.problems import Problems
from app.storage.lease import acquire
from app.telemetry.packed import VERSION, PackedRoutes, PackedWindow, pack
from tests.app.worker.simulation import MODEL, Cluster, cluster_settings
from tests.simulation.workers import InlineSolver

pytestmark = pytest.mark.anyio

LOCAL, PEER = 0.0, 0.01  # as simulated nodes have it, and as told below


def holds(**nodes: list[int]) -> list[NodeHoldings]:
    return [
        NodeHoldings(
            node_id=name,
            holds=[HeldExperts(model_id=MODEL, layer=layer, experts=experts) for layer in range(2)],
        )
        for name, experts in nodes.items()
    ]


async def test_achieved_improvement_is_that_of_traffic_after_convergence(redis: Redis) -> None:
    """Node `a` calls expert 3 alone once generation 2, which gives it expert 3, has converged; before it
    called expert 0. Generation 2 is measured on the former only: it saves all of the way to `b`. Nothing is
    measured before an interval has passed; a worker that takes over knows what was noted."""
    cluster = Cluster(redis)
    await cluster.create(cluster_settings(optimization_interval_seconds=1.0, statistics_window_seconds=12.0))
    for name in "ab":
        await cluster.add_node(name, 8, peers={"ab".replace(name, ""): PEER})
    record = await redis.get(cluster.keys.cluster)
    lease = await acquire(redis, cluster.keys, "w1", 60)
    assert lease is not None
    observer, problems = Observer(redis, cluster.keys), Problems(redis, cluster.keys, lease)

    def outcomes() -> Outcomes:
        return Outcomes(redis, cluster.keys, lease, InlineSolver(random.Random(0)), problems)

    observation = await observer.observe()
    assert observation is not None
    assert record is not None
    evidence = Evidence.without_solve("sgd", "INTERVAL").model_copy(
        update={"predicted_improvement_ratio": 0.5, "copies": 2, "copies_avoided": 7}
    )
    for supersedes, held in ((None, holds(a=[0, 1], b=[2, 3])), (1, holds(a=[1, 3], b=[0, 2]))):
        await publish(
            redis, observation.cluster, held, evidence, nodes="ab", models=[MODEL], supersedes=supersedes
        )
    first = outcomes()
    observation = await observer.observe()
    assert observation is not None
    await first.step(observation, converged=False)
    assert await read_outcome(redis, "c", 2) is None
    await first.step(observation, converged=True)
    noted = await read_outcome(redis, "c", 2)
    assert noted is not None
    assert noted.converged_at is not None
    converged = noted.converged_at.timestamp()

    await telemetry(cluster, expert=0, end=converged - 1.0)
    await problems.fold(observation)
    await first.step(observation, converged=True)
    await telemetry(cluster, expert=3, end=converged + 2.5)
    await problems.fold(observation)
    second = outcomes()
    measured: PlacementOutcome | None = None
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline and (measured is None or measured.measured_until is None):
        await second.step(observation, converged=True)
        await asyncio.sleep(0.05)
        measured = await read_outcome(redis, "c", 2)
    assert measured is not None
    assert measured.converged_at == noted.converged_at
    assert measured.achieved_improvement_ratio == pytest.approx(1.0)
    assert measured.mean_latency_seconds == pytest.approx(2 * LOCAL)
    assert measured.mean_latency_seconds_before == pytest.approx(2 * PEER)
    assert (measured.predicted_improvement_ratio, measured.copies, measured.copies_avoided) == (0.5, 2, 7)


async def test_the_true_gap_is_bounded_by_batches_of_traffic_after_convergence(redis: Redis) -> None:
    """Node `a` holds experts 0 and 1 of two layers, and one token of ten calls 2 and 3 of `b`. Three time
    buckets with routes from after convergence make three batches, whose costs and lower bounds the outcome
    and the metric give; it needs no placement before."""
    cluster = Cluster(redis)
    await cluster.create(cluster_settings(optimization_interval_seconds=1.0, statistics_window_seconds=12.0))
    for name in "ab":
        await cluster.add_node(name, 4, peers={"ab".replace(name, ""): PEER})
    lease = await acquire(redis, cluster.keys, "w1", 60)
    assert lease is not None
    observer, problems = Observer(redis, cluster.keys), Problems(redis, cluster.keys, lease)
    observation = await observer.observe()
    assert observation is not None
    await publish(
        redis,
        observation.cluster,
        holds(a=[0, 1], b=[2, 3]),
        Evidence.without_solve("sgd", "INTERVAL"),
        nodes="ab",
        models=[MODEL],
        supersedes=None,
    )
    outcomes = Outcomes(redis, cluster.keys, lease, InlineSolver(random.Random(0)), problems)
    observation = await observer.observe()
    assert observation is not None
    await outcomes.step(observation, converged=True)
    noted = await read_outcome(redis, "c", 1)
    assert noted is not None
    assert noted.converged_at is not None
    for bucket in range(3):
        end = math.ceil(noted.converged_at.timestamp()) + 1.9 + bucket
        await telemetry(cluster, expert=None, end=end, sequence_number=bucket + 1)
    await problems.fold(observation)
    found: PlacementOutcome | None = noted
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline and (found is None or found.true_gap is None):
        await outcomes.step(observation, converged=True)
        await asyncio.sleep(0.05)
        found = await read_outcome(redis, "c", 1)
    assert found is not None
    gap = found.true_gap
    assert gap is not None
    assert (gap.batches, gap.confidence) == (3, 0.95)
    assert 0.0 <= gap.lower_bound <= gap.cost
    assert gap.cost - gap.lower_bound <= gap.gap_upper
    assert gap.gap_upper_ratio == pytest.approx(gap.gap_upper / gap.cost)
    assert found.achieved_improvement_ratio is None
    assert REGISTRY.get_sample_value("moeplace_placement_true_gap_upper_ratio", {"cluster": "c"}) == (
        gap.gap_upper_ratio
    )


async def telemetry(cluster: Cluster, *, expert: int | None, end: float, sequence_number: int = 1) -> None:
    """A window of half a second at `a` whose every token calls one expert in both layers; None: with routes,
    nine of ten to experts 0 and 1 and one to 2 and 3."""
    counts = struct.pack("<4I", *(100 * (number == expert) for number in range(4)))
    routes = []
    if expert is None:
        counts = struct.pack("<4I", 90, 90, 10, 10)
        pairs = np.array([[0, 1], [2, 3]], "<u2").tobytes()
        weights = np.array([90.0, 10.0], "<f4").tobytes()
        routes = [PackedRoutes(layer, 2, pairs, weights) for layer in range(2)]
    end_us = round(end * 1e6)
    window = PackedWindow(
        VERSION, "a", MODEL, f"{MODEL}-1", sequence_number, end_us - 500_000, end_us, 100, None, 4,
        memoryview(2 * counts), None, routes, None, None,
    )  # fmt: skip
    body = pack(window)
    await cluster.redis.xadd(cluster.keys.telemetry, {"w": body})
    await cluster.redis.incrby(cluster.keys.telemetry_bytes, len(body))


@pytest.mark.parametrize(
    ("before", "after", "saved"), [(4.0, 1.0, 0.75), (4.0, 5.0, -0.25), (0.0, 0.0, 0.0), (0.0, 1.0, None)]
)
def test_improvement(before: float, after: float, saved: float | None) -> None:
    """Where everything was local before and is now, nothing was saved, and that is known."""
    assert improvement(before, after) == saved
