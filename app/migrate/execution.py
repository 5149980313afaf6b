"""A plan being carried out: what each move's node was told, what it said, what comes next.

Pure: it knows neither Redis nor the time of day. The two state machines are those of `migrations.states`.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from app.migrate.planning import indexed_plan
from app.migration_plans.schemas import (
    MoveProgress,
    MoveReportRecord,
    PlannedMove,
    PlanProgress,
    PlanRecord,
    ReportedState,
)
from migrations.model import Limits, MoveKind
from migrations.progress import releasable
from migrations.states import (
    MOVE_TRANSITIONS,
    PLAN_TRANSITIONS,
    MoveEvent,
    MoveState,
    PlanEvent,
    PlanState,
    advance,
)

MAX_ATTEMPTS: Final = 3
"""How often a move is tried, each time from another source where there is one."""

STALL_SECONDS: Final = 30.0
STALL_FACTOR: Final = 5.0
"""A move without progress for the longer of STALL_SECONDS and STALL_FACTOR times what it and the copies ahead
of it at its node should take has failed."""

OUTSTANDING: Final = frozenset({MoveState.RELEASED, MoveState.IN_PROGRESS})
"""The node has the order and has not said how it ended."""

ENDED: Final = frozenset({MoveState.SUCCEEDED, MoveState.FAILED, MoveState.CANCELLED})

RELEASING: Final = frozenset({PlanState.RUNNING})
WORKING: Final = frozenset(
    {PlanState.PENDING, PlanState.RUNNING, PlanState.PAUSED, PlanState.CANCELLING, PlanState.ROLLING_BACK}
)
"""States of a plan that has not ended."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a copy is read: a node, or the origin (None)."""

    node_id: str | None


ChooseSource = Callable[[PlannedMove, frozenset[str | None]], Source | None]
"""The best source of a copy now, preferring those not in the set (already tried); None: there is none."""

MayDrop = Callable[[PlannedMove], bool]
"""Whether every node has switched its routes away from the copy."""


