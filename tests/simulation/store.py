"""Redis, as far as the service uses it for placements and plans, in memory and without a network.

Single-threaded and atomic as the real one: commands, transactions with watched keys, published messages, and
the scripts, which are told apart by their text and answered by twins. `test_store` holds it to the real one.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self, cast

import msgspec
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import WatchError

from app.migration_plans import store as plan_store
from app.nodes import store as node_store
from app.storage.clock import NOW
from tests.simulation.clock import SKEW

Members = set[bytes]


def encoded(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    return repr(value).encode() if isinstance(value, float) else str(value).encode()


class Store:
    """The data; every method is one command."""

    def __init__(self) -> None:
        self._data: dict[str, Any] = {}
        self.revisions: dict[str, int] = {}
        self.listeners: list[Callable[[str], None]] = []
        """Called with every message published."""
        self.written: Callable[[str, Mapping[bytes, bytes] | bytes], None] = lambda _key, _value: None
        """Called after a string was set, or fields of a hash."""
        self.scored: Callable[[str, str, float | None], None] = lambda _key, _member, _score: None
        """Called with every score given in a sorted set, and with None when a member is removed."""

    def now(self) -> int:
        """The server's own clock, milliseconds since the epoch, whatever the one who asks has."""
        return int((time.time() - SKEW.get()) * 1000)

    def _touch(self, key: str) -> None:
        self.revisions[key] = self.revisions.get(key, 0) + 1
        if key in self._data and not self._data[key] and not isinstance(self._data[key], bytes):
            del self._data[key]

    def _map(self, key: str) -> dict[bytes, Any]:
        return cast("dict[bytes, Any]", self._data.get(key, {}))

    # --- strings
    def get(self, key: str) -> bytes | None:
        return cast("bytes | None", self._data.get(key))

    def set(self, key: str, value: object) -> bool:
        self._data[key] = encoded(value)
        self._touch(key)
        self.written(key, self._data[key])
        return True

    def incr(self, key: str) -> int:
        number = int(self._data.get(key, b"0")) + 1
        self._data[key] = encoded(number)
        self._touch(key)
        return number

    def delete(self, *keys: str) -> int:
        gone = 0
        for key in keys:
            if key in self._data:
                del self._data[key]
                self._touch(key)
                gone += 1
        return gone

    def exists(self, *keys: str) -> int:
        return sum(key in self._data for key in keys)

    # --- hashes
    def hget(self, key: str, field: object) -> bytes | None:
        return self._map(key).get(encoded(field))

    def hmget(self, key: str, fields: list[object]) -> list[bytes | None]:
        known = self._map(key)
        return [known.get(encoded(field)) for field in fields]

    def hgetall(self, key: str) -> dict[bytes, bytes]:
        return dict(self._map(key))

    def hset(
        self,
        key: str,
        field: object = None,
        value: object = None,
        mapping: Mapping[Any, object] | None = None,
    ) -> int:
        known = self._data.setdefault(key, {})
        changes = {encoded(name): encoded(found) for name, found in (mapping or {}).items()}
        if field is not None:
            changes[encoded(field)] = encoded(value)
        new = len(changes.keys() - known.keys())
        known.update(changes)
        self._touch(key)
        self.written(key, changes)
        return new

    def hdel(self, key: str, *fields: object) -> int:
        known = self._map(key)
        gone = sum(known.pop(encoded(field), None) is not None for field in fields)
        if gone:
            self._touch(key)
        return gone

    def hkeys(self, key: str) -> list[bytes]:
        return list(self._map(key))

    def hvals(self, key: str) -> list[bytes]:
        return list(self._map(key).values())

    def hlen(self, key: str) -> int:
        return len(self._map(key))

    def hincrby(self, key: str, field: object, amount: int = 1) -> int:
        number = int(self._map(key).get(encoded(field), b"0")) + amount
        self.hset(key, field, number)
        return number

    # --- sets
    def sadd(self, key: str, *members: object) -> int:
        known: Members = self._data.setdefault(key, Members())
        new = {encoded(member) for member in members} - known
        known |= new
        if new:
            self._touch(key)
        return len(new)

    def srem(self, key: str, *members: object) -> int:
        known: Members = self._data.get(key, Members())
        gone = {encoded(member) for member in members} & known
        known -= gone
        if gone:
            self._touch(key)
        return len(gone)

    def smembers(self, key: str) -> Members:
        return set(self._data.get(key, ()))

    def sismember(self, key: str, member: object) -> int:
        return int(encoded(member) in self._data.get(key, ()))

    def scard(self, key: str) -> int:
        return len(self._data.get(key, ()))

    # --- sorted sets
    def zadd(self, key: str, mapping: Mapping[Any, float]) -> int:
        known = self._data.setdefault(key, {})
        changes = {encoded(member): float(score) for member, score in mapping.items()}
        new = len(changes.keys() - known.keys())
        known.update(changes)
        self._touch(key)
        for member, score in changes.items():
            self.scored(key, member.decode(), score)
        return new

    def zrem(self, key: str, *members: object) -> int:
        gone = self.hdel(key, *members)
        for member in members:
            self.scored(key, encoded(member).decode(), None)
        return gone

    def _ranked(self, key: str) -> list[tuple[bytes, float]]:
        return sorted(self._map(key).items(), key=lambda entry: (entry[1], entry[0]))

    def zrange(
        self, key: str, start: int, end: int, withscores: bool = False
    ) -> list[bytes] | list[tuple[bytes, float]]:
        return _page(self._ranked(key), start, end, withscores)

    def zrevrange(self, key: str, start: int, end: int) -> list[bytes] | list[tuple[bytes, float]]:
        return _page(self._ranked(key)[::-1], start, end, False)

    def zrangebyscore(self, key: str, low: object, high: object) -> list[bytes]:
        lowest, highest = float(str(low)), float(str(high))
        return [member for member, score in self._ranked(key) if lowest <= score <= highest]

    def zremrangebyrank(self, key: str, start: int, end: int) -> int:
        ranked = self._ranked(key)
        gone = ranked[start : len(ranked) + end + 1 if end < 0 else end + 1]
        return self.zrem(key, *(member for member, _ in gone)) if gone else 0

    def zscore(self, key: str, member: object) -> float | None:
        return cast("float | None", self._map(key).get(encoded(member)))

    def zmscore(self, key: str, members: list[object]) -> list[float | None]:
        known = self._map(key)
        return [known.get(encoded(member)) for member in members]

    # --- lists
    def rpush(self, key: str, *values: object) -> int:
        known = self._data.setdefault(key, [])
        known += [encoded(value) for value in values]
        self._touch(key)
        return len(known)

    def lpush(self, key: str, *values: object) -> int:
        known = self._data.setdefault(key, [])
        known[:0] = [encoded(value) for value in reversed(values)]
        self._touch(key)
        return len(known)

    def lpop(self, key: str) -> bytes | None:
        known = self._data.get(key, [])
        found = known.pop(0) if known else None
        if found is not None:
            self._touch(key)
        return cast("bytes | None", found)

    def llen(self, key: str) -> int:
        return len(self._data.get(key, ()))

    def lindex(self, key: str, index: int) -> bytes | None:
        known = self._data.get(key, [])
        return known[index] if -len(known) <= index < len(known) else None

    def lrange(self, key: str, start: int, end: int) -> list[bytes]:
        known = self._data.get(key, [])
        return list(known[start:] if end == -1 else known[start : end + 1])

    def ltrim(self, key: str, start: int, end: int) -> bool:
        if key in self._data:
            self._data[key] = self.lrange(key, start, end)
            self._touch(key)
        return True

    # --- messages and scripts
    def publish(self, _channel: str, message: object) -> int:
        for listener in self.listeners:
            listener(encoded(message).decode())
        return len(self.listeners)

    def eval(self, script: str, keys: int, *arguments: Any) -> Any:
        names, values = arguments[:keys], [encoded(value) for value in arguments[keys:]]
        return _SCRIPTS[script](self, names, values)


