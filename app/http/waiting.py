"""Requests that wait for a change: who waits for which topic, and who wakes them.

One pub/sub connection per process feeds all waiters. No wake-up is lost: a request registers first, looks at
the resource then, and waits only if it has nothing to say; and everybody is woken to look again whenever the
connection was made anew, since announcements may have passed meanwhile.
"""

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from enum import Enum
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from app.errors import RateLimited, Unavailable
from app.observability.metrics import REFUSED, WAITERS
from app.storage.keys import WAKE_PATTERN

SILENCE_SECONDS = 5.0
"""A silent connection is asked for a sign of life after this, and given up after as much again."""

RECONNECT_SECONDS = 0.1, 2.0
"""First and longest pause before the connection is made anew; full jitter."""

SHARE_OF_A_TOKEN = 0.25
"""Of all requests that may wait, for those of one token: a fleet whose agents share a token has room, and no
token can keep all others from waiting."""

RELEASED_PER_SECOND = 4000
"""When the process drains: those who are released ask another one at once, which has work of its own."""

log = structlog.stdlib.get_logger(__name__)

T = TypeVar("T")


class Wake(Enum):
    CHANGED = "CHANGED"
    """Perhaps: look."""
    ELAPSED = "ELAPSED"
    RELEASED = "RELEASED"
    """A newer request of the same holder took over, or the process drains: answer as things are."""


class Waiter:
    """One request waiting for one topic; registered from `__enter__` to `__exit__`."""

    __slots__ = ("_event", "_released", "_waiters", "holder", "token", "topic")

    def __init__(
        self, waiters: "Waiters", topic: tuple[str, str], holder: str | None, token: str | None
    ) -> None:
        self._waiters = waiters
        self._event = asyncio.Event()
        self._released = False
        self.topic = topic
        self.holder = holder
        self.token = token

    def __enter__(self) -> Self:
        self._waiters._add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiters._remove(self)

    def wake(self) -> None:
        self._event.set()

    def release(self) -> None:
        self._released = True
        self._event.set()

    async def wait(self, seconds: float) -> Wake:
        """Until something was announced since the last call, or since registration, or the time is up."""
        if not self._event.is_set() and seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._event.wait()
            except TimeoutError:
                pass
        if self._released:
            return Wake.RELEASED
        if self._event.is_set():
            self._event.clear()
            return Wake.CHANGED
        return Wake.ELAPSED


Observer = Callable[[str | None, str | None], None]


