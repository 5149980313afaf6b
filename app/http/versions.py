"""The version a document has in Redis, asked for by many requests at once."""

import asyncio
from collections.abc import Sequence
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.storage.documents import version_of


class Versions:
    """Reads of one process. Whatever is asked for while Redis answers goes there together, once for each
    document, however many ask: so a read always begins after it was asked for, and a thousand requests that
    wake up together cost one."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._asked: dict[str, list[asyncio.Future[str | None]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def read(self, key: str) -> str | None:
        """None where there is no document at `key`. Raises redis-py's errors."""
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
                except (RedisError, OSError, TimeoutError) as error:
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
        return [
            reply if isinstance(reply, Exception) else version_of(cast("list[bytes | None]", reply))
            for reply in replies
        ]