def _page(
    ranked: list[tuple[bytes, float]], start: int, end: int, withscores: bool
) -> list[bytes] | list[tuple[bytes, float]]:
    page = ranked[start:] if end == -1 else ranked[start : end + 1]
    return page if withscores else [member for member, _ in page]


# --- twins of the scripts, statement by statement
def _now(store: Store, _keys: tuple[str, ...], _argv: list[bytes]) -> int:
    return store.now()


def _renew(store: Store, leases: str, statuses: str, node: bytes, milliseconds: bytes) -> bool:
    now = store.now()
    lost = (store.zmscore(leases, [node])[0] or 0.0) <= now
    store.zadd(leases, {node: float(now + int(milliseconds))})
    status = store.hget(statuses, node) if lost else None
    if status is not None:
        uncertain = status.replace(b'"full_state_due":false', b'"full_state_due":true', 1)
        store.hset(statuses, node, uncertain)
    return lost


def _register(store: Store, keys: tuple[str, ...], argv: list[bytes]) -> list[Any]:
    nodes, revision, cluster, status, leases, holdings, versions, seen, instances, replaced, rates = keys
    node, expected, record, most, instance, before, lasts, news_given, channel, topic, each, burst = argv
    now = store.now()
    if not store.exists(cluster):
        return [b"NO_CLUSTER", 0]
    stored = store.hget(nodes, node)
    if (stored or b"") != expected:
        return [b"CHANGED", 0]
    if stored is None and store.hlen(nodes) >= int(most):
        return [b"FULL", 0]
    used = max(now, int(store.hget(rates, node) or b"0"))
    early = used - now - (int(burst) - 1) * int(each)
    if early > 0:
        return [b"LIMITED", early]
    store.hset(rates, node, used + int(each))
    if stored != record:
        store.hset(nodes, node, record)
    if instance:
        store.hdel(status, node)
    news = _renew(store, leases, status, node, lasts)
    if instance:
        news = True
        store.delete(holdings, seen)
        version = int(store.hget(versions, node) or b"0") + 1
        store.hset(versions, node, max(version, now + int(lasts)))
        store.hset(instances, node, instance)
        store.zrem(replaced, instance)
        if before:
            store.zadd(replaced, {before: float(now)})
            for member in store.zrange(replaced, 0, -1)[: -node_store.REMEMBERED_INSTANCES]:
                store.zrem(replaced, member)
    if news_given == b"1":
        news = True
        store.incr(revision)
    if news:
        store.publish(channel.decode(), topic)
    return [b"OK", 0]


