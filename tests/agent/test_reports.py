"""One full state per move, the newest, until the service has it."""

import asyncio

import pytest

from moeplace_agent.reports import MoveReport, ReportBox, ReportedState

pytestmark = pytest.mark.anyio


def report(move_id: str, state: ReportedState, *, attempt: int = 1, bytes_done: int = 0) -> MoveReport:
    return MoveReport("p", move_id, 4, attempt, state, bytes_done)


async def test_a_newer_state_replaces_the_older() -> None:
    """However much progress there was, one report per move is sent."""
    box = ReportBox()
    for done in range(5):
        box.put(report("m1", ReportedState.IN_PROGRESS, bytes_done=done))
    box.put(report("m2", ReportedState.SUCCEEDED))
    assert [(r.move_id, r.bytes_done) for r in box.batch()] == [("m1", 4), ("m2", 0)]


async def test_a_final_state_sticks_until_a_new_attempt() -> None:
    """Late progress of the same attempt changes nothing; the next attempt does."""
    box = ReportBox()
    box.put(report("m1", ReportedState.FAILED))
    box.put(report("m1", ReportedState.IN_PROGRESS))
    assert box.batch()[0].state is ReportedState.FAILED
    box.put(report("m1", ReportedState.IN_PROGRESS, attempt=2))
    box.put(report("m1", ReportedState.SUCCEEDED, attempt=1))
    assert (box.batch()[0].attempt, box.batch()[0].state) == (2, ReportedState.IN_PROGRESS)


async def test_what_changed_while_it_was_sent_is_sent_again() -> None:
    """`sent` forgets only the very states that were sent."""
    box = ReportBox()
    box.put(report("m1", ReportedState.IN_PROGRESS))
    box.put(report("m2", ReportedState.IN_PROGRESS))
    batch = box.batch()
    box.put(report("m1", ReportedState.SUCCEEDED))
    box.sent(batch)
    assert [(r.move_id, r.state) for r in box.batch()] == [("m1", ReportedState.SUCCEEDED)]


async def test_waiting_ends_with_the_first_report() -> None:
    """A sender sleeps while there is nothing to say."""
    box = ReportBox()
    waiting = asyncio.create_task(box.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    box.put(report("m1", ReportedState.SUCCEEDED))
    await waiting
    assert box.batch()[0].body("uid")["instance_uid"] == "uid"
