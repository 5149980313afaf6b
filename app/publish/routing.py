"""The routing tables in force, and who uses which."""

import asyncio
import time
from collections.abc import Mapping
from typing import cast

import numpy as np
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.observe.observation import Observation
from app.publish.assignments import Tables, assignment_contents, assignment_versions, encode_assignments
from app.publish.withdrawal import HeldCopy, Withdrawal
from app.statistics.fleet import Fleet, UnknownExpert
from app.storage import topics
from app.storage.documents import queue_document
from app.storage.fenced import fenced
from app.storage.keys import ClusterKeys
from app.storage.lease import Lease
from solvers.problem import Float64, PlacementProblem, UInt8

LATENCY_TOLERANCE = 0.1
"""Relative change of a measured latency below which tables stay: measurements always differ a little."""

REST_FACTOR = 3.0
"""Tables are made at most this share of the time: after taking t they rest for REST_FACTOR * t."""


class RoutingTables:
    """The assignments of one cluster, for as long as one lease lasts."""

    def __init__(self, redis: Redis, keys: ClusterKeys, lease: Lease, withdrawal: Withdrawal) -> None:
        self._redis = redis
        self._keys = keys
        self._lease = lease
        self._withdrawal = withdrawal
        self._made_of: tuple[object, ...] = ()
        self._latency: Float64 = np.zeros((0, 0))
        self._origin_latency: Float64 = np.zeros(0)
        self._latency_set = 0
        self._rests_until = 0.0
        self._taken_over = False
        self._attempts = 0
        self.versions: Mapping[str, str] = {}
        """node_id -> version of its assignment."""
        self.settled = False
        """Nothing has changed since the tables were made."""

    async def refresh(self, observation: Observation, problem: PlacementProblem) -> bool:
        """Write the assignments that changed; False when there was nothing to do, or not yet.

        They are made of what nodes are observed to serve, without the withdrawn copies. `problem` gives
        latencies and devices.
        """
        in_force = observation.in_force
        if in_force is None:
            return False
        self._follow_latency(problem)
        made_of = (
            observation.spec_version,
            observation.held_version,
            observation.live_version,
            in_force.generation,
            in_force.document.metadata.digest,
            observation.obsolete,
            self._latency_set,
            self._withdrawal.revision,
        )
        self.settled = made_of == self._made_of
        if self.settled or time.monotonic() < self._rests_until:
            return False
        begun = time.monotonic()
        if not self._taken_over:
            self.versions = await self._stored_versions(observation.fleet)
            self._taken_over = True
        left_out = self._withdrawal.copies
        origin = observation.cluster.settings.origin
        tables = Tables(
            fleet=observation.fleet,
            problem=problem.replace(
                latency_seconds=self._latency, origin_latency_seconds=self._origin_latency
            ),
            desired=in_force.holds,
            serving=without(observation.fleet, observation.held, left_out),
            origin_url=None if origin is None else origin.base_url,
            uid=observation.cluster.uid,
            generation=in_force.generation,
            obsolete=observation.obsolete,
        )
        contents = await asyncio.to_thread(assignment_contents, tables)
        self._attempts += 1
        versions = assignment_versions(
            tables, contents, self.versions, f"{self._lease.token}-{self._attempts}"
        )
        changed = {
            node_id: contents[node_id]
            for node_id, version in versions.items()
            if self.versions.get(node_id) != version
        }
        documents = await asyncio.to_thread(encode_assignments, tables, changed, versions)

        def queue(pipe: Pipeline) -> None:
            for node_id, document in documents.items():
                queue_document(pipe, self._keys.assignment(node_id), document)
            topics.announce(pipe, self._keys, *map(topics.assignment, documents))

        if documents:
            await fenced(self._redis, self._lease, queue)
        self.versions = versions
        self._withdrawal.tables_made(versions, left_out)
        self._made_of = made_of
        self.settled = True
        self._rests_until = time.monotonic() + REST_FACTOR * (time.monotonic() - begun)
        return True

    async def _stored_versions(self, fleet: Fleet) -> dict[str, str]:
        """Of the assignments that the worker before has left."""
        pipe = self._redis.pipeline(transaction=False)
        for node_id in fleet.node_ids:
            pipe.hmget(self._keys.assignment(node_id), ["uid", "generation", "digest"])
        found = cast("list[list[bytes | None]]", await pipe.execute())
        return {
            node_id: b".".join(part for part in parts if part is not None).decode()
            for node_id, parts in zip(fleet.node_ids, found, strict=True)
            if None not in parts
        }

    def in_use(self, observation: Observation) -> dict[str, str | None]:
        """Node -> version of the assignment it says it routes by; of live nodes, and of those that were lost
        less than a lease ago: they are silent, and may go on serving their tokens as they did."""
        return {
            node_id: status.assignment_version
            if (status := observation.statuses.get(node_id)) is not None
            else None
            for node_id in observation.live | observation.lately_lost
        }

    def _follow_latency(self, problem: PlacementProblem) -> None:
        """Take over latencies that differ from those in the tables by more than the tolerance."""
        if self._latency.shape != problem.latency_seconds.shape:
            self._latency = problem.latency_seconds.copy()
            self._origin_latency = problem.origin_latency_seconds.copy()
            self._latency_set += 1
            return
        for used, measured in (
            (self._latency, problem.latency_seconds),
            (self._origin_latency, problem.origin_latency_seconds),
        ):
            near = np.isclose(used, measured, rtol=LATENCY_TOLERANCE, atol=0.0)
            if not near.all():
                used[~near] = measured[~near]
                self._latency_set += 1


def without(fleet: Fleet, held: UInt8, copies: frozenset[HeldCopy]) -> UInt8:
    """`held` uint8[N, E] less the copies; those of nodes or models no longer registered are gone anyway."""
    if not copies:
        return held
    serving = held.copy()
    for copy in copies:
        try:
            serving[fleet.row(copy.node_id), fleet.column(copy.model_id, copy.layer, copy.expert)] = 0
        except UnknownExpert:
            continue
    return serving