def _revise(store: Store, keys: tuple[str, ...], argv: list[bytes]) -> bytes:
    nodes, revision = keys
    node, expected, record, channel, topic = argv
    if store.hget(nodes, node) != expected:
        return b"CHANGED"
    store.hset(nodes, node, record)
    store.incr(revision)
    store.publish(channel.decode(), topic)
    return b"OK"


def _conflict(store: Store, keys: tuple[str, ...], argv: list[bytes]) -> int:
    (conflicts,) = keys
    node, who, channel, topic, _lasts = argv
    first = store.hget(conflicts, node) is None
    store.hset(conflicts, node, b'{"at_milliseconds":%d,' % store.now() + who[1:])
    if first:
        store.publish(channel.decode(), topic)
    return 1


def _heartbeat(store: Store, keys: tuple[str, ...], argv: list[bytes]) -> list[Any]:
    nodes, statuses, leases, holdings, versions, clocks = keys
    node, record, expected, status, lasts, how, channel, topic, announce, more, less, most, ahead = argv
    if (store.hget(nodes, node) or b"") != record or (store.hget(statuses, node) or b"") != expected:
        return [b"CHANGED", 0, 0, 0]
    ends = store.now() + int(lasts)
    added, removed = ([encoded(it) for it in msgspec.msgpack.decode(part)] for part in (more, less))
    changed = 0
    if how == b"REPLACE":
        if store.smembers(holdings) != set(added):
            store.delete(holdings)
            if added:
                store.sadd(holdings, *added)
            changed = 1
    elif how == b"EDIT":
        known = store.smembers(holdings)
        if len((known | set(added)) - set(removed)) > int(most):
            return [b"FULL", 0, len(known), 0]
        changed = store.srem(holdings, *removed) + store.sadd(holdings, *added)
    version = store.hincrby(versions, node, 1) if changed else int(store.hget(versions, node) or b"0")
    store.hset(statuses, node, status)
    store.zadd(leases, {node: float(ends)})
    if ahead:
        store.hset(clocks, node, ahead)
    if changed or announce == b"1":
        store.publish(channel.decode(), topic)
    return [b"OK", version, store.scard(holdings), ends]


