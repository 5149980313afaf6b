"""Copies that go through third nodes, where the links of those that have an expert are scarce."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from migrations.allocation import Allocation
from migrations.diff import Difference
from migrations.kernels.relaying import Spreading, spread_copies
from migrations.model import Limits
from migrations.timing import copy_rates
from solvers.problem import Bools, Float64, Int64, PlacementProblem


def with_relays(
    problem: PlacementProblem, change: Difference, limits: Limits, allocation: Allocation, bound: float
) -> tuple[Difference, Allocation]:
    """The change with copies to third nodes that are to pass experts on, and who sends what then. `bound`:
    seconds that the plan takes at least.

    A relay is a missing pair of the returned change that its target does without. It may be on a node that
    has, or could make, room for the expert, is not drained, and is not kept free of it by a pin. At most one
    per expert. A local search from the senders of `allocation`: nothing is
    promised of how good it is. O(experts N (goals * holders)) a pass.
    """
    nodes = problem.nodes
    if not change.missing.any():
        return change, allocation
    with np.errstate(divide="ignore"):
        pace: Float64 = 1.0 / copy_rates(problem, limits)
    columns = np.flatnonzero(change.missing.any(axis=0))
    quick = np.argsort(pace.min(axis=1)[:nodes], kind="stable")  # those that send fastest first
    goals = [quick[change.missing[quick, column]] for column in columns.tolist()]
    first = np.concatenate([[0], np.cumsum([len(some) for some in goals])]).astype(np.int64)
    goal: Int64 = np.concatenate(goals).astype(np.int64)
    of = np.repeat(columns, np.diff(first))
    holds = np.ones((len(columns), nodes + 1), np.uint8)
    holds[:, :nodes] = change.source.holds[:, columns].T
    slots = np.full(nodes + 1, float(limits.max_sends))
    slots[nodes] = limits.origin_max_sends
    given = Spreading(
        first,
        goal,
        holds,
        _may_relay(problem, change, columns).astype(np.uint8),
        problem.column_bytes[columns].astype(np.float64),
        pace / limits.max_receives,
        pace / slots[:, None],
        max(bound, 1e-9),
    )
    sender: Int64 = allocation.sender[goal, of].astype(np.int64)
    relay, relay_sender = np.full(len(columns), -1), np.full(len(columns), -1)
    spread_copies(given, sender, relay, relay_sender)
    senders = allocation.sender.copy()
    senders[goal, of] = sender
    used = np.flatnonzero(relay >= 0)
    missing = change.missing.copy()
    missing[relay[used], columns[used]] = True
    senders[relay[used], columns[used]] = relay_sender[used]
    return replace(change, missing=missing), replace(allocation, sender=senders)


def _may_relay(problem: PlacementProblem, change: Difference, columns: Int64) -> Bools:
    size = problem.column_bytes
    room = problem.capacity_bytes - change.source.used_bytes(problem) + change.superfluous @ size
    may = room[None, :] >= size[columns][:, None]
    if problem.drained is not None:
        may[:, problem.drained == 1] = False
    if problem.pins is not None:
        may[problem.pins[:, columns].T == -1] = False
    taken = change.source.holds[:, columns].astype(bool) | change.target.holds[:, columns].astype(bool)
    return np.asarray(may & ~taken.T)
