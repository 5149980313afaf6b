"""A cluster has one holder at a time, and a stale one can write nothing."""

import asyncio
from collections.abc import Callable

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError

from app.storage.client import server_of
from app.storage.fenced import fenced
from app.storage.keys import ClusterKeys
from app.storage.lease import Lease, LeaseLost, acquire, release, renew
from app.storage.optimistic import ATTEMPTS, Contended

pytestmark = pytest.mark.anyio

KEYS = ClusterKeys("east")
OTHER_KEY = "moeplace:{east}:test"


async def taken(redis: Redis, worker_id: str, seconds: float = 30) -> Lease:
    lease = await acquire(redis, KEYS, worker_id, seconds)
    assert lease is not None
    return lease


def put(value: str) -> Callable[[Pipeline], None]:
    def queue(pipe: Pipeline) -> None:
        pipe.set(OTHER_KEY, value)

    return queue


def count(pipe: Pipeline) -> None:
    pipe.incr(OTHER_KEY)


async def test_of_many_contenders_one_gets_the_lease(redis: Redis) -> None:
    """Twenty workers ask at once: exactly one is answered with a lease."""
    answers = await asyncio.gather(*(acquire(redis, KEYS, f"w{index}", 30) for index in range(20)))
    assert sum(answer is not None for answer in answers) == 1


async def test_lease_is_free_again_when_its_time_is_over(redis: Redis) -> None:
    """A holder that stays silent is replaced after the lease's time, by a higher token."""
    first = await taken(redis, "a", 0.2)
    assert await acquire(redis, KEYS, "b", 30) is None
    await asyncio.sleep(0.3)
    second = await taken(redis, "b")
    assert second.token > first.token
    assert not await renew(redis, first)
    assert not await release(redis, first)
    assert await redis.get(KEYS.lease) == second.value


async def test_renewal_extends_the_lease(redis: Redis) -> None:
    """Whoever renews in time keeps the lease past its first end."""
    lease = await taken(redis, "a", 0.4)
    for _ in range(3):
        await asyncio.sleep(0.2)
        assert await renew(redis, lease)
    assert await acquire(redis, KEYS, "b", 30) is None


async def test_released_lease_is_free_at_once(redis: Redis) -> None:
    """A worker that ends in order makes nobody wait."""
    lease = await taken(redis, "a")
    assert await release(redis, lease)
    assert await acquire(redis, KEYS, "b", 30) is not None


async def test_same_worker_takes_its_lease_again_with_a_new_token(redis: Redis) -> None:
    """Acquiring twice is no deadlock, and makes the earlier lease stale."""
    first = await taken(redis, "a")
    second = await taken(redis, "a")
    assert second.token == first.token + 1
    assert not await renew(redis, first)
    assert await renew(redis, second)


async def test_worker_ids_with_colons_are_told_apart(redis: Redis) -> None:
    """The holder is what follows the first colon: "x:a" does not pass for "a"."""
    await taken(redis, "x:a")
    assert await acquire(redis, KEYS, "a", 30) is None
    assert await acquire(redis, KEYS, "x:a", 30) is not None


async def test_holder_writes(redis: Redis) -> None:
    """With the lease, the queued commands are executed together and their replies returned."""
    lease = await taken(redis, "a")

    def queue(pipe: Pipeline) -> None:
        pipe.incr(OTHER_KEY)
        pipe.incr(OTHER_KEY)

    assert await fenced(redis, lease, queue) == [1, 2]


async def test_stale_holder_writes_nothing(redis: Redis) -> None:
    """After another worker took over, the old holder's write raises and leaves no trace."""
    stale = await taken(redis, "a", 0.1)
    await asyncio.sleep(0.2)
    await taken(redis, "b")
    with pytest.raises(LeaseLost):
        await fenced(redis, stale, put("stale"))
    assert await redis.get(OTHER_KEY) is None