def _report(store: Store, keys: tuple[str, ...], argv: list[bytes]) -> bytes:
    progress_of, reports, instances, holdings, versions = keys
    move, node, instance, attempt_given, state, done, report, how, member, channel, topic = argv
    if store.hget(instances, node) != instance:
        return b"OTHER_INSTANCE"
    stored = store.hget(progress_of, move)
    if stored is None:
        return b"NOT_RELEASED"
    progress, attempt = json.loads(stored), int(attempt_given)
    if progress["state"] == "PENDING" or attempt > progress["attempts"]:
        return b"NOT_RELEASED"
    if attempt < progress["attempts"]:
        return b"STALE_ATTEMPT"
    before = store.hget(reports, move)
    if before is not None:
        last = json.loads(before)
        if last["attempt"] == attempt:
            if last["state"] != "IN_PROGRESS":
                return b"UNCHANGED"
            if state == b"IN_PROGRESS" and int(done) <= last["bytes_done"]:
                return b"UNCHANGED"
    store.hset(reports, move, report)
    if state == b"SUCCEEDED":
        change = store.sadd if how == b"SADD" else store.srem
        if change(holdings, member) == 1:
            store.hincrby(versions, node, 1)
    store.publish(channel.decode(), topic)
    return b"ACCEPTED"


_SCRIPTS: Mapping[str, Callable[[Store, tuple[str, ...], list[bytes]], Any]] = {
    NOW: _now,
    node_store._REGISTER: _register,
    node_store._REVISE: _revise,
    node_store._CONFLICT: _conflict,
    node_store._HEARTBEAT: _heartbeat,
    plan_store._REPORT: _report,
}


class Connection:
    """What the service takes for its client of Redis. Each exchange takes a moment, in which others act."""

    def __init__(self, store: Store, rng: random.Random) -> None:
        self.store = store
        self.rng = rng
        self.breaks = 0.0
        """Probability that an exchange breaks, before the server has done it or after."""

    async def exchange(self, run: Callable[[], Any]) -> Any:
        await asyncio.sleep(self.rng.choice((0.0, 0.0005, 0.003)))
        if self.breaks and self.rng.random() < self.breaks:
            if self.rng.random() < 0.5:
                run()
            raise RedisConnectionError("the connection broke")
        return run()

    def pipeline(self, transaction: bool = True) -> Pipeline:
        return Pipeline(self)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        command = getattr(self.store, name)

        async def run(*args: Any, **kwargs: Any) -> Any:
            return await self.exchange(lambda: command(*args, **kwargs))

        return run


class Pipeline:
    """Commands queue up until `execute`, but after `watch` and until `multi` they are answered at once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._store = connection.store
        self._queued: list[Callable[[], Any]] = []
        self._watched: dict[str, int] = {}
        self._immediate = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.reset()

    async def reset(self) -> None:
        self._queued.clear()
        self._watched.clear()
        self._immediate = False

    async def watch(self, *keys: str) -> None:
        def run() -> None:
            for key in keys:
                self._watched.setdefault(key, self._store.revisions.get(key, 0))

        await self._connection.exchange(run)
        self._immediate = True

    def multi(self) -> None:
        self._immediate = False

    async def execute(self) -> list[Any]:
        queued, watched = list(self._queued), dict(self._watched)
        await self.reset()

        def run() -> list[Any]:
            if any(self._store.revisions.get(key, 0) != seen for key, seen in watched.items()):
                raise WatchError("a watched key changed")
            return [command() for command in queued]

        answer: list[Any] = await self._connection.exchange(run)
        return answer

    def __getattr__(self, name: str) -> Callable[..., Any]:
        command = getattr(self._store, name)

        def queue(*args: Any, **kwargs: Any) -> Any:
            if self._immediate:
                return self._connection.exchange(lambda: command(*args, **kwargs))
            self._queued.append(lambda: command(*args, **kwargs))
            return self

        return queue
