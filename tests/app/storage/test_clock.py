"""The server's clock, as processes know it whose own clocks are wrong."""

import time

import pytest
from redis.asyncio import Redis

from app.storage.clock import ProcessClocks, ServerClock

pytestmark = pytest.mark.anyio

REAL = time.time


@pytest.fixture(params=[-60.0, 60.0])
def ahead(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """This host's clock is wrong by so much."""
    seconds = float(request.param)
    monkeypatch.setattr(time, "time", lambda: REAL() + seconds)
    return seconds


async def test_a_process_knows_the_servers_time_although_its_host_does_not(
    redis: Redis, ahead: float
) -> None:
    """Once measured the time is the server's, within the error it states, and how wrong the host is, too."""
    clock = ServerClock()
    assert clock.seconds() == pytest.approx(REAL() + ahead, abs=1.0)
    await clock.measure(redis)
    assert clock.seconds() == pytest.approx(REAL(), abs=clock.error_seconds + 0.005)
    assert clock.error_seconds < 1.0
    assert clock.ahead_seconds == pytest.approx(ahead, abs=clock.error_seconds + 0.005)


async def test_a_host_whose_clock_is_set_keeps_the_servers_time(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monotonic clock carries the time on: what somebody does to the host's clock changes nothing."""
    clock = ServerClock()
    await clock.measure(redis)
    before = clock.seconds()
    monkeypatch.setattr(time, "time", lambda: REAL() - 3600.0)
    assert 0.0 <= clock.seconds() - before < 5.0


async def test_a_server_whose_clock_was_set_is_followed(redis: Redis) -> None:
    """What cannot be true any more is given up, however exact it was; a coarser measurement is not taken."""
    clock = ServerClock()
    await clock.measure(redis)
    exact, now = clock._offset, time.monotonic()
    clock._take(exact + 0.5, 1.0, now)
    assert clock._offset == exact
    clock._take(exact + 30.0, 1.0, now)
    assert clock._offset == exact + 30.0


async def test_processes_hear_of_each_others_clocks(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each says by how much its host's clock is wrong, and learns what the others said lately."""
    first, second = ProcessClocks(), ProcessClocks()
    monkeypatch.setattr("app.storage.clock.PROCESS_CLOCK", clock := ServerClock())
    await clock.measure(redis)
    await first.say(redis, "api 1 on a")
    monkeypatch.setattr(time, "time", lambda: REAL() + 42.0)
    await second.say(redis, "worker 2 on b")
    assert second.ahead == {
        "api 1 on a": pytest.approx(0.0, abs=1.0),
        "worker 2 on b": pytest.approx(42.0, abs=1.0),
    }
