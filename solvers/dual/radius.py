"""What a call costs as a sum over levels: how much further it goes while nobody nearer holds the expert."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from solvers.cost.evaluate import nearest_nodes
from solvers.feasible.repair import finite_fallback
from solvers.problem import Bools, Float64, Int64, PlacementProblem


@dataclass(frozen=True, eq=False)
class Levels:
    """The servers of every node by latency, and what each step to the next one costs, in seconds.

    With the servers m_0, m_1, ... of node n in order, the call of an expert held fractionally costs
        c(n, e) = nearest[n] + sum over i of gap[n, i] * max(0, 1 - sum over j <= i of x[m_j, e]),
    which is exact where x is whole. order int64[N, N]; gap float64[N, N], the last one up to the origin;
    nearest float64[N].
    """

    order: Int64
    gap: Float64
    nearest: Float64


def levels(problem: PlacementProblem, most: int | None = None, near: float = 0.0) -> Levels:
    """The levels of a problem, at most `most` of every node with a gap. O(N^2 log N).

    Servers whose latencies from a node lie within a factor of 1 + `near` of each other count as one level, at
    its near end, which no call is below. Of more than `most`, so do those beyond a node's nearest servers.

    Where a node has no origin, the last gap is 0: whoever covers the expert is within reach. Where some are
    not, the gap is up to `finite_fallback`, which is below the true cost, infinity.
    """
    order = nearest_nodes(problem)
    latency = np.take_along_axis(problem.latency_seconds, order, axis=1)
    if most is not None and most < problem.nodes:
        latency[:, most - 1 :] = latency[:, most - 1 : most]
    if near > 0.0:
        begins = latency[:, 0]
        for i in range(1, problem.nodes):
            begins = np.where(latency[:, i] > begins * (1.0 + near), latency[:, i], begins)
            latency[:, i] = begins
    within = np.isinf(problem.origin_latency_seconds) & np.isfinite(latency).all(axis=1)
    beyond = np.where(within, latency[:, -1], finite_fallback(problem))
    edges = np.minimum(np.concatenate((latency, beyond[:, None]), axis=1), beyond[:, None])
    return Levels(order, np.diff(edges, axis=1), edges[:, 0].copy())


def split(levels: Levels, lowest: Float64) -> tuple[Float64, Float64]:
    """The gaps below and above the latency lowest float64[N], float64[N, N] both; together the whole ones."""
    upper = levels.nearest[:, None] + np.cumsum(levels.gap, axis=1)
    below = np.clip(lowest[:, None] - (upper - levels.gap), 0.0, levels.gap)
    return below, levels.gap - below


def edges(gap: Float64) -> Float64:
    """How far each level begins and ends beyond the nearest server, in seconds: float64[N, N + 1]."""
    return np.concatenate((np.zeros((len(gap), 1)), np.cumsum(gap, axis=1)), axis=1)


def places(chosen: Bools) -> tuple[Int64, int]:
    """Numbers for the chosen levels bool[N, N] of every node, int64[N, N], -1 for the others, and how many
    numbers there are. O(N^2)."""
    number = np.where(chosen, np.cumsum(chosen, axis=1) - 1, -1).astype(np.int64)
    return number, int(number.max(initial=-1)) + 1


def most_earned(activity: Float64, order: Int64, gap: Float64, earned: Float64) -> None:
    """Adds to earned float64[N, E] what replicas earn where every call pays for all of its levels. activity
    float64[N, E], calls per second; order, gap as of `Levels`. O(N^2 E)."""
    within = np.cumsum(gap[:, ::-1], axis=1)[:, ::-1]
    pays = np.zeros_like(gap)  # [m, n]: what a call of n pays up to m and beyond
    np.put_along_axis(pays.T, order, within, axis=1)
    earned += np.einsum("mn,ne->me", pays, activity)  # `@` may add in another order on another machine
