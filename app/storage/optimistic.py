"""Read, decide, write: in one transaction that is begun anew when what was read has changed meanwhile."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import WatchError

from app.errors import Unavailable

ATTEMPTS = 32

T = TypeVar("T")
Queue = Callable[[], None]
Decide = Callable[[Pipeline], Awaitable[tuple[T, Queue]]]


class Contended(Exception):
    """The watched keys changed during every attempt; nothing was written."""


async def transaction(redis: Redis, watch: Sequence[str], decide: Decide[T]) -> tuple[T, list[Any]]:
    """Commit what `decide` queues if the keys in `watch` are as it read them: its result, and the replies.

    `decide` reads through the pipeline it is given (answered at once) and gives its result and a function
    that queues the writes; it may raise to write nothing. It runs again when a key changed, so it must not
    keep state between calls.

    Raises `Contended` if the keys kept changing; redis-py's `ConnectionError` if the connection broke, when
    the transaction may or may not have been committed.
    """
    async with redis.pipeline(transaction=True) as pipe:
        for _ in range(ATTEMPTS):
            try:
                await pipe.watch(*watch)
                result, queue = await decide(pipe)
                pipe.multi()  # type: ignore[no-untyped-call]
                queue()
                return result, await pipe.execute()
            except WatchError as error:
                # redis-py reports a connection that broke under WATCH as a WatchError too; EXEC may have
                # arrived then, and doing it again could apply it twice.
                if isinstance(error.__context__, OSError | RedisConnectionError | TimeoutError):
                    raise RedisConnectionError(str(error.__context__)) from error
                await pipe.reset()  # type: ignore[no-untyped-call]
    raise Contended(f"{', '.join(watch)}: changed during each of {ATTEMPTS} attempts")


async def optimistic(redis: Redis, watch: Sequence[str], decide: Decide[T]) -> T:
    """The result of `transaction` for a request: `Unavailable` where the keys kept changing."""
    try:
        result, _ = await transaction(redis, watch, decide)
    except Contended as error:
        raise Unavailable("other requests keep changing the same resource", retry_after_seconds=1) from error
    return result
