"""Read, decide, write: in one transaction that is begun anew when what was read has changed meanwhile."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import WatchError

from app.errors import Unavailable

ATTEMPTS = 32

T = TypeVar("T")
Queue = Callable[[], None]


async def optimistic(
    redis: Redis, watch: Sequence[str], decide: Callable[[Pipeline], Awaitable[tuple[T, Queue]]]
) -> T:
    """Commit what `decide` queues if the keys in `watch` are as it read them.

    `decide` reads through the pipeline it is given (answered at once) and gives its result and a function
    that queues the writes; it may raise to write nothing. It runs again when a key changed.
    """
    async with redis.pipeline(transaction=True) as pipe:
        for _ in range(ATTEMPTS):
            try:
                await pipe.watch(*watch)
                result, queue = await decide(pipe)
                pipe.multi()  # type: ignore[no-untyped-call]
                queue()
                await pipe.execute()
                return result
            except WatchError as error:
                if isinstance(error.__context__, OSError | RedisConnectionError | TimeoutError):
                    raise RedisConnectionError(str(error.__context__)) from error
                await pipe.reset()  # type: ignore[no-untyped-call]
    raise Unavailable("others keep changing the same resource", retry_after_seconds=1)
