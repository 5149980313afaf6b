"""How early copies can begin and end, given how far experts are from where they are missing, and what memory
has to be free first."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from migrations.diff import Difference
from migrations.model import Limits
from solvers.problem import Bools, Float64, Int64, PlacementProblem

MANY_NODES: Final = 160
"""Above, ways through third nodes are too many to look at."""

MANY_WAYS: Final = 2e8
"""Experts times nodes squared: the same."""

_ROUNDS: Final = 40  # of waits for waits, at most; where full nodes wait for each other there are as many


class Earliest(NamedTuple):
    """Row i is of expert columns[i]. room float64[N, sizes]: before, a node has no room for an expert of a
    size; kinds int64[E]: the size of each expert. arrival float64[rows, N]: before, no copy of the expert
    can be in place on the node; 0 where it is from the start. drop float64[E]: before, no node can spare its
    copy."""

    columns: Int64
    kinds: Int64
    room: Float64
    arrival: Float64
    drop: Float64


def earliest(problem: PlacementProblem, difference: Difference, rates: Float64) -> Earliest:
    """Times, in seconds from the start, that no schedule can come before, whatever else it copies.

    A node has room for a copy once it could have dropped enough; an expert that has no copy to spare can be
    dropped once one more copy of it is in place somewhere; that takes room there, and the time of a copy from
    one of its first holders. The least times that agree with each other follow in rounds, from 0 upwards, so
    they are bounds after each. Then a copy ends, at the earliest, after those on the fastest way from a
    holder, which may lead through any nodes that have room. rates float64[N + 1, N]. O(experts N^2 rounds).
    """
    holders = difference.source.holds.astype(bool)
    with np.errstate(divide="ignore"):
        pace: Float64 = 1.0 / rates
    size = problem.column_bytes.astype(np.float64)
    sizes, kinds = np.unique(problem.column_bytes, return_inverse=True)
    free = problem.capacity_bytes - difference.source.used_bytes(problem)
    columns = np.flatnonzero(difference.missing.any(axis=0))
    room, drop = _room(holders, difference, pace, size, sizes, kinds, free)
    arrival = np.zeros((len(columns), problem.nodes))
    for row, column in enumerate(columns.tolist()):
        seconds = pace * size[column]
        arrival[row] = _arrival(holders[:, column], seconds, room[:, kinds[column]])
    return Earliest(columns, kinds.astype(np.int64), room, arrival, drop)


def _room(
    holders: Bools,
    difference: Difference,
    pace: Float64,
    size: Float64,
    sizes: Int64,
    kinds: Int64,
    free: Int64,
) -> tuple[Float64, Float64]:
    nodes, experts = holders.shape
    room, drop = np.zeros((nodes, len(sizes))), np.zeros(experts)
    tight = holders.sum(axis=0) <= difference.keep
    short = free[:, None] < sizes[None, :]
    waiting = np.flatnonzero(short.any(axis=1) & (holders & tight).any(axis=1)).tolist()
    if not waiting:
        return room, drop
    columns = np.flatnonzero((holders[waiting] & tight).any(axis=0))
    into = np.empty((len(columns), nodes))  # seconds of a copy from the nearest of the first holders
    for row, column in enumerate(columns.tolist()):
        first = np.append(holders[:, column], True)
        into[row] = pace[first].min(axis=0) * size[column]
        into[row, holders[:, column]] = np.inf
    held = [np.flatnonzero(holders[n]) for n in waiting]
    for _ in range(_ROUNDS):
        drop[columns] = (room[:, kinds[columns]].T + into).min(axis=1)
        before = room.copy()
        for n, own in zip(waiting, held, strict=True):
            order = np.argsort(drop[own], kind="stable")
            freed = free[n] + np.concatenate([[0.0], np.cumsum(size[own][order])])
            when = np.concatenate([[0.0], drop[own][order], [np.inf]])
            room[n] = when[np.searchsorted(freed, sizes, side="left")]
        if np.array_equal(room, before):
            break
    return room, drop


def _arrival(held: Bools, seconds: Float64, room: Float64) -> Float64:
    """float64[N]: when each node has the expert at the earliest; seconds float64[N + 1, N] of each copy."""
    at = np.where(held, 0.0, np.inf)
    for _ in range(len(at)):
        start = np.maximum(np.append(at, 0.0)[:, None], room[None, :])
        nearer = np.minimum(at, (start + seconds).min(axis=0))
        if np.array_equal(nearer, at):
            break
        at = nearer
    return at


def receiving_seconds(
    problem: PlacementProblem, difference: Difference, limits: Limits, rates: Float64, times: Earliest
) -> float:
    """No schedule is shorter: every copy has to arrive, and what a node has no room for, or no source, until
    some time has to be received from then on. O(N E log E)."""
    missing = difference.missing
    size = problem.column_bytes.astype(np.float64)
    with np.errstate(divide="ignore"):
        pace: Float64 = 1.0 / rates
    fastest = pace.min(axis=0) / limits.max_receives
    free = problem.capacity_bytes - difference.source.used_bytes(problem)
    bound = 0.0
    wanted = missing[:, times.columns]
    if wanted.any():
        bound = float(times.arrival.T[wanted].max())
    for n in np.flatnonzero(missing.any(axis=1)).tolist():
        own = np.flatnonzero(missing[n])
        rows = np.searchsorted(times.columns, own)
        others = np.append(times.arrival[rows], np.zeros((len(rows), 1)), axis=1)
        start = np.maximum(others, times.room[n, times.kinds[own]][:, None])
        seconds = np.where(np.isfinite(pace[:, n]), size[own][:, None] * pace[:, n], np.inf)
        bound = max(bound, _shortest(start, seconds, limits.max_receives))
        gone = np.flatnonzero(difference.superfluous[n])
        order = np.argsort(times.drop[gone], kind="stable")
        freed = np.concatenate([[0.0], np.cumsum(size[gone][order])[:-1]]) if len(gone) else np.zeros(0)
        left = size[own].sum() - free[n] - freed  # bytes that cannot begin before each drop
        late = times.drop[gone][order] + left * fastest[n]
        if (left > 0).any():
            bound = max(bound, float(late[left > 0].max()))
    return bound


def _shortest(start: Float64, seconds: Float64, at_once: int) -> float:
    """The least time in which a node can receive copies, each from one of its senders: when it has the expert
    at the earliest, and how long the copy takes, float64[copies, senders].

    Within T a copy can come only from a sender from which it ends by then. So it takes at least the least
    seconds of these, and begins at the earliest of these starts; the less time there is the more is needed,
    and the bound is the least T that is enough.
    """
    ends = start + seconds
    times = np.unique(ends[np.isfinite(ends)])
    times = times[times >= ends.min(axis=1).max()]
    if not len(times):
        return float("inf")

    def needed(within: float) -> float:
        able = ends <= within
        begins = np.where(able, start, np.inf).min(axis=1)
        takes = np.where(able, seconds, np.inf).min(axis=1) / at_once
        order = np.argsort(-begins, kind="stable")
        return float((begins[order] + np.cumsum(takes[order])).max())

    low, high = 0, len(times) - 1
    while low < high:
        middle = (low + high) // 2
        if needed(times[middle]) < times[middle + 1]:
            high = middle
        else:
            low = middle + 1
    return max(float(times[low]), needed(times[low]))
