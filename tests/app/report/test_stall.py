"""How long a migration has stood still."""

from app.report.stall import Moved, StallClock


def test_time_runs_while_nothing_moves() -> None:
    """It begins when something is to move, and begins anew with every move and every byte."""
    clock = StallClock()
    plan = Moved("p", 0, 0)
    assert clock.observe(None, wanted=False, now=0.0) == 0.0
    assert clock.observe(plan, wanted=True, now=10.0) == 0.0
    assert clock.observe(plan, wanted=True, now=17.0) == 7.0
    assert clock.observe(Moved("p", 0, 5), wanted=True, now=18.0) == 0.0
    assert clock.observe(Moved("p", 0, 5), wanted=True, now=19.0) == 1.0
    assert clock.observe(Moved("p", 1, 5), wanted=True, now=20.0) == 0.0


def test_plans_that_fail_one_after_another_are_a_stall() -> None:
    """Neither a failed plan, nor the pause after it, nor the next plan is progress; its first move is."""
    clock = StallClock()
    assert clock.observe(Moved("p", 2, 9), wanted=True, now=0.0) == 0.0
    assert clock.observe(None, wanted=True, now=50.0) == 50.0
    assert clock.observe(Moved("q", 0, 0), wanted=True, now=60.0) == 60.0
    assert clock.observe(Moved("q", 1, 0), wanted=True, now=70.0) == 0.0


def test_a_retry_takes_no_progress_back() -> None:
    """A copy that begins anew has fewer bytes: that is no progress, and its next byte is."""
    clock = StallClock()
    assert clock.observe(Moved("p", 0, 8), wanted=True, now=0.0) == 0.0
    assert clock.observe(Moved("p", 0, 0), wanted=True, now=5.0) == 5.0
    assert clock.observe(Moved("p", 0, 1), wanted=True, now=6.0) == 0.0


def test_what_nobody_wants_is_no_stall() -> None:
    """A plan that an operator paused is not counted, and its time begins anew when it is resumed."""
    clock = StallClock()
    assert clock.observe(Moved("p", 0, 0), wanted=True, now=0.0) == 0.0
    assert clock.observe(Moved("p", 0, 0), wanted=False, now=100.0) == 0.0
    assert clock.observe(Moved("p", 0, 0), wanted=True, now=200.0) == 0.0
    assert clock.observe(Moved("p", 0, 0), wanted=True, now=201.0) == 1.0