async def test_expired_lease_writes_nothing_although_nobody_else_came(redis: Redis) -> None:
    """A lease that ran out is lost even before somebody else takes it."""
    lease = await taken(redis, "a", 0.1)
    await asyncio.sleep(0.2)
    with pytest.raises(LeaseLost):
        await fenced(redis, lease, put("late"))
    assert await redis.get(OTHER_KEY) is None


@pytest.mark.parametrize("how", ["taken over", "expired"])
async def test_lease_lost_between_comparison_and_commit(redis: Redis, how: str) -> None:
    """The lease goes after it was compared and before EXEC: the transaction is dropped."""
    lease = await taken(redis, "a", 0.3 if how == "expired" else 30)

    async def lose(_: Pipeline) -> None:
        if how == "expired":
            await asyncio.sleep(0.4)
        else:
            await redis.delete(KEYS.lease)
            await taken(redis, "b")

    with pytest.raises(LeaseLost):
        await fenced(redis, lease, put("late"), check=lose)
    assert await redis.get(OTHER_KEY) is None


async def test_renewal_during_a_transaction_does_not_lose_it(redis: Redis) -> None:
    """Renewing touches the watched lease; the transaction is begun anew and succeeds."""
    lease = await taken(redis, "a")
    checks = 0

    async def renew_once(_: Pipeline) -> None:
        nonlocal checks
        checks += 1
        if checks == 1:
            assert await renew(redis, lease)

    assert await fenced(redis, lease, count, check=renew_once) == [1]
    assert checks >= 1


async def test_what_check_read_holds_at_commit(redis: Redis) -> None:
    """Increments through read-then-write under contention from another client lose none."""
    lease = await taken(redis, "a")
    await redis.set(OTHER_KEY, 0)
    interruptions = 5

    for _ in range(10):
        seen = 0

        async def read(pipe: Pipeline) -> None:
            nonlocal seen, interruptions
            seen = int(await pipe.get(OTHER_KEY) or 0)
            if interruptions:
                interruptions -= 1
                await redis.incr(OTHER_KEY)

        def write(pipe: Pipeline) -> None:
            pipe.set(OTHER_KEY, seen + 1)  # noqa: B023

        await fenced(redis, lease, write, watch=[OTHER_KEY], check=read)
    assert int(await redis.get(OTHER_KEY) or 0) == 15


async def test_check_abandons_by_raising(redis: Redis) -> None:
    """An exception of `check` reaches the caller, nothing is written and the connection is usable again."""
    lease = await taken(redis, "a")

    async def refuse(_: Pipeline) -> None:
        raise LookupError("not today")

    with pytest.raises(LookupError):
        await fenced(redis, lease, put("no"), check=refuse)
    assert await redis.get(OTHER_KEY) is None
    assert await fenced(redis, lease, count) == [1]


async def test_endless_contention_is_given_up(redis: Redis) -> None:
    """A watched key that changes every time ends in `Contended` after a bounded number of attempts."""
    lease = await taken(redis, "a")
    checks = 0

    async def interfere(_: Pipeline) -> None:
        nonlocal checks
        checks += 1
        await redis.incr("moeplace:{east}:busy")

    with pytest.raises(Contended):
        await fenced(
            redis,
            lease,
            put("no"),
            watch=["moeplace:{east}:busy"],
            check=interfere,
        )
    assert checks == ATTEMPTS
    assert await redis.get(OTHER_KEY) is None


async def test_connection_lost_before_commit_is_not_repeated(redis: Redis) -> None:
    """The server drops the connection under WATCH: the caller hears of it, nothing is tried twice."""
    lease = await taken(redis, "a")
    checks = 0

    async def cut(pipe: Pipeline) -> None:
        nonlocal checks
        checks += 1
        own = await pipe.client_id()
        await (await server_of(redis, KEYS.lease)).client_kill_filter(_id=str(own))

    with pytest.raises(RedisConnectionError):
        await fenced(redis, lease, count, check=cut)
    assert checks == 1
    assert await redis.get(OTHER_KEY) is None
