"""A plan's moves: released in order, retried from elsewhere, given up with a reason, never counted twice."""

from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
from hypothesis import given

from app.migrate.execution import MAX_ATTEMPTS, STALL_SECONDS, Execution, Source
from app.migration_plans.schemas import (
    MoveReportRecord,
    PlannedMove,
    PlanProgress,
    PlanRecord,
    ReportedState,
)
from migrations.model import Limits, MoveKind
from migrations.states import MoveState, PlanEvent, PlanState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WIDE = Limits(max_receives=8, max_sends=8, origin_max_sends=8)


def move(
    move_id: str, *, kind: MoveKind = MoveKind.COPY, depends_on: tuple[str, ...] = (), seconds: float = 1.0
) -> PlannedMove:
    number = int(move_id[1:])
    return PlannedMove(
        move_id=move_id,
        kind=kind,
        model_id="m",
        layer=0,
        expert=number,
        source="s" if kind is MoveKind.COPY else None,
        from_origin=False,
        destination="d",
        bytes=100,
        depends_on=list(depends_on),
        start_seconds=0.0,
        end_seconds=seconds,
    )


def running(*moves: PlannedMove) -> Execution:
    total = sum(m.bytes for m in moves if m.kind is MoveKind.COPY)
    record = PlanRecord(
        plan_id="p",
        from_generation=1,
        to_generation=2,
        created_at=NOW,
        updated_at=NOW,
        state=PlanState.RUNNING,
        reason=None,
        validate_only=False,
        estimate=None,
        progress=PlanProgress(
            moves_total=len(moves),
            moves_succeeded=0,
            moves_failed=0,
            moves_released=0,
            bytes_total=total,
            bytes_done=0,
        ),
        moves=list(moves),
    )
    return Execution(record, {})


def report(state: ReportedState, *, attempt: int = 1, done: int = 0, node: str = "d") -> MoveReportRecord:
    return MoveReportRecord(
        instance_uid="i",
        generation=2,
        attempt=attempt,
        state=state,
        bytes_done=done,
        reason="why" if state is ReportedState.FAILED else None,
        node_id=node,
        received_at=NOW,
    )


def from_planned(move: PlannedMove, tried: frozenset[str | None]) -> Source | None:
    """The planned source, then another one, then the origin."""
    return next(Source(name) for name in ("s", "t", None) if name not in tried or name is None)


def release(execution: Execution, *, drops: bool = True, now: datetime = NOW) -> None:
    execution.release(execution.ready(WIDE), from_planned, lambda _: drops, now)


def test_dependencies_come_first() -> None:
    """A move is released only when what it depends on has succeeded, and the plan ends with the last."""
    execution = running(move("m1"), move("m2", depends_on=("m1",)))
    release(execution)
    assert execution.outstanding == ["m1"]
    assert execution.absorb({"m1": report(ReportedState.SUCCEEDED)}, NOW) == ["m1"]
    release(execution)
    assert execution.outstanding == ["m2"]
    execution.absorb({"m2": report(ReportedState.SUCCEEDED)}, NOW)
    assert execution.settle(NOW) is PlanEvent.MOVES_SUCCEEDED
    assert execution.state is PlanState.SUCCEEDED
    assert execution.record.progress.bytes_done == 200


def test_drop_waits_for_leave() -> None:
    """A drop stays unreleased as long as nodes may still route to the copy."""
    execution = running(move("m1", kind=MoveKind.DROP))
    release(execution, drops=False)
    assert execution.outstanding == []
    release(execution, drops=True)
    assert execution.outstanding == ["m1"]


def test_failed_move_tries_every_source_then_is_given_up() -> None:
    """Three attempts, each from another source; then the plan fails and names the last reason."""
    execution = running(move("m1"))
    sources = []
    for attempt in range(1, MAX_ATTEMPTS + 1):
        release(execution)
        assert execution.progress["m1"].attempts == attempt
        sources.append(execution.progress["m1"].source)
        execution.absorb({"m1": report(ReportedState.FAILED, attempt=attempt)}, NOW)
    assert sources == ["s", "t", None]
    assert execution.progress["m1"].from_origin
    release(execution)
    assert execution.settle(NOW) is PlanEvent.MOVE_GIVEN_UP
    assert execution.state is PlanState.FAILED
    assert execution.record.reason is not None
    assert "failed 3 times, at last: why" in execution.record.reason


