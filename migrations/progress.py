"""What is known of a plan's moves: reports folded in, and which moves may be released next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from migrations.model import ORIGIN, Limits, MoveKind, Plan, PlanError
from migrations.states import MoveState

_ACTIVE: Final = frozenset({MoveState.RELEASED, MoveState.IN_PROGRESS})

# How much a state knows of one attempt: a report never takes knowledge away.
_KNOWS: Final[Mapping[MoveState, int]] = {
    MoveState.PENDING: 0,
    MoveState.RELEASED: 1,
    MoveState.IN_PROGRESS: 2,
    MoveState.CANCELLED: 3,
    MoveState.FAILED: 4,
    MoveState.SUCCEEDED: 5,
}


@dataclass(frozen=True, slots=True)
class MoveProgress:
    """The full state of a move in its `attempt`, counted from 0; the same shape as a node's report of it."""

    state: MoveState = MoveState.PENDING
    attempt: int = 0
    bytes_done: int = 0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class PlanProgress:
    """Sums over a plan's moves. bytes_total and bytes_done count copies only."""

    counts: Mapping[MoveState, int]
    bytes_total: int
    bytes_done: int
    attempts: int

    @property
    def settled(self) -> bool:
        """No move is running or may still run by itself."""
        return not any(self.counts[state] for state in (MoveState.PENDING, *_ACTIVE))


def fold(known: MoveProgress, report: MoveProgress) -> MoveProgress:
    """What is known of a move after a report of it. O(1).

    Idempotent, commutative and associative, so that repeated, late and reordered reports do no harm: a
    later attempt wins; in the same attempt the state that knows more does, then the most bytes done, then
    the reason that sorts last.
    """
    return max(known, report, key=_knowledge)


def summarise(plan: Plan, moves: Mapping[str, MoveProgress]) -> PlanProgress:
    """Counts and bytes over the plan; a move without an entry is PENDING. O(moves).

    Raises `PlanError` on an entry that is no move of the plan.
    """
    _check_ids(plan, moves)
    counts = Counter(dict.fromkeys(MoveState, 0))
    total = done = attempts = 0
    for move in plan.moves:
        progress = moves.get(move.move_id, MoveProgress())
        counts[progress.state] += 1
        attempts += progress.attempt
        if move.kind is MoveKind.COPY:
            total += move.bytes
            done += (
                move.bytes if progress.state is MoveState.SUCCEEDED else min(progress.bytes_done, move.bytes)
            )
    return PlanProgress(dict(counts), total, done, attempts)


def releasable(plan: Plan, states: Mapping[str, MoveState], limits: Limits) -> list[str]:
    """Ids of the PENDING moves that may be released now, in the order of the plan; all of them at once.

    Everything they depend on has SUCCEEDED, and with the moves already RELEASED or IN_PROGRESS they stay
    within `limits`, per receiver, per sender and in the cluster; drops count nowhere. A move without an entry
    in `states` is PENDING. Raises `PlanError` on an entry that is no move of the plan. O(moves +
    dependencies).
    """
    _check_ids(plan, states)
    receiving: Counter[int] = Counter()
    sending: Counter[int] = Counter()
    running = 0
    for move_id, state in states.items():
        move = plan.by_id[move_id]
        if state in _ACTIVE and move.kind is MoveKind.COPY and move.source is not None:
            receiving[move.destination] += 1
            sending[move.source] += 1
            running += 1
    free: list[str] = []
    for move in plan.moves:
        if states.get(move.move_id, MoveState.PENDING) is not MoveState.PENDING:
            continue
        if any(states.get(name) is not MoveState.SUCCEEDED for name in move.depends_on):
            continue
        if move.kind is MoveKind.COPY and move.source is not None:
            cap = limits.origin_max_sends if move.source == ORIGIN else limits.max_sends
            if receiving[move.destination] >= limits.max_receives or sending[move.source] >= cap:
                continue
            if limits.max_copies is not None and running >= limits.max_copies:
                continue
            receiving[move.destination] += 1
            sending[move.source] += 1
            running += 1
        free.append(move.move_id)
    return free


def _knowledge(progress: MoveProgress) -> tuple[int, int, int, str]:
    return (progress.attempt, _KNOWS[progress.state], progress.bytes_done, progress.reason or "")


def _check_ids(plan: Plan, moves: Mapping[str, object]) -> None:
    for move_id in moves:
        if move_id not in plan.by_id:
            raise PlanError(f"move_id: is {move_id!r:.60}, expected a move of the plan")
