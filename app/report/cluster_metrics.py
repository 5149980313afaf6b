"""What /metrics says of one cluster: set where it is known, by the worker that holds the lease."""

import asyncio
import time
from datetime import datetime
from typing import NamedTuple

import numpy as np

from app.analysis.schemas import Analysis
from app.migrate.execution import Execution
from app.nodes.schemas import ApplyState
from app.observability import metrics
from app.observe.observation import Observation
from app.placements.schemas import PlacementStatus
from app.report.flapping import Flapping
from app.report.stall import Moved, StallClock
from app.solve.problems import Problems
from migrations.states import MoveState, PlanState
from solvers.problem import Float64, PlacementProblem

MICROSECONDS = 1e6


class _Memory(NamedTuple):
    capacity: int
    used: int
    required: int
    largest_node: int
    free_ratios: Float64
    copies: int
    unheld: int


class ClusterMetrics:
    """One cluster's, for as long as one lease lasts."""

    def __init__(self, cluster_id: str) -> None:
        self._cluster = cluster_id
        self._flapping = Flapping()
        self._stall = StallClock()
        self._memory_of: tuple[int, int, int] | None = None

    async def show(
        self,
        observation: Observation,
        status: PlacementStatus,
        base: PlacementProblem | None,
        problems: Problems,
        execution: Execution | None,
        *,
        unwanted: bool,
        now: datetime,
    ) -> None:
        """After each look. `unwanted`: an operator does not want the fleet brought to what is in force."""
        self._show_status(observation, status)
        self._show_nodes(observation, problems, now)
        self._show_migration(status, execution, unwanted=unwanted)
        await self._show_memory(observation, base)

    def show_analysis(self, analysis: Analysis) -> None:
        """What the analysis found, over all nodes."""
        cluster = self._cluster
        live = [node for node in analysis.nodes if node.live]
        metrics.PLACEMENT_NOW_OBJECTIVE.set(cluster, analysis.objective, "held")
        metrics.PLACEMENT_NOW_OBJECTIVE.set(cluster, analysis.desired_objective, "desired")
        metrics.PLACEMENT_NOW_LATENCY.set(cluster, analysis.mean_latency_seconds)
        metrics.PLACEMENT_BALANCEDNESS.set(cluster, analysis.balancedness)
        metrics.CLUSTER_TOKENS.set(cluster, sum(node.tokens_per_second for node in live))
        for by, ratio in zip(metrics.PLACEMENT_SERVED.values, _served(analysis), strict=True):
            metrics.PLACEMENT_SERVED.set(cluster, ratio, by)
        metrics.NODE_LOCAL_HITS.set_statistics(
            cluster, [node.local_hit_ratio for node in live if node.local_hit_ratio is not None]
        )
        metrics.NODE_LATENCY.set_statistics(
            cluster, [node.mean_latency_seconds for node in live if node.mean_latency_seconds is not None]
        )
        metrics.NODE_SERVED.set_statistics(cluster, [node.served_per_second for node in live])

    # --- parts
    def _show_status(self, observation: Observation, status: PlacementStatus) -> None:
        cluster = self._cluster
        for condition in status.conditions:
            metrics.CLUSTER_CONDITION.set(cluster, condition.status, condition.type)
            metrics.CLUSTER_CONDITION_SINCE.set(cluster, condition.since.timestamp(), condition.type)
        metrics.CLUSTER_PAUSED.set(cluster, status.paused)
        live = [node for node in status.nodes if node.live]
        draining = sum(node.draining for node in observation.fleet.nodes if node.node_id in observation.live)
        metrics.CLUSTER_NODES.set(cluster, len(live) - draining, "live")
        metrics.CLUSTER_NODES.set(cluster, draining, "draining")
        metrics.CLUSTER_NODES.set(cluster, len(status.nodes) - len(live), "lost")
        metrics.CLUSTER_NODES_FAILED.set(cluster, sum(node.state is ApplyState.FAILED for node in live))
        behind = [n for n in live if n.missing_count or n.excess_count or not n.routes_current]
        metrics.CLUSTER_NODES_BEHIND.set(cluster, None if status.generation is None else len(behind))
        metrics.CLUSTER_COPIES.set(cluster, sum(node.missing_count for node in live), "missing")
        metrics.CLUSTER_COPIES.set(cluster, sum(node.excess_count for node in live), "excess")

    def _show_nodes(self, observation: Observation, problems: Problems, now: datetime) -> None:
        cluster, clock = self._cluster, time.monotonic()
        came, lost = self._flapping.observe(observation.fleet.rows.keys(), observation.live, clock)
        metrics.NODE_TRANSITIONS.labels("live").inc(came)
        metrics.NODE_TRANSITIONS.labels("lost").inc(lost)
        metrics.CLUSTER_NODES_FLAPPING.set(cluster, self._flapping.count(clock))
        if problems.doubts is not None:
            doubted = {doubt.node_id for doubt in problems.doubts}
            metrics.CLUSTER_NODES_IMPLAUSIBLE.set(cluster, len(doubted))
        metrics.NODE_CLOCK_AHEAD.set_statistics(cluster, observation.clocks_ahead.values())
        until = problems.until_us
        metrics.TELEMETRY_NEWEST.set(cluster, None if until is None else until / MICROSECONDS)
        metrics.NODE_TELEMETRY_AGE.set_statistics(
            cluster,
            [
                max(0.0, now.timestamp() - us / MICROSECONDS)
                for node_id, us in problems.newest_us_of_nodes().items()
                if node_id in observation.live
            ],
        )

    def _show_migration(
        self, status: PlacementStatus, execution: Execution | None, *, unwanted: bool
    ) -> None:
        cluster, moved = self._cluster, None
        counts = dict.fromkeys(metrics.MIGRATION_MOVES.values, 0)
        total = done = 0
        if execution is not None:
            plan = execution.snapshot_progress()
            counts = {
                "pending": execution.count(MoveState.PENDING),
                "released": plan.moves_released,
                "succeeded": plan.moves_succeeded,
                "failed": plan.moves_failed,
            }
            total, done = plan.bytes_total, plan.bytes_done
            moved = Moved(execution.record.plan_id, plan.moves_succeeded, plan.bytes_done)
        for state, count in counts.items():
            metrics.MIGRATION_MOVES.set(cluster, count, state)
        metrics.MIGRATION_BYTES.set(cluster, total, "total")
        metrics.MIGRATION_BYTES.set(cluster, done, "done")
        wanted = any(node.missing_count or node.excess_count for node in status.nodes if node.live)
        if execution is not None:
            wanted = execution.state is PlanState.RUNNING
        stalled = self._stall.observe(moved, wanted=wanted and not unwanted, now=time.monotonic())
        metrics.MIGRATION_STALLED.set(cluster, stalled)

    async def _show_memory(self, observation: Observation, base: PlacementProblem | None) -> None:
        made_of = (observation.spec_version, observation.live_version, observation.held_version)
        if base is None or made_of == self._memory_of:
            return
        self._memory_of = made_of
        found = await asyncio.to_thread(_memory, observation, base)
        cluster = self._cluster
        for kind in metrics.CLUSTER_MEMORY.values:
            metrics.CLUSTER_MEMORY.set(cluster, getattr(found, kind), kind)
        metrics.NODE_FREE_MEMORY.set_statistics(cluster, found.free_ratios.tolist())
        metrics.CLUSTER_COPIES.set(cluster, found.copies, "held")
        metrics.CLUSTER_EXPERTS.set(cluster, base.experts - found.unheld, "held")
        metrics.CLUSTER_EXPERTS.set(cluster, found.unheld, "unheld")


