"""Clusters at rest are looked at seldom, and at once when something happens."""

import math

import pytest

from app.worker.pace import QUIET_TICKS, REST_SECONDS, Pace, Wake

pytestmark = pytest.mark.anyio

TICK = 0.5


def pauses(pace: Pace, seen: object, begun: float, count: int, *, restless: bool = False) -> list[float]:
    found, now = [], begun
    for _ in range(count):
        found.append(pace.pause(seen, restless=restless, now=now, until_due=math.inf))
        now += found[-1]
    return found


def test_a_cluster_comes_to_rest() -> None:
    """Tick by tick after a change, then seldom, until the next change."""
    pace = Pace(TICK)
    assert pauses(pace, "a", 10.0, QUIET_TICKS) == [TICK] * QUIET_TICKS
    assert pauses(pace, "a", 10.0 + QUIET_TICKS * TICK, 5) == [REST_SECONDS] * 5
    assert pauses(pace, "b", 100.0, QUIET_TICKS) == [TICK] * QUIET_TICKS


def test_work_under_way_keeps_it_awake() -> None:
    """For as long as it lasts, and a while longer."""
    pace = Pace(TICK)
    assert set(pauses(pace, "a", 0.0, 100, restless=True)) == {TICK}
    assert pauses(pace, "a", 100 * TICK, 1) == [TICK]


def test_what_falls_due_is_not_slept_through() -> None:
    """The lease of a node that has gone silent ends between two looks."""
    pace = Pace(TICK)
    pauses(pace, "a", 0.0, QUIET_TICKS + 1)
    assert pace.pause("a", restless=False, now=50.0, until_due=1.25) == 1.25
    assert pace.pause("a", restless=False, now=51.0, until_due=-3.0) == TICK


def test_slow_ticks_stay_slow() -> None:
    """An operator who asks for a look every minute is not given more."""
    assert Pace(60.0).pause("a", restless=False, now=1e6, until_due=math.inf) == 60.0


async def test_telemetry_wakes_without_news() -> None:
    """Both end the wait; only an announcement says that something happened."""
    wake = Wake()
    wake.news = False
    wake.notify_of_telemetry()
    await wake.wait()
    assert not wake.news
    wake.set()
    assert wake.news
