"""The simulated store answers as the real server does, or the simulation would prove nothing."""

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import WatchError

from app.migration_plans import store as plan_store
from app.nodes import store as node_store
from tests.simulation.store import Connection, Store

pytestmark = pytest.mark.anyio

NAMES = ("a", "b", "c")
Call = tuple[str, tuple[Any, ...], dict[str, Any]]


def _commands(rng: random.Random) -> Call:
    """One call of any command the service makes."""
    some = rng.sample(NAMES, rng.randint(1, 3))
    one, number = rng.choice(NAMES), rng.randint(0, 4)
    choices: list[Call] = [
        ("set", ("string", number), {}),
        ("get", ("string",), {}),
        ("incr", ("string",), {}),
        ("delete", (rng.choice(("string", "hash", "set", "sorted", "list")),), {}),
        ("exists", ("string", "hash"), {}),
        ("hset", ("hash", one, number), {}),
        ("hset", ("hash",), {"mapping": dict.fromkeys(some, number)}),
        ("hget", ("hash", one), {}),
        ("hmget", ("hash", list(NAMES)), {}),
        ("hgetall", ("hash",), {}),
        ("hdel", ("hash", *some), {}),
        ("hvals", ("hash",), {}),
        ("hlen", ("hash",), {}),
        ("hincrby", ("hash", one, number), {}),
        ("sadd", ("set", *some), {}),
        ("srem", ("set", *some), {}),
        ("smembers", ("set",), {}),
        ("sismember", ("set", one), {}),
        ("scard", ("set",), {}),
        ("zadd", ("sorted", dict.fromkeys(some, number)), {}),
        ("zrem", ("sorted", *some), {}),
        ("zrange", ("sorted", 0, -1), {"withscores": True}),
        ("zrevrange", ("sorted", 0, rng.choice((-1, 0, 1))), {}),
        ("zrangebyscore", ("sorted", "-inf", number), {}),
        ("zmscore", ("sorted", list(NAMES)), {}),
        ("rpush", ("list", *some), {}),
        ("lpop", ("list",), {}),
        ("llen", ("list",), {}),
        ("lindex", ("list", rng.choice((0, -1, 2))), {}),
        ("lrange", ("list", 0, rng.choice((-1, 0, 1))), {}),
        ("ltrim", ("list", 1, -1), {}),
    ]
    return rng.choice(choices)


STATUSES = ('{"full_state_due":false}', '{"full_state_due":true}')


def _scripts(rng: random.Random) -> Call:
    """One call of a script, with arguments that reach its branches."""
    node = rng.choice(("n1", "n2"))
    record = rng.choice(("r1", "r2"))
    argv: list[Any]
    if rng.random() < 0.3:
        keys = [
            "nodes", "revision", rng.choice(("cluster", "none")), "status", "leases", f"held:{node}",
            "versions", f"seen:{node}", "instances", f"replaced:{node}", "rates",
        ]  # fmt: skip
        argv = [node, rng.choice(("", "r1", "r2")), record, rng.choice(("1", "9")),
                rng.choice(("", "i1", "i2")), rng.choice(("", "i1", "i3")), rng.choice(("0", "60000")),
                rng.choice("01"), "wake", "work", "3600000", "20"]  # fmt: skip
        return "eval", (node_store._REGISTER, 11, *keys, *argv), {}
    if rng.random() < 0.1:
        argv = [node, rng.choice(("r1", "r2")), record, "wake", "work"]
        return "eval", (node_store._REVISE, 2, "nodes", "revision", *argv), {}
    if rng.random() < 0.1:
        argv = [node, '{"holder":"a"}', "wake", "work", "60000"]
        return "eval", (node_store._CONFLICT, 1, "conflicts", *argv), {}
    if rng.random() < 0.6:
        members = [["x", "y"], ["x"], []]
        added, removed = rng.choice(members), rng.choice([["z"], []])
        argv = [
            node, rng.choice(("r1", "r2")), rng.choice(("", *STATUSES)), rng.choice(STATUSES), "60000",
            rng.choice(("KEEP", "REPLACE", "EDIT")), "wake", "work", "1", msgspec.msgpack.encode(added),
            msgspec.msgpack.encode(removed), rng.choice(("2", "9")), rng.choice(("", "0.5")),
        ]  # fmt: skip
        keys = ["nodes", "status", "leases", f"held:{node}", "versions", "clocks"]
        return "eval", (node_store._HEARTBEAT, 6, *keys, *argv), {}
    attempt = rng.randint(1, 3)
    state = rng.choice(("IN_PROGRESS", "SUCCEEDED", "FAILED"))
    done = rng.randint(0, 3)
    report = f'{{"attempt":{attempt},"state":"{state}","bytes_done":{done}}}'
    move = rng.choice(("m1", "m2", "m3"))
    argv = [move, node, rng.choice(("i1", "i2")), str(attempt), state, str(done), report,
            rng.choice(("SADD", "SREM")), rng.choice(("x", "z")), "wake", "work"]  # fmt: skip
    keys = ["progress", f"reports:{node}", "instances", f"held:{node}", "versions"]
    return "eval", (plan_store._REPORT, 5, *keys, *argv), {}