def _memory(observation: Observation, problem: PlacementProblem) -> _Memory:
    """O(N E): call it in a thread."""
    held = observation.held
    used = held.astype(np.int64) @ problem.column_bytes
    capacity = problem.capacity_bytes
    live = observation.live_mask & (capacity > 0)
    usable = np.array([node_id in observation.usable for node_id in observation.fleet.node_ids], np.bool_)
    room = capacity[usable]
    return _Memory(
        capacity=int(room.sum()),
        used=int(used.sum()),
        required=problem.min_replicas * int(problem.column_bytes.sum()),
        largest_node=int(room.max(initial=0)),
        free_ratios=1.0 - used[live] / capacity[live],
        copies=int(held.sum(dtype=np.int64)),
        unheld=int((held.sum(axis=0, dtype=np.int64) == 0).sum()),
    )


def _served(analysis: Analysis) -> list[float | None]:
    """Shares of all expert calls: local, peer, origin, nobody; none is known without calls."""
    calls = [sum(layer.activations_per_second for layer in node.layers) for node in analysis.nodes]
    total = sum(calls)
    if total <= 0:
        return [None] * 4
    ratios = [
        (node.local_hit_ratio, node.peer_ratio, node.origin_ratio, node.unserved_ratio)
        for node in analysis.nodes
    ]
    return [
        sum(calls[row] * (ratio[index] or 0.0) for row, ratio in enumerate(ratios)) / total
        for index in range(4)
    ]
