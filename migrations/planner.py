"""The way from one placement to another."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np

from migrations.allocation import Allocation
from migrations.checks import impossible, listed
from migrations.deadlock import SEARCH_STATES, Eviction, Relief, Searched, search
from migrations.dependencies import Dependencies, Step
from migrations.diff import Difference, difference
from migrations.earliest import MANY_NODES
from migrations.estimate import bound_and_allocation
from migrations.model import ORIGIN, Estimate, Limits, Move, MoveKind, Plan, PlanStatus
from migrations.naming import BY_INDEX, Names
from migrations.relays import with_relays
from migrations.schedule import Policy, Schedule
from migrations.timing import copy_rates
from migrations.traffic import Traffic
from solvers.feasible.packing import packs_within_bytes
from solvers.problem import Float64, PlacementProblem, UInt8
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

_STRICT: Final = (
    Policy(strict=True),
    Policy(strict=True, by_loss=True),
    Policy(strict=True, urgency=0.4, bulk=1.0),
    *(Policy(strict=True, seed=seed) for seed in range(1, 13)),
)
"""Tried next: where links are unlike, a copy that waits for the right sender ends earlier than one that does
not. In turn with copies through third nodes, and without."""

_GOOD_ENOUGH: Final = 1.03
"""Times the lower bound: of plans as short as this, the one with the least latency meanwhile is taken."""

_COPIES_SCHEDULED: Final = 10_000  # in all attempts, unless it is the first
_PAIRS_PER_COPY: Final = 2_000  # of node and expert, as long to set up as a copy to schedule
_COPIES_SHUFFLED: Final = 4_000  # the same, beyond which luck is not tried
_COPIES_STRICT: Final = 8_000  # of attempts that wait for senders, unless it is the first two
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
    return _plan(problem, change, limits, names, _POLICIES, _SHUFFLED, _STRICT)


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
    return _plan(problem, change, limits, BY_INDEX, policies, (), ())


@dataclass(frozen=True, eq=False)
class _Attempt:
    """excess_latency: what tokens wait on the way beyond what they do in the target, in seconds."""

    schedule: Schedule
    seconds: float
    excess_latency: float


def _plan(
    problem: PlacementProblem,
    change: Difference,
    limits: Limits,
    names: Names,
    policies: tuple[Policy, ...],
    others: tuple[Policy, ...],
    strict: tuple[Policy, ...],
) -> Plan:
    reason = impossible(problem, change, limits, names)
    if reason is not None:
        return _infeasible(change, reason)
    bound, allocation = bound_and_allocation(problem, change, limits)
    traffic = Traffic(problem, change)
    end = max(bound, allocation.seconds)
    copies = int(change.missing.sum())
    work = copies + change.missing.size // _PAIRS_PER_COPY

    def attempt(
        policy: Policy, states: int, way: Difference = change, senders: Allocation = allocation
    ) -> _Attempt | str:
        schedule = Schedule(problem, way, limits, traffic, senders, end, policy)
        reason = _carry_out(problem, change, limits, schedule, names, states)
        if reason is not None:
            return reason
        return _Attempt(schedule, schedule.now, schedule.latency_area - traffic.after * schedule.now)

    def rank(made: _Attempt) -> tuple[float, float]:
        """Shorter, unless short enough; then less latency meanwhile."""
        return max(made.seconds, _GOOD_ENOUGH * bound), made.excess_latency

    def better(best: _Attempt | None, made: _Attempt | str) -> _Attempt | None:
        if isinstance(made, str) or (best is not None and rank(best) <= rank(made)):
            return best
        return made

    def good() -> bool:
        return best is not None and best.seconds <= _GOOD_ENOUGH * bound

    best: _Attempt | None = None
    few = copies <= _FEW_COPIES
    for attempts, policy in enumerate((*policies, *others), 1):
        most = _COPIES_SCHEDULED if attempts <= len(policies) else _COPIES_SHUFFLED
        if attempts > 1 and attempts * work > most:
            break
        if (few and attempts > _FEW_ATTEMPTS) or (good() and attempts > (2 if few else len(policies))):
            break
        best = better(best, attempt(policy, 0))
    if not good() and strict:
        quick = packs_within_bytes(problem)  # otherwise devices are laid out by integer programmes
        ways = [(change, allocation)]
        if problem.nodes <= MANY_NODES:
            ways.insert(0, with_relays(problem, change, limits, allocation, bound))
        for attempts, (policy, way) in enumerate(product(strict, ways), 1):
            slow = best is None or not quick or attempts * work > _COPIES_STRICT
            if good() or (attempts > 2 and slow):
                break
            best = better(best, attempt(policy, 0, *way))
    if best is None:
        # The search takes long, and is needed only where no policy gets through all deadlocks.
        searched = attempt(policies[0], SEARCH_STATES)
        if isinstance(searched, str):
            return _infeasible(change, searched)
        best = searched
    return _made(problem, change, limits, best.schedule, bound)


def _made(
    problem: PlacementProblem, change: Difference, limits: Limits, schedule: Schedule, bound: float
) -> Plan:
    dependencies = Dependencies(problem, change, limits, schedule.free)
    dependencies.follow(schedule.log, schedule.layouts)
    for node, column in np.argwhere(schedule.superfluous()).tolist():
        dependencies.drop_leftovers(node, column)
    moves = _moves(problem, dependencies.steps)
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
    problem: PlacementProblem,
    change: Difference,
    limits: Limits,
    schedule: Schedule,
    names: Names,
    states: int,
) -> str | None:
    """Run the schedule to its end, through deadlocks; the reason where there is no way on."""
    rates = copy_rates(problem, limits)
    relief: Relief | None = None
    while True:
        schedule.run()
        if schedule.done:
            return None
        if schedule.cancel_relays():
            continue
        relief = relief or Relief(problem, change, rates)
        way = relief.next(schedule)
        if way is None:
            found = search(problem, change, rates, schedule, states)
            if not found.steps:
                return _deadlock(problem, schedule, found, names)
            for source, node, column in found.steps:
                _step(schedule, source, node, column)
        elif isinstance(way, Eviction):
            for column in way.columns:
                schedule.drop(way.node, column)
            if schedule.make_room(way.node, way.column):
                schedule.start(_fastest(schedule, rates, way.node, way.column), way.node, way.column)
        elif schedule.make_room(way.place, way.column):
            schedule.park(way.place, way.column)
            schedule.start(_fastest(schedule, rates, way.place, way.column), way.place, way.column)


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


def _fastest(schedule: Schedule, rates: Float64, node: int, column: int) -> int:
    """The fastest sender of the expert into the node, the origin being N; the first among equals."""
    rate = rates[:, node].copy()
    rate[:-1][~schedule.serving()[:, column]] = 0.0
    return int(np.argmax(rate))


def _deadlock(problem: PlacementProblem, schedule: Schedule, found: Searched, names: Names) -> str:
    lacking = []
    size = problem.column_bytes
    for node in range(problem.nodes):
        waiting = schedule.waiting(node)
        if not waiting:
            continue
        room = schedule.free_bytes(node) + int(size[schedule.droppable(node)].sum())
        lack = int(size[waiting].min()) - room
        what = f"lacks {lack} bytes" if lack > 0 else "lacks room on one device"
        lacking.append(f"{names.node(node)} {what} for the next of {len(waiting)} experts")
    how = _PROVED if found.exhausted else "none was found, though one may exist"
    return f"full nodes wait for each other, {how}: " + listed(lacking)


def _infeasible(change: Difference, reason: str) -> Plan:
    return Plan(
        PlanStatus.INFEASIBLE,
        reason,
        change.source.digest,
        change.target.digest,
        (),
        Estimate(0, 0.0, 0.0),
    )


def _moves(problem: PlacementProblem, steps: list[Step]) -> tuple[Move, ...]:
    order = sorted(range(len(steps)), key=lambda i: (steps[i].start, i))
    position = [0] * len(steps)
    for place, index in enumerate(order):
        position[index] = place
    offset: list[int] = problem.block_offset.tolist()
    block_of: list[int] = problem.column_block.tolist()
    size: list[int] = problem.column_bytes.tolist()
    moves: list[Move] = []
    for place, index in enumerate(order):
        step = steps[index]
        block = block_of[step.column]
        moves.append(
            Move(
                move_id=_name(place),
                kind=MoveKind.DROP if step.source is None else MoveKind.COPY,
                block=block,
                expert=step.column - offset[block],
                source=ORIGIN if step.source == problem.nodes else step.source,
                destination=step.node,
                bytes=size[step.column],
                depends_on=tuple(_name(at) for at in sorted({position[i] for i in step.after})),
                start_seconds=step.start,
                end_seconds=step.end,
            )
        )
    return tuple(moves)


def _name(position: int) -> str:
    return f"m{position:05d}"