class Waiters:
    """All waiting requests of this process."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._share = max(1, int(limit * SHARE_OF_A_TOKEN))
        self._count = 0
        self._of_tokens: Counter[str] = Counter()
        self._draining = False
        self._pause = RECONNECT_SECONDS[0]
        self._waiting: defaultdict[tuple[str, str], set[Waiter]] = defaultdict(set)
        self._holders: dict[tuple[tuple[str, str], str], Waiter] = {}
        self._observers: list[Observer] = []

    def observe(self, observer: Observer) -> None:
        """Have `observer` called with cluster and topic of every announcement; with None and None whenever
        some may have been missed."""
        self._observers.append(observer)

    @property
    def count(self) -> int:
        return self._count

    @property
    def draining(self) -> bool:
        return self._draining

    def waiter(
        self, cluster_id: str, topic: str, *, holder: str | None = None, token: str | None = None
    ) -> Waiter:
        """A waiter to enter; `Unavailable` on entering when `limit` are waiting, `RateLimited` when requests
        of the same `token` (its id; None: without one) have their share of them already.

        Of one `holder` (a node) only the newest waits for a topic: an older one is released.
        """
        return Waiter(self, (cluster_id, topic), holder, token)

    def wake(self, cluster_id: str, topic: str) -> None:
        for waiter in self._waiting.get((cluster_id, topic), ()):
            waiter.wake()

    def wake_all(self) -> None:
        for waiting in self._waiting.values():
            for waiter in waiting:
                waiter.wake()

    def drain(self) -> None:
        """Release all, one soon after another, and from now on everybody at once: the process is about to
        end."""
        self._draining = True
        loop = asyncio.get_running_loop()
        waiters = (waiter for waiting in self._waiting.values() for waiter in waiting)
        for place, waiter in enumerate(waiters):
            loop.call_later(place / RELEASED_PER_SECOND, waiter.release)

    async def listen(self, redis: Redis) -> None:
        """Wake waiters on announcements, for ever; survives lost connections. Cancel it to end it."""
        while True:
            pubsub = redis.pubsub()
            try:
                await pubsub.psubscribe(WAKE_PATTERN)
                await self._listen(pubsub)
            except (RedisError, OSError) as error:
                log.warning("wake-ups interrupted, connecting again", error=str(error))
                self._notify(None, None)
            finally:
                await _close(pubsub)
            await asyncio.sleep(random.uniform(0, self._pause))
            self._pause = min(2 * self._pause, RECONNECT_SECONDS[1])

    async def _listen(self, pubsub: PubSub) -> None:
        asked_at: float | None = None
        while True:
            message = await pubsub.get_message(timeout=SILENCE_SECONDS)
            if message is None:
                if asked_at is not None and time.monotonic() - asked_at >= SILENCE_SECONDS:
                    log.warning("wake-ups silent, connecting again")
                    self._notify(None, None)
                    return
                if asked_at is None:
                    asked_at = time.monotonic()
                    await pubsub.ping()
                continue
            asked_at = None
            if message["type"] == "psubscribe":
                self._pause = RECONNECT_SECONDS[0]
                self.wake_all()
                self._notify(None, None)
            elif message["type"] == "pmessage":
                self._announced(message)

    def _announced(self, message: dict[str, Any]) -> None:
        channel, topic = cast(bytes, message["channel"]), cast(bytes, message["data"])
        start, end = channel.find(b"{"), channel.rfind(b"}")
        cluster_id, changed = channel[start + 1 : end].decode(), topic.decode(errors="replace")
        self.wake(cluster_id, changed)
        self._notify(cluster_id, changed)

    def _notify(self, cluster_id: str | None, topic: str | None) -> None:
        for observer in self._observers:
            observer(cluster_id, topic)

    def _add(self, waiter: Waiter) -> None:
        if self._count >= self._limit:
            REFUSED.labels("waiters").inc()
            raise Unavailable(f"{self._limit} requests are waiting already", retry_after_seconds=5)
        if waiter.token is not None and self._of_tokens[waiter.token] >= self._share:
            REFUSED.labels("waiters").inc()
            raise RateLimited(
                f"{self._share} requests of this token are waiting already, as many as one may have",
                retry_after_seconds=5,
            )
        if waiter.holder is not None:
            older = self._holders.get((waiter.topic, waiter.holder))
            if older is not None:
                older.release()
            self._holders[waiter.topic, waiter.holder] = waiter
        self._waiting[waiter.topic].add(waiter)
        self._count += 1
        if waiter.token is not None:
            self._of_tokens[waiter.token] += 1
        WAITERS.inc()
        if self._draining:
            waiter.release()

    def _remove(self, waiter: Waiter) -> None:
        waiting = self._waiting[waiter.topic]
        waiting.discard(waiter)
        if not waiting:
            del self._waiting[waiter.topic]
        if waiter.holder is not None and self._holders.get((waiter.topic, waiter.holder)) is waiter:
            del self._holders[waiter.topic, waiter.holder]
        self._count -= 1
        if waiter.token is not None:
            self._of_tokens[waiter.token] -= 1
            if not self._of_tokens[waiter.token]:
                del self._of_tokens[waiter.token]
        WAITERS.dec()


async def wait_until(
    waiter: Waiter, seconds: float, read: Callable[[], Awaitable[T]], done: Callable[[T], bool]
) -> T:
    """What `read` gives as soon as `done` says yes, or when the time is up or the waiter is released.

    The wait ends up to a sixteenth early, at random, so that requests which began together do not all come
    back together.
    """
    with waiter:
        ends = time.monotonic() + seconds * random.uniform(15 / 16, 1)
        while True:
            found = await read()
            if done(found):
                return found
            woken = await waiter.wait(ends - time.monotonic())
            if woken is Wake.RELEASED:
                return found
            if woken is Wake.ELAPSED:
                # Announcements may be lost: the last look decides, not their absence.
                return await read()


async def _close(pubsub: PubSub) -> None:
    try:
        await pubsub.aclose()  # type: ignore[no-untyped-call]
    except (RedisError, OSError) as error:
        log.debug("closing a broken pub/sub connection", error=str(error))