class Execution:
    """The plan `record` with the progress of its moves; moves without progress have not been released."""

    def __init__(self, record: PlanRecord, progress: Mapping[str, MoveProgress]) -> None:
        self.record = record
        self.moves: dict[str, PlannedMove] = {move.move_id: move for move in record.moves}
        self.progress: dict[str, MoveProgress] = dict(progress)
        self.changed: set[str] = set()
        """Moves whose progress is not saved yet."""
        self._indexed = indexed_plan(record)
        self._order = {move_id: position for position, move_id in enumerate(self.moves)}
        self._states = {
            move_id: self.progress[move_id].state if move_id in self.progress else MoveState.PENDING
            for move_id in self.moves
        }
        self._outstanding = {move_id for move_id, state in self._states.items() if state in OUTSTANDING}
        self._tried: dict[str, set[str | None]] = {}
        self._moved_at: dict[str, datetime] = {}
        self._active_at: dict[str, datetime] = {}
        self._given_up: str | None = None
        self._ready: tuple[Limits, list[PlannedMove]] | None = None
        self._counts = dict.fromkeys(MoveState, 0)
        for state in self._states.values():
            self._counts[state] += 1
        self._bytes_done = sum(
            entry.bytes_done
            for entry in self.progress.values()
            if self.moves[entry.move_id].kind is MoveKind.COPY
        )

    # --- what is
    @property
    def state(self) -> PlanState:
        return self.record.state

    @property
    def ended(self) -> bool:
        return self.record.state not in WORKING

    @property
    def outstanding(self) -> list[str]:
        """Moves that nodes are to do now, in the plan's order."""
        return sorted(self._outstanding, key=self._order.__getitem__)

    def move_state(self, move_id: str) -> MoveState:
        return self._states[move_id]

    def count(self, state: MoveState) -> int:
        """Moves in that state."""
        return self._counts[state]

    def unfinished(self) -> list[PlannedMove]:
        return [move for move_id, move in self.moves.items() if self._states[move_id] not in ENDED]

    def undone(self) -> list[PlannedMove]:
        """Moves that have not succeeded, whether they may still or not."""
        return [
            move for move_id, move in self.moves.items() if self._states[move_id] is not MoveState.SUCCEEDED
        ]

    def failed(self) -> list[PlannedMove]:
        """Moves that failed and are not tried again yet."""
        if not self._counts[MoveState.FAILED]:
            return []
        return [self.moves[move_id] for move_id, state in self._states.items() if state is MoveState.FAILED]

    def reading_from(self, node_id: str) -> set[tuple[str, int, int]]:
        """Experts that some outstanding copy reads at the node."""
        reading = set()
        for move_id in self._outstanding:
            move, entry = self.moves[move_id], self.progress[move_id]
            if move.kind is MoveKind.COPY and entry.source == node_id:
                reading.add((move.model_id, move.layer, move.expert))
        return reading

    # --- what nodes say
    def absorb(self, reports: Mapping[str, MoveReportRecord], now: datetime) -> list[str]:
        """Fold reports in; the moves that succeeded by it. Only the newest attempt of a move that is
        outstanding counts, so that the same report twice, or a late one, changes nothing."""
        succeeded = []
        for move_id, report in reports.items():
            if move_id not in self._outstanding:
                continue
            entry, move = self.progress[move_id], self.moves[move_id]
            if report.attempt != entry.attempts or report.node_id != move.destination:
                continue
            done = min(max(report.bytes_done, entry.bytes_done), move.bytes)
            if report.state is ReportedState.SUCCEEDED:
                done = move.bytes
                self._advance(move_id, MoveEvent.SUCCEED, now, bytes_done=done, reason=None, finished_at=now)
                succeeded.append(move_id)
            elif report.state is ReportedState.FAILED:
                self._fail(move_id, report.reason or "the node gave no reason", now)
            elif entry.state is MoveState.RELEASED:
                self._advance(move_id, MoveEvent.BEGIN, now, bytes_done=done)
            elif done > entry.bytes_done:
                self._update(move_id, bytes_done=done)
                self._moved_at[move_id] = self._active_at[move.destination] = now
        return succeeded

    def expire(self, now: datetime) -> None:
        """Fail the outstanding moves that stall."""
        ahead: dict[str, float] = {}
        for move_id in self.outstanding:
            move = self.moves[move_id]
            ahead[move.destination] = ahead.get(move.destination, 0.0) + move.end_seconds - move.start_seconds
            allowed = max(STALL_SECONDS, STALL_FACTOR * ahead[move.destination])
            last = self._moved_at.setdefault(move_id, now)
            if (now - last).total_seconds() > allowed:
                self._fail(move_id, f"no progress for {allowed:.0f} s", now)

    def stuck(self, now: datetime, seconds: float) -> dict[str, int]:
        """Nodes that have not got on with any move for that long, and how many they are to do."""
        counts = Counter(self.moves[move_id].destination for move_id in self._outstanding)
        return {
            node_id: counts[node_id]
            for node_id in sorted(counts)
            if (now - self._active_at.setdefault(node_id, now)).total_seconds() > seconds
        }

    # --- what comes next
    def ready(self, limits: Limits) -> list[PlannedMove]:
        """Moves that may be released now: their dependencies have succeeded, and caps leave room."""
        if self.state not in RELEASING:
            return []
        if self._ready is None or self._ready[0] != limits:
            found = releasable(self._indexed, self._states, limits)
            self._ready = (limits, [self.moves[move_id] for move_id in found])
        return self._ready[1]

    def release(
        self, moves: list[PlannedMove], choose_source: ChooseSource, may_drop: MayDrop, now: datetime
    ) -> None:
        """Release those of `moves` that can be, and retry what failed; gives up when one cannot be."""
        for move in moves:
            if move.kind is MoveKind.DROP:
                if may_drop(move):
                    self._begin(move.move_id, Source(None), now)
                continue
            planned = None if move.from_origin else move.source
            source = choose_source(move, frozenset())
            if source is None:
                self._give_up(move, f"no live node and no origin has the expert; {_words(planned)} had it")
                continue
            self._begin(move.move_id, source, now)
        for move in self.failed():
            self._retry(move, choose_source, may_drop, now)

    def settle(self, now: datetime) -> PlanEvent | None:
        """Advance the plan where its moves' states say so; the event that did it."""
        if self.ended:
            return None
        if self._given_up is not None and (self.state, PlanEvent.MOVE_GIVEN_UP) in PLAN_TRANSITIONS:
            return self.advance(PlanEvent.MOVE_GIVEN_UP, now, self._given_up)
        finished = self._counts[MoveState.SUCCEEDED] == len(self.moves)
        if finished and (self.state, PlanEvent.MOVES_SUCCEEDED) in PLAN_TRANSITIONS:
            return self.advance(PlanEvent.MOVES_SUCCEEDED, now, None)
        if self.state is PlanState.CANCELLING and not self._outstanding:
            return self.advance(PlanEvent.MOVES_DRAINED, now, self.record.reason)
        return None

    @property
    def drained(self) -> bool:
        """No node has an order left."""
        return not self._outstanding

    def advance(self, event: PlanEvent, now: datetime, reason: str | None) -> PlanEvent:
        """Take a plan's event; raises `TransitionError` where its state does not allow it.

        A plan that ends withdraws the orders that nodes have not begun; a move that runs is the node's to
        finish, and shows in what the node holds.
        """
        state = advance(PLAN_TRANSITIONS, self.record.state, event)
        self.record = self.record.model_copy(update={"state": state, "reason": reason, "updated_at": now})
        self._given_up = None if self.ended else self._given_up
        if self.ended:
            for move_id, of_move in list(self._states.items()):
                if (of_move, MoveEvent.CANCEL) in MOVE_TRANSITIONS:
                    self._cancel(move_id, now)
            self._outstanding.clear()
        self._count()
        return event

    def saved(self) -> None:
        self.changed.clear()

    def snapshot(self, now: datetime) -> PlanRecord:
        """The record as it is to be stored."""
        self._count()
        self.record = self.record.model_copy(update={"updated_at": now})
        return self.record

    def snapshot_progress(self) -> PlanProgress:
        """How far it is now."""
        return PlanProgress(
            moves_total=len(self.moves),
            moves_succeeded=self._counts[MoveState.SUCCEEDED],
            moves_failed=self._counts[MoveState.FAILED],
            moves_released=len(self._outstanding),
            bytes_total=self.record.progress.bytes_total,
            bytes_done=self._bytes_done,
        )

    # --- how
    def _begin(self, move_id: str, source: Source, now: datetime) -> None:
        move = self.moves[move_id]
        copies = move.kind is MoveKind.COPY
        self.progress[move_id] = MoveProgress(
            move_id=move_id,
            state=MoveState.PENDING,
            attempts=1,
            source=source.node_id if copies else None,
            from_origin=copies and source.node_id is None,
            bytes_done=0,
            reason=None,
            released_at=now,
            finished_at=None,
        )
        self._tried[move_id] = {source.node_id}
        self._advance(move_id, MoveEvent.RELEASE, now)

    def _retry(
        self, move: PlannedMove, choose_source: ChooseSource, may_drop: MayDrop, now: datetime
    ) -> None:
        entry = self.progress[move.move_id]
        if entry.attempts >= MAX_ATTEMPTS:
            self._give_up(move, f"failed {entry.attempts} times, at last: {entry.reason}")
            return
        source = Source(None)
        if move.kind is MoveKind.DROP:
            if not may_drop(move):
                return
        else:
            tried = self._tried.setdefault(move.move_id, {None if entry.from_origin else entry.source})
            found = choose_source(move, frozenset(tried))
            if found is None:
                self._give_up(move, f"no live node and no origin has the expert; at last: {entry.reason}")
                return
            source = found
            tried.add(source.node_id)
        copies = move.kind is MoveKind.COPY
        self._advance(
            move.move_id,
            MoveEvent.RETRY,
            now,
            attempts=entry.attempts + 1,
            source=source.node_id if copies else None,
            from_origin=copies and source.node_id is None,
            bytes_done=0,
            released_at=now,
            finished_at=None,
        )

    def _give_up(self, move: PlannedMove, why: str) -> None:
        if self._given_up is None:
            self._given_up = (
                f"{move.kind} of {move.model_id}/{move.layer}/{move.expert} at {move.destination} "
                f"(move {move.move_id}): {why}"
            )

    def _fail(self, move_id: str, reason: str, now: datetime) -> None:
        self._advance(move_id, MoveEvent.FAIL, now, reason=reason, finished_at=now)

    def _cancel(self, move_id: str, now: datetime) -> None:
        if move_id in self.progress:
            self._advance(move_id, MoveEvent.CANCEL, now, finished_at=now)
        else:
            self._enter(move_id, MoveState.CANCELLED)

    def _advance(self, move_id: str, event: MoveEvent, now: datetime, **changes: object) -> None:
        state = advance(MOVE_TRANSITIONS, self._states[move_id], event)
        self._update(move_id, state=state, **changes)
        self._enter(move_id, state)
        self._moved_at[move_id] = self._active_at[self.moves[move_id].destination] = now

    def _enter(self, move_id: str, state: MoveState) -> None:
        self._counts[self._states[move_id]] -= 1
        self._counts[state] += 1
        self._states[move_id] = state
        self._ready = None
        if state in OUTSTANDING:
            self._outstanding.add(move_id)
        else:
            self._outstanding.discard(move_id)

    def _update(self, move_id: str, **changes: object) -> None:
        before = self.progress[move_id]
        after = before.model_copy(update=changes)
        if self.moves[move_id].kind is MoveKind.COPY:
            self._bytes_done += after.bytes_done - before.bytes_done
        self.progress[move_id] = after
        self.changed.add(move_id)

    def _count(self) -> None:
        self.record = self.record.model_copy(update={"progress": self.snapshot_progress()})


def _words(planned: str | None) -> str:
    return "the origin" if planned is None else planned