def _plain(answer: Any) -> Any:
    return sorted(answer) if isinstance(answer, set) else answer


def _alike(found: Any, expected: Any) -> bool:
    """The two clocks differ by moments, and so do times (and what is left of an hour)."""
    if isinstance(expected, list) and isinstance(found, list):
        return len(found) == len(expected) and all(map(_alike, found, expected))
    if isinstance(expected, int) and expected > 60_000:
        return isinstance(found, int) and abs(found - expected) < 30_000
    return bool(_plain(found) == _plain(expected))


@pytest.mark.parametrize("draw", [_commands, _scripts])
@pytest.mark.parametrize("seed", range(4))
async def test_answers_are_those_of_the_real_server(
    redis: Redis, draw: Callable[[random.Random], Call], seed: int
) -> None:
    """The same calls in the same order get the same answers from both."""
    rng = random.Random(seed)
    simulated = Connection(Store(), rng)
    for client in (redis, simulated):
        await client.set("cluster", "here")
        await client.hset("nodes", mapping={"n1": "r1"})
        await client.hset("instances", mapping={"n1": "i1", "n2": "i2"})
        for move, state, attempts in (("m1", "RELEASED", 2), ("m2", "PENDING", 1)):
            entry = f'{{"state":"{state}","attempts":{attempts}}}'
            await client.hset("progress", move, entry)
    for _ in range(300):
        name, args, kwargs = draw(rng)
        expected = await getattr(redis, name)(*args, **kwargs)
        found = await getattr(simulated, name)(*args, **kwargs)
        assert _alike(found, expected), (name, args[0] if name != "eval" else args[2:])


async def test_transactions_see_that_a_watched_key_changed(redis: Redis) -> None:
    """Both refuse a transaction after another's write to a watched key, and execute it otherwise."""
    for client in (redis, Connection(Store(), random.Random(0))):
        for interfere in (False, True):
            async with client.pipeline(transaction=True) as pipe:
                await pipe.watch("key")
                await pipe.get("key")
                if interfere:
                    await client.set("key", 1)
                pipe.multi()
                pipe.set("other", 2)
                if interfere:
                    with pytest.raises(WatchError):
                        await pipe.execute()
                else:
                    assert await pipe.execute() == [True]


async def test_a_connection_breaks_before_or_after_the_write() -> None:
    """A broken exchange raises, and in about half of the cases the write was done all the same."""
    connection = Connection(Store(), random.Random(1))
    connection.breaks = 1.0
    done = 0
    for number in range(100):
        with pytest.raises(RedisConnectionError):
            await connection.set(f"key{number}", 1)
        done += connection.store.exists(f"key{number}")
    assert 30 < done < 70
