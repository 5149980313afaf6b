"""The way from one placement to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from migrations.allocation import allocate
from migrations.capacity import SEARCH_STATES, Eviction, Relief, Searched, search
from migrations.cluster import Cluster, Step
from migrations.diff import Difference, difference
from migrations.estimate import lower_bound_seconds
from migrations.model import ORIGIN, Estimate, Limits, Move, MoveKind, Plan, PlanStatus
from migrations.naming import BY_INDEX, Names
from migrations.schedule import Policy, Schedule
from migrations.timing import copy_rates
from migrations.traffic import Traffic
from solvers.feasible.packing import pack
from solvers.problem import PlacementProblem, UInt8
from solvers.result import bound_of

_DEFAULT_LIMITS: Final = Limits()

_POLICIES: Final = (
    Policy(by_loss=True),
    Policy(by_flow=False),
    Policy(patience=0.5, by_loss=True),
    Policy(urgency=0.4, bulk=1.0),
    Policy(patience=0.5),
    Policy(by_flow=False, patience=0.5, by_loss=True),
    Policy(by_flow=False, room=0.0, by_loss=True),
    Policy(urgency=0.4),
)
"""No one of them is best everywhere; the first are best most often."""

_SHUFFLED: Final = tuple(
    Policy(by_flow=by_flow, seed=seed) for seed in range(1, 5) for by_flow in (True, False)
)
"""Tried where none of these comes near the bound: luck finds what no rule says."""

_GOOD_ENOUGH: Final = 1.03
"""Times the lower bound: of plans as short as this, the one with the least latency meanwhile is taken."""

_COPIES_SCHEDULED: Final = 10_000  # in all attempts, unless it is the first
_PAIRS_PER_COPY: Final = 2_000  # of node and expert, as long to set up as a copy to schedule
_COPIES_SHUFFLED: Final = 4_000  # the same, beyond which luck is not tried
_FEW_COPIES: Final = 40  # so few are tried under two policies, or four where these miss the bound
_FEW_ATTEMPTS: Final = 4
_PROVED: Final = "no order of moves exists"


def plan(
    problem: PlacementProblem,
    source_holds: UInt8,
    target_holds: UInt8,
    *,
    limits: Limits = _DEFAULT_LIMITS,
    names: Names = BY_INDEX,
) -> Plan:
    """An ordered plan from one placement to another, uint8[N, E] each, under the timing model and `limits`.

    Every prefix of the plan keeps memory, sources and serving copies, in the order of its times and in any
    other that respects `depends_on`. Lists are scheduled under several policies, in a fixed order, until
    10,000 copies were scheduled in all (2,000 pairs of node and expert count as one more); of those within
    1.03 of the lower bound the one with the least latency meanwhile is taken, else the shortest (no
    guarantee; compare `estimate.seconds` with `estimate.lower_bound_seconds`). The devices of one node may be
    laid out anew at any time, as that costs no network: what a node holds must pack on them at every instant.

    INFEASIBLE, with the nodes and the bytes they lack, where the target does not fit, where an expert has no
    source, and where full nodes wait for each other: the reason says whether every order of moves was tried
    (small clusters) or the search gave up (`SEARCH_STATES`), in which case a plan may exist.
    `names` are the words of the reason. Raises `PlanError` naming source_holds or target_holds where they are
    no placements of the problem, or names that do not fit it.
    O(N^2 E + R K), then O(moves (N + columns a node waits for + routes of an expert)) for each attempt.
    """
    names.check(problem)
    change = difference(problem, source_holds, target_holds)
    return _plan(problem, change, limits, names, _POLICIES, _SHUFFLED)


def plan_in_random_order(
    problem: PlacementProblem,
    source_holds: UInt8,
    target_holds: UInt8,
    *,
    seed: int,
    limits: Limits = _DEFAULT_LIMITS,
) -> Plan:
    """As `plan`, with copies and drops in a random order instead of by what they are worth.

    As feasible and about as fast, since sources are chosen and room is made alike: a yardstick for how much
    latency `plan` saves on the way.
    """
    change = difference(problem, source_holds, target_holds)
    policies = Policy(seed=seed), Policy(by_flow=False, seed=seed)
    return _plan(problem, change, limits, BY_INDEX, policies, ())


@dataclass(frozen=True, eq=False)
class _Attempt:
    """excess_latency: what tokens wait on the way beyond what they do in the target, in seconds."""

    cluster: Cluster
    seconds: float
    excess_latency: float


def _plan(
    problem: PlacementProblem,
    change: Difference,
    limits: Limits,
    names: Names,
    policies: tuple[Policy, ...],
    others: tuple[Policy, ...],
) -> Plan:
    reason = _impossible(problem, change, limits, names)
    if reason is not None:
        return _infeasible(change, reason)
    allocation = allocate(problem, change, limits)
    bound = lower_bound_seconds(problem, change, limits, allocation)
    traffic = Traffic(problem, change)
    end = max(bound, allocation.seconds)
    copies = int(change.missing.sum())
    work = copies + change.missing.size // _PAIRS_PER_COPY

    def attempt(policy: Policy, states: int) -> _Attempt | str:
        cluster = Cluster(problem, change, limits)
        schedule = Schedule(change, cluster, traffic, allocation, end, policy)
        reason = _carry_out(problem, cluster, schedule, names, states)
        if reason is not None:
            return reason
        return _Attempt(cluster, schedule.now, schedule.latency_area - traffic.after * schedule.now)

    def rank(made: _Attempt) -> tuple[float, float]:
        """Shorter, unless short enough; then less latency meanwhile."""
        return max(made.seconds, _GOOD_ENOUGH * bound), made.excess_latency

    best: _Attempt | None = None
    for attempts, policy in enumerate((*policies, *others), 1):
        most = _COPIES_SCHEDULED if attempts <= len(policies) else _COPIES_SHUFFLED
        if attempts > 1 and attempts * work > most:
            break
        few = copies <= _FEW_COPIES
        if (
            best is not None
            and best.seconds <= _GOOD_ENOUGH * bound
            and attempts > (2 if few else len(policies))
        ):
            break
        if few and attempts > _FEW_ATTEMPTS:
            break
        made = attempt(policy, 0)
        if isinstance(made, _Attempt) and (best is None or rank(made) < rank(best)):
            best = made
    if best is None:
        # The search takes long, and is needed only where no policy gets through all standstills.
        searched = attempt(policies[0], SEARCH_STATES)
        if isinstance(searched, str):
            return _infeasible(change, searched)
        best = searched
    return _made(problem, change, best.cluster, bound)


def _made(problem: PlacementProblem, change: Difference, cluster: Cluster, bound: float) -> Plan:
    cluster.drop_leftovers()
    moves = _moves(problem, cluster)
    copied = sum(move.bytes for move in moves if move.kind is MoveKind.COPY)
    seconds = max((move.end_seconds for move in moves), default=0.0)
    return Plan(
        PlanStatus.OK,
        None,
        change.source.digest,
        change.target.digest,
        moves,
        Estimate(copied, seconds, bound_of(bound, seconds)),
    )


def _carry_out(
    problem: PlacementProblem, cluster: Cluster, schedule: Schedule, names: Names, states: int
) -> str | None:
    """Run the schedule to its end, through standstills; the reason where there is no way on."""
    relief = Relief(cluster)
    while True:
        schedule.run()
        schedule.follow()
        if schedule.done:
            return None
        way = relief.next(schedule)
        if way is None:
            found = search(problem, cluster, states)
            if not found.steps:
                return _standstill(cluster, schedule, found, names)
            for source, node, column in found.steps:
                _step(schedule, source, node, column)
        elif isinstance(way, Eviction):
            for column in way.columns:
                schedule.drop(way.node, column)
            if schedule.make_room(way.node, way.column):
                schedule.start(_fastest(cluster, way.node, way.column), way.node, way.column)
        elif schedule.make_room(way.place, way.column):
            schedule.park(way.place, way.column)
            schedule.start(_fastest(cluster, way.place, way.column), way.place, way.column)


def _step(schedule: Schedule, source: int | None, node: int, column: int) -> None:
    """Carry out one step of a searched way by itself, so that nothing else takes its room."""
    if source is None:
        schedule.drop(node, column)
        return
    if not schedule.lay_out_for(node, column):
        raise RuntimeError(f"node {node} has no room for a copy that the search made room for")
    schedule.start(source, node, column)
    while not schedule.idle:
        schedule.step()
    schedule.follow()


def _fastest(cluster: Cluster, node: int, column: int) -> int:
    sources = (cluster.serving[column] | 1 << cluster.origin) & cluster.reach[node]
    return max(
        (m for m in range(cluster.nodes + 1) if sources >> m & 1), key=lambda m: (cluster.rate[m][node], -m)
    )


def _impossible(problem: PlacementProblem, change: Difference, limits: Limits, names: Names) -> str | None:
    """Why no order of moves can exist: memory of the target, or an expert without a source."""
    used = change.target.used_bytes(problem)
    lacking = [
        f"{names.node(n)} lacks {used[n] - problem.capacity_bytes[n]} bytes"
        for n in np.flatnonzero(used > problem.capacity_bytes).tolist()
    ]
    if lacking:
        return "the target exceeds the memory: " + _listed(lacking)
    for n in range(problem.nodes):
        columns = np.flatnonzero(change.target.holds[n]).astype(np.int64)
        if change.missing[n].any() and pack(problem, n, columns) is None:
            return f"the target's experts of {names.node(n)} cannot be packed on its devices"
    orphans = [
        f"{names.expert(problem, column)} ({names.node(n)})"
        for n, column in _without_source(problem, change, limits)
    ]
    if orphans:
        return "no node that can be reached holds, and no origin gives: " + _listed(orphans)
    return None


def _without_source(problem: PlacementProblem, change: Difference, limits: Limits) -> list[tuple[int, int]]:
    """(node, column) of missing experts that no chain of copies can bring from a holder or the origin."""
    rates = copy_rates(problem, limits) > 0
    link, origin = rates[: problem.nodes], rates[problem.nodes]
    has = change.source.holds.astype(bool) | origin[:, None]
    columns = np.flatnonzero((change.missing & ~has).any(axis=0))
    reached = has[:, columns]
    from_others = link.T.astype(np.float32)  # sums of ones are exact in it
    for _ in range(problem.nodes):
        grown = reached | (from_others @ reached.astype(np.float32) > 0)
        if (grown == reached).all() or not (change.missing[:, columns] & ~grown).any():
            reached = grown
            break
        reached = grown
    lacking = np.argwhere(change.missing[:, columns] & ~reached)
    return [(int(n), int(columns[c])) for n, c in lacking]


def _standstill(cluster: Cluster, schedule: Schedule, found: Searched, names: Names) -> str:
    lacking = []
    for node in range(cluster.nodes):
        waiting = schedule.waiting(node)
        if not waiting:
            continue
        room = sum(cluster.rooms[node].free.values())
        room += sum(cluster.size[c] for c in cluster.droppable(node))
        lack = min(cluster.size[c] for c in waiting) - room
        what = f"lacks {lack} bytes" if lack > 0 else "lacks room on one device"
        lacking.append(f"{names.node(node)} {what} for the next of {len(waiting)} experts")
    how = _PROVED if found.exhausted else "none was found, though one may exist"
    return f"full nodes wait for each other, {how}: " + _listed(lacking)


def _listed(items: list[str]) -> str:
    shown = ", ".join(items[:8])
    return shown if len(items) <= 8 else f"{shown} and {len(items) - 8} more"


def _infeasible(change: Difference, reason: str) -> Plan:
    return Plan(
        PlanStatus.INFEASIBLE,
        reason,
        change.source.digest,
        change.target.digest,
        (),
        Estimate(0, 0.0, 0.0),
    )


def _moves(problem: PlacementProblem, cluster: Cluster) -> tuple[Move, ...]:
    order = sorted(range(len(cluster.steps)), key=lambda i: (cluster.steps[i].start, i))
    name = {index: f"m{position:05d}" for position, index in enumerate(order)}
    moves: list[Move] = []
    offset = problem.block_offset
    for index in order:
        step: Step = cluster.steps[index]
        block = int(problem.column_block[step.column])
        source = ORIGIN if step.source == cluster.origin else step.source
        moves.append(
            Move(
                move_id=name[index],
                kind=MoveKind.DROP if step.source is None else MoveKind.COPY,
                block=block,
                expert=step.column - int(offset[block]),
                source=source,
                destination=step.node,
                bytes=cluster.size[step.column],
                depends_on=tuple(name[i] for i in sorted(set(step.after), key=lambda i: name[i])),
                start_seconds=step.start,
                end_seconds=step.end,
            )
        )
    return tuple(moves)
