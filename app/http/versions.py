"""The version a document has in Redis, asked for by many requests at once."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from app.errors import DamagedRecord
from app.storage import topics
from app.storage.documents import version_of

TRUST_SECONDS = 1.0
"""How long a version counts as known while nothing is announced: announcements may be lost."""

REMEMBERED = 20_000
"""Documents whose versions are known at once."""


class Versions:
    """Reads of one process. Whatever is asked for while Redis answers goes there together, once for each
    document, however many ask: so a read always begins after it was asked for, and a thousand requests that
    wake up together cost one.

    What was read of a document whose changes are announced is remembered until its topic is: see `known`.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._asked: dict[str, list[asyncio.Future[str | None]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._known: OrderedDict[tuple[str, str], tuple[str, float]] = OrderedDict()
        self._changes = 0

    def notified(self, cluster_id: str | None, topic: str | None) -> None:
        """An announcement; None: some may have been missed."""
        self._changes += 1
        if cluster_id is None or topic is None:
            self._known.clear()
        elif topic == topics.CLUSTER:
            self.forget(cluster_id)
        else:
            self._known.pop((cluster_id, topic), None)

    def forget(self, cluster_id: str) -> None:
        """All that is known of a cluster."""
        self._changes += 1
        for place in [place for place in self._known if place[0] == cluster_id]:
            del self._known[place]

    def known(self, cluster_id: str, topic: str) -> str | None:
        """The version of the document whose changes are announced as `topic`, where it is known without
        asking: as of the announcements that have come, and of `TRUST_SECONDS` ago at most."""
        found = self._known.get((cluster_id, topic))
        return found[0] if found is not None and found[1] > time.monotonic() else None

    async def learn(self, cluster_id: str, topic: str, key: str) -> str | None:
        """As `read`, of a document whose changes are announced as `topic`: it is known from then on."""
        until, changes = time.monotonic() + TRUST_SECONDS, self._changes
        version = await self.read(key)
        # An answer may be from before a change that was announced meanwhile.
        if version is not None and changes == self._changes:
            self._known[cluster_id, topic] = version, until
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return version

    async def read(self, key: str) -> str | None:
        """None where there is no document at `key`. Raises redis-py's errors, and `DamagedRecord`."""
        future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._asked.setdefault(key, []).append(future)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked, {}
                try:
                    versions: Sequence[str | Exception | None] = await self._read(list(asked))
                except Exception as error:  # noqa: BLE001  # of whatever kind: nobody may be left waiting
                    versions = [error] * len(asked)
                for futures, version in zip(asked.values(), versions, strict=True):
                    for future in futures:
                        if future.done():
                            continue
                        if isinstance(version, Exception):
                            future.set_exception(version)
                        else:
                            future.set_result(version)
        finally:
            self._task = None

    async def _read(self, keys: Sequence[str]) -> list[str | Exception | None]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hmget(key, ["uid", "generation", "digest"])
            replies = await pipe.execute(raise_on_error=False)
        return [_judged(key, reply) for key, reply in zip(keys, replies, strict=True)]


def _judged(key: str, reply: object) -> str | Exception | None:
    """The version, or what is wrong with this key alone."""
    if isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply):
        return DamagedRecord(key, "it holds something else than a document")
    if isinstance(reply, Exception):
        return reply
    try:
        return version_of(cast("list[bytes | None]", reply), key)
    except DamagedRecord as damage:
        return damage
