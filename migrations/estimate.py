"""A bound no schedule can beat."""

from __future__ import annotations

import numpy as np

from migrations.allocation import Allocation, allocate
from migrations.diff import Difference
from migrations.earliest import MANY_NODES, MANY_WAYS, earliest, receiving_seconds
from migrations.model import Limits
from migrations.timing import copy_rates
from solvers.problem import Float64, PlacementProblem


def lower_bound_seconds(problem: PlacementProblem, difference: Difference, limits: Limits) -> float:
    """A valid bound on the seconds of any schedule of the timing model between two placements.

    The largest of these, each of which any schedule must respect, whatever extra copies it makes:
    * receiving: a node copies in all it misses, each copy at best at the rate of the fastest source it can
      reach (any node may come to hold the expert), max_receives at a time; and no copy is shorter than that;
    * sending: the first copy of an expert that moves leaves a node that held it, or the origin; where
      only one node can send it, that node sends all such experts one after another, max_sends at a time,
      and where only the origin can, the origin does, origin_max_sends at a time;
    * spreading: while h nodes hold an expert at most h * max_sends + origin_max_sends copies of it run, so
      so many at most finish in the time of its shortest copy between any two nodes;
    * all links: bytes to be copied over what all nodes, with the origin where one is reachable, can send;
    * room: a copy on its way occupies memory without serving, besides the copies of each expert that must
      serve, so the bytes on their way at once are at most what these leave of the memory of all nodes;
    * the cluster's cap: the shortest times of all copies over max_copies;
    * distance and room (up to 160 nodes, `earliest`): an expert arrives after the copies of the fastest way
      from where it is; no copy begins on a node before drops could have made room for it, which for an expert
      without a copy to spare is after another copy of it; what waits for either is received from then on;
    * links: all copies together at the prices of `allocate`.
    Infinite where a missing expert cannot be copied from anywhere. O(N^2 + N E), `earliest` and
    `allocate`.
    """
    return bound_and_allocation(problem, difference, limits)[0]


def bound_and_allocation(
    problem: PlacementProblem, difference: Difference, limits: Limits
) -> tuple[float, Allocation]:
    """`lower_bound_seconds`, and the allocation made for it, which is improved only while it is above the
    bound."""
    bound = _without_prices(problem, difference, limits)
    if not np.isfinite(bound):
        return bound, allocate(problem, difference, limits)
    allocation = allocate(problem, difference, limits, enough=bound)
    return max(bound, allocation.bound_seconds), allocation


def _without_prices(problem: PlacementProblem, difference: Difference, limits: Limits) -> float:
    missing = difference.missing
    if not missing.any():
        return 0.0
    nodes = problem.nodes
    size = problem.column_bytes.astype(np.float64)
    rates = copy_rates(problem, limits)
    with np.errstate(divide="ignore"):
        fastest = 1.0 / rates.max(axis=0)  # float64[N] seconds per byte into each node, at best
    shortest = fastest[:, None] * size[None, :]
    wanted = np.where(missing, shortest, 0.0)
    bounds = [float((wanted.sum(axis=1) / limits.max_receives).max()), float(wanted.max())]
    if limits.max_copies is not None:
        bounds.append(float(wanted.sum()) / limits.max_copies)
    used = difference.source.used_bytes(problem)
    serving = int((difference.keep * problem.column_bytes).sum())
    room = int(np.maximum(problem.capacity_bytes, used).sum()) - serving
    if room > 0:
        bounds.append(float((wanted * size).sum()) / room)
    bounds.append(_sending(difference, limits, rates, size))
    bounds.append(_spreading(difference, limits, rates, shortest.min(axis=0)))

    best_out = rates.max(axis=1)  # the fastest copy each sender can take part in
    capacity = best_out[:nodes].sum() * limits.max_sends + best_out[nodes] * limits.origin_max_sends
    if capacity > 0:
        bounds.append(float((missing * size).sum() / capacity))
    if nodes <= MANY_NODES and missing.any(axis=0).sum() * float(nodes) ** 2 <= MANY_WAYS:
        times = earliest(problem, difference, rates)
        bounds.append(receiving_seconds(problem, difference, limits, rates, times))
    return max(bounds) if np.isfinite(bounds).all() else float("inf")


def _sending(difference: Difference, limits: Limits, rates: Float64, size: Float64) -> float:
    """Seconds the busiest sender needs for the first copies that only it can send."""
    nodes = rates.shape[1]
    holders = difference.source.holds.astype(bool)
    moves = difference.missing.any(axis=0)
    origin = bool((rates[nodes] > 0).any())
    count = holders.sum(axis=0)
    bound = 0.0
    if not origin:
        alone = holders & (moves & (count == 1))[None, :]
        forced = (alone * size).sum(axis=1)
        best = rates[:nodes].max(axis=1)
        busy = forced > 0
        if (busy & (best == 0)).any():
            return float("inf")
        if busy.any():
            bound = float((forced[busy] / best[busy]).max()) / limits.max_sends
    orphans = moves & (count == 0)
    if orphans.any():
        if not origin:
            return float("inf")
        bound = max(bound, float(size[orphans].sum() / rates[nodes].max()) / limits.origin_max_sends)
    return bound


def _spreading(difference: Difference, limits: Limits, rates: Float64, round_seconds: Float64) -> float:
    """Seconds the most wanted expert needs to grow from its first holders to all of its target's."""
    nodes = rates.shape[1]
    extra = limits.origin_max_sends if bool((rates[nodes] > 0).any()) else 0
    copies = difference.missing.sum(axis=0)
    holders = difference.source.holds.sum(axis=0, dtype=np.int64)
    bound = 0.0
    for e in np.flatnonzero(copies > 1).tolist():
        held, goal, rounds = int(holders[e]), int(holders[e] + copies[e]), 0
        while held < goal and (held or extra):
            held += held * limits.max_sends + extra
            rounds += 1
        bound = max(bound, rounds * float(round_seconds[e]))
    return bound