def test_stalled_move_fails_and_progress_keeps_it_alive() -> None:
    """No progress for STALL_SECONDS is a failure; each new byte starts the time anew."""
    execution = running(move("m1"))
    release(execution)
    late = NOW + timedelta(seconds=STALL_SECONDS - 1)
    execution.absorb({"m1": report(ReportedState.IN_PROGRESS, done=10)}, late)
    execution.expire(late + timedelta(seconds=STALL_SECONDS - 1))
    assert execution.move_state("m1") is MoveState.IN_PROGRESS
    execution.absorb({"m1": report(ReportedState.IN_PROGRESS, done=10)}, late + timedelta(seconds=5))
    execution.expire(late + timedelta(seconds=STALL_SECONDS + 1))
    assert execution.move_state("m1") is MoveState.FAILED


def test_large_moves_have_longer() -> None:
    """A copy that takes a minute by plan is not stalled after half a minute."""
    execution = running(move("m1", seconds=60.0))
    release(execution)
    execution.expire(NOW + timedelta(seconds=299))
    assert execution.move_state("m1") is MoveState.RELEASED
    execution.expire(NOW + timedelta(seconds=301))
    assert execution.move_state("m1") is MoveState.FAILED


def test_paused_plan_releases_nothing_and_a_superseded_one_withdraws_orders() -> None:
    """PAUSED keeps what runs; SUPERSEDED cancels what no node has begun and leaves no order behind."""
    execution = running(move("m1"), move("m2"), move("m3", depends_on=("m1",)))
    release(execution)
    execution.absorb({"m1": report(ReportedState.IN_PROGRESS, done=5)}, NOW)
    execution.advance(PlanEvent.PAUSE, NOW, "by an operator")
    assert execution.ready(WIDE) == []
    assert execution.outstanding == ["m1", "m2"]
    execution.advance(PlanEvent.SUPERSEDE, NOW, "generation 3 is in force")
    assert execution.outstanding == []
    assert execution.move_state("m1") is MoveState.IN_PROGRESS, "the node is at it and will finish"
    assert execution.move_state("m2") is MoveState.CANCELLED
    assert execution.move_state("m3") is MoveState.CANCELLED


def test_cancelled_plan_waits_for_what_runs() -> None:
    """CANCELLING ends only when nodes have no order left."""
    execution = running(move("m1"), move("m2", depends_on=("m1",)))
    release(execution)
    execution.advance(PlanEvent.CANCEL_DRAIN, NOW, "by an operator")
    assert execution.settle(NOW) is None
    execution.absorb({"m1": report(ReportedState.SUCCEEDED)}, NOW)
    assert execution.ready(WIDE) == []
    assert execution.settle(NOW) is PlanEvent.MOVES_DRAINED
    assert execution.state is PlanState.CANCELLED


def test_saved_progress_goes_on_elsewhere() -> None:
    """Another worker that loads record and progress knows all that the first one knew."""
    execution = running(move("m1"), move("m2"), move("m3", depends_on=("m1",)))
    release(execution)
    execution.absorb({"m1": report(ReportedState.SUCCEEDED)}, NOW)
    loaded = Execution(execution.snapshot(NOW), execution.progress)
    assert loaded.outstanding == execution.outstanding == ["m2"]
    assert loaded.snapshot(NOW) == execution.snapshot(NOW)
    release(loaded)
    assert loaded.outstanding == ["m2", "m3"]


STATES = st.sampled_from(list(ReportedState))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["m1", "m2", "m3", "unknown"]),
            STATES,
            st.integers(1, 4),
            st.integers(0, 200),
            st.sampled_from(["d", "other"]),
        ),
        max_size=30,
    )
)
def test_any_reports_in_any_order_keep_the_books_right(
    reports: list[tuple[str, ReportedState, int, int, str]],
) -> None:
    """Repeated, late, foreign and reordered reports: counts add up, bytes never exceed the plan's, what
    succeeded stays so, and each report again changes nothing."""
    execution = running(move("m1"), move("m2"), move("m3", depends_on=("m1",)))
    succeeded: set[str] = set()
    for move_id, state, attempt, done, node in reports:
        release(execution)
        one = {move_id: report(state, attempt=attempt, done=done, node=node)}
        succeeded |= set(execution.absorb(one, NOW))
        before = dict(execution.progress)
        assert execution.absorb(one, NOW) == []
        assert execution.progress == before
        progress = execution.snapshot(NOW).progress
        assert progress.moves_succeeded == len(succeeded)
        assert progress.bytes_done <= progress.bytes_total
        assert all(execution.move_state(known) is MoveState.SUCCEEDED for known in succeeded)
        if execution.settle(NOW) is not None:
            break
