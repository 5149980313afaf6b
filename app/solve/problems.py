"""A cluster's problem, made anew when what it is made of has changed."""

import asyncio
from datetime import datetime

import numpy as np
from redis.asyncio import Redis

from app.nodes.schemas import LatencySpec
from app.observe.observation import Observation
from app.statistics.batches import batch_problems
from app.statistics.fold import TelemetryFold
from app.statistics.plausibility import Doubt
from app.statistics.problem import BuiltProblem, build_problem
from app.statistics.statistics import MICROSECONDS, Statistics
from app.storage.keys import ClusterKeys
from app.storage.lease import Lease
from solvers.problem import PlacementProblem

Key = tuple[int, int, int, int]


class Problems:
    """One cluster's statistics and problems, for as long as one lease lasts."""

    def __init__(self, redis: Redis, keys: ClusterKeys, lease: Lease) -> None:
        self._fold = TelemetryFold(redis, keys, lease)
        self.statistics_version = 0
        """Rises whenever statistics change."""
        self._base: tuple[tuple[int, int], dict[str, LatencySpec | None], PlacementProblem] | None = None
        self._built: tuple[Key, BuiltProblem] | None = None

    @property
    def until(self) -> datetime | None:
        """End of the newest folded window."""
        return Statistics({}, self.until_us).until

    @property
    def until_us(self) -> int | None:
        return self._fold.until_us

    def newest_us_of_nodes(self) -> dict[str, int]:
        """As of `TelemetryFold`."""
        return self._fold.newest_us_of_nodes()

    @property
    def doubts(self) -> tuple[Doubt, ...] | None:
        """Of the traffic of the newest problem; None before there was one."""
        return None if self._built is None else self._built[1].doubts

    async def fold(self, observation: Observation) -> bool:
        """Fold the telemetry that came; whether some is left for the next look."""
        models = dict(zip(observation.fleet.model_ids, observation.fleet.models, strict=True))
        settings = observation.cluster.settings
        outcome = await self._fold.fold(models, observation.fleet.node_ids, settings)
        if outcome.changed or self.statistics_version == 0:
            self.statistics_version += 1
        return outcome.more

    async def base(self, observation: Observation) -> PlacementProblem | None:
        """Nodes, devices and latencies alone: what routing and releasing need with every look. None without
        nodes or models."""
        if not observation.fleet.nodes or not observation.fleet.models:
            return None
        key = (observation.spec_version, observation.live_version)
        measured = {node_id: status.latency for node_id, status in observation.statuses.items()}
        if self._base is None or self._base[0] != key or self._base[1] != measured:
            built = await asyncio.to_thread(
                build_problem,
                observation.fleet,
                observation.cluster.settings,
                Statistics({}, None),
                holds=np.zeros(observation.fleet.shape, np.uint8),
                live=observation.live,
                statuses=observation.statuses,
            )
            self._base = (key, measured, built.problem)
        return self._base[2]

    async def built(self, observation: Observation) -> BuiltProblem | None:
        """With traffic, and with what nodes hold. None without nodes or models."""
        if not observation.fleet.nodes or not observation.fleet.models:
            return None
        key = (
            observation.spec_version,
            observation.live_version,
            observation.held_version,
            self.statistics_version,
        )
        if self._built is None or self._built[0] != key:
            # Rates of a large fleet take seconds to add up: only here, where they are needed.
            models = dict(zip(observation.fleet.model_ids, observation.fleet.models, strict=True))
            statistics = await self._fold.statistics(models, observation.cluster.settings)
            built = await asyncio.to_thread(
                build_problem,
                observation.fleet,
                observation.cluster.settings,
                statistics,
                holds=observation.held,
                live=observation.live,
                statuses=observation.statuses,
            )
            self._built = (key, built)
        return self._built[1]

    async def since(self, observation: Observation, begun: datetime) -> BuiltProblem | None:
        """With traffic of the time buckets that began at `begun` or later alone. None where there is none."""
        if not observation.fleet.nodes or not observation.fleet.models:
            return None
        models = dict(zip(observation.fleet.model_ids, observation.fleet.models, strict=True))
        statistics = await self._fold.statistics(
            models, observation.cluster.settings, since_us=round(begun.timestamp() * MICROSECONDS)
        )
        if not statistics.traffic:
            return None
        return await asyncio.to_thread(
            build_problem,
            observation.fleet,
            observation.cluster.settings,
            statistics,
            holds=observation.held,
            live=observation.live,
            statuses=observation.statuses,
        )

    async def batches(
        self, observation: Observation, begun: datetime, problem: PlacementProblem
    ) -> tuple[PlacementProblem, ...]:
        """`problem` with the traffic of the time buckets since `begun`, batch by batch. Fewer than two where
        there are too few buckets or routes."""
        models = dict(zip(observation.fleet.model_ids, observation.fleet.models, strict=True))
        buckets = await self._fold.buckets(
            models, observation.cluster.settings, round(begun.timestamp() * MICROSECONDS)
        )
        if len(buckets) < 2:
            return ()
        return await asyncio.to_thread(
            batch_problems, problem, observation.fleet, buckets, observation.live_mask
        )
