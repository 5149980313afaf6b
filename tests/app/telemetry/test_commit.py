"""Group commit: answered after Redis, in one go with others, and never silently lost."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from app.errors import Unavailable
from app.telemetry import commit as commit_module
from app.telemetry.commit import GroupCommit
from app.telemetry.store import Append, Outcome
from tests.app.telemetry.cluster import INSTANCE, KEYS, NODE, register

pytestmark = pytest.mark.anyio


def window(sequence_number: int, *, instance_uid: str = INSTANCE, size: int = 10) -> Append:
    return Append(KEYS, b"1", NODE, instance_uid, sequence_number, b"w" * size, 1 << 30)


async def test_each_window_gets_its_own_outcome(redis: Redis) -> None:
    """Many at once, among them repeats, strangers and windows judged by an old revision."""
    await register(redis)
    commit = GroupCommit(redis)
    stale = Append(KEYS, b"0", NODE, INSTANCE, 7777, b"w", 1 << 30)
    windows = [*(window(i) for i in range(1, 500)), window(5), window(600, instance_uid="x"), stale]
    outcomes = await asyncio.gather(*map(commit.append, windows))
    # Which of the two comes first is open where they are in different groups.
    assert {outcomes.pop(499), outcomes.pop(4)} == {Outcome.ACCEPTED, Outcome.DUPLICATE}
    assert outcomes[:498] == [Outcome.ACCEPTED] * 498
    assert outcomes[498:] == [Outcome.UNKNOWN_INSTANCE, Outcome.STALE_REVISION]
    assert await redis.xlen(KEYS.telemetry) == 499
    assert await redis.get(KEYS.telemetry_bytes) == b"4990"


async def test_windows_of_a_cluster_go_together(redis: Redis) -> None:
    """Work is counted: 320 windows that wait together are ten scripts, not 320, after the first alone."""
    await register(redis)
    before = await redis.info("commandstats")
    outcomes = await asyncio.gather(*map(GroupCommit(redis).append, (window(i) for i in range(1, 321))))
    assert outcomes == [Outcome.ACCEPTED] * 320
    after = await redis.info("commandstats")

    def calls(stats: dict[str, Any]) -> int:
        return int(stats.get("cmdstat_eval", {}).get("calls", 0))

    assert calls(after) - calls(before) <= 11


async def test_two_groups_are_under_way_at_once(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second does not wait for the first; what comes after them waits, and goes together."""
    await register(redis)
    commit = GroupCommit(redis)
    sizes: list[int] = []
    answers, go_on = commit._commit, asyncio.Event()

    async def held_up(windows: list[Append]) -> list[Outcome | Unavailable]:
        sizes.append(len(windows))
        await go_on.wait()
        return await answers(windows)

    monkeypatch.setattr(commit, "_commit", held_up)
    outcomes = []
    for number in range(1, 6):
        outcomes.append(commit.append(window(number)))
        await asyncio.sleep(0)
    assert sizes == [1, 1]
    go_on.set()
    assert await asyncio.gather(*outcomes) == [Outcome.ACCEPTED] * 5
    assert sizes == [1, 1, 3]
    await commit.drain()


async def test_what_waits_is_bounded(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the queue's limits clients are told to come back; what was queued is stored."""
    monkeypatch.setattr(commit_module, "QUEUED_WINDOWS", 3)
    await register(redis)
    commit = GroupCommit(redis)
    outcomes = await asyncio.gather(*(commit.append(window(i)) for i in range(1, 6)), return_exceptions=True)
    assert outcomes[:3] == [Outcome.ACCEPTED] * 3
    assert all(isinstance(o, Unavailable) for o in outcomes[3:])
    monkeypatch.setattr(commit_module, "QUEUED_BYTES", 100)
    with pytest.raises(Unavailable):
        await commit.append(window(10, size=101))
    assert await commit.append(window(11, size=100)) is Outcome.ACCEPTED


async def test_a_lost_connection_is_told_and_a_repeat_counts_once(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the pipeline is lost after Redis had executed it: 503, and the retry is a duplicate."""
    await register(redis)
    commit = GroupCommit(redis)
    real = commit._commit

    async def losing(windows: list[Append]) -> list[Outcome | Unavailable]:
        await real(windows)
        raise RedisConnectionError("gone")

    monkeypatch.setattr(commit, "_commit", losing)
    with pytest.raises(Unavailable):
        await commit.append(window(1))
    monkeypatch.setattr(commit, "_commit", real)
    assert await commit.append(window(1)) is Outcome.DUPLICATE
    assert await redis.xlen(KEYS.telemetry) == 1


async def test_a_client_that_leaves_does_not_disturb_others(redis: Redis) -> None:
    """Its window may be stored; the others are, and are told so."""
    await register(redis)
    commit = GroupCommit(redis)
    leaving = asyncio.ensure_future(commit.append(window(1)))
    staying = asyncio.ensure_future(commit.append(window(2)))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying is Outcome.ACCEPTED
    await commit.drain()
    assert leaving.cancelled()


async def test_errors_of_the_server_are_told_window_by_window(redis: Redis) -> None:
    """A key of the wrong type fails the windows of its cluster only."""
    await register(redis)
    await redis.set(KEYS.telemetry, "not a stream")
    with pytest.raises(Unavailable, match="refused"):
        await GroupCommit(redis).append(window(1))
