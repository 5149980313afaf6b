"""Compiles, or loads from numba's cache, every kernel of the planner."""

from __future__ import annotations

import numpy as np

from migrations.model import PlanStatus
from migrations.planner import plan
from solvers.problem import PlacementProblem


def warm() -> None:
    """Plans tiny changes, so that no later plan waits for a compiler.

    Some tenths of a second with a warm cache, up to half a minute without.
    """
    problem = PlacementProblem(
        expert_bytes=np.array([1]),
        experts_per_block=np.array([3]),
        capacity_bytes=np.array([1, 1, 1]),
        latency_seconds=np.array([[0.001, 0.01, 0.01], [0.01, 0.001, 0.01], [0.01, 0.01, 0.001]]),
        origin_latency_seconds=np.full(3, np.inf),
        route_node=np.array([0, 1], np.int32),
        route_block=np.array([0, 0], np.int32),
        route_experts=np.array([[0, 1], [0, 1]], np.int32),
        route_rate=np.array([1.0, 2.0]),
    )
    third = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]], np.uint8)  # full nodes that swap through a third
    replica = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0]], np.uint8)  # and by dropping a replica early
    for holds, capacity in ((third, [1, 1, 1]), (replica, [2, 2, 0])):
        given = problem.replace(capacity_bytes=np.array(capacity))
        made = plan(given, holds, holds[[1, 0, 2]] if capacity[2] else holds[:, [1, 0, 2]])
        assert made.status is PlanStatus.OK
