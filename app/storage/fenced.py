"""Writes that happen only while the writer holds the cluster's lease."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import WatchError

from app.storage.lease import Lease, LeaseLost

ATTEMPTS = 16
"""How often a transaction is begun anew because a watched key changed under it."""


class Contended(Exception):
    """The watched keys changed during every attempt; nothing was written."""


async def fenced(
    redis: Redis,
    lease: Lease,
    queue: Callable[[Pipeline], None],
    *,
    watch: Sequence[str] = (),
    check: Callable[[Pipeline], Awaitable[None]] | None = None,
) -> list[Any]:
    """Queue commands and execute them in one transaction if the lease is still ours; return their replies.

    `check` may read through the pipeline it is given (reads are answered at once) and raise to abandon the
    write; what it read of the keys in `watch` still holds when the transaction commits. `check` and `queue`
    run again when a watched key changed meanwhile, so they must not keep state between calls.

    Raises `LeaseLost` if another worker took the lease or it ran out, before or during the transaction;
    `Contended` if watched keys kept changing; redis-py's `ConnectionError` if the connection broke, when the
    transaction may or may not have been committed.
    """
    async with redis.pipeline(transaction=True) as pipe:
        for _ in range(ATTEMPTS):
            try:
                await pipe.watch(lease.key, *watch)
                if await pipe.get(lease.key) != lease.value:
                    raise LeaseLost(f"cluster {lease.cluster_id}: the lease with token {lease.token} is gone")
                if check is not None:
                    await check(pipe)
                pipe.multi()  # type: ignore[no-untyped-call]
                queue(pipe)
                return await pipe.execute()
            except WatchError as error:
                # redis-py reports a connection that broke under WATCH as a WatchError too; EXEC may have
                # arrived then, and doing it again could apply it twice.
                if isinstance(error.__context__, OSError | RedisConnectionError | TimeoutError):
                    raise RedisConnectionError(str(error.__context__)) from error
                await pipe.reset()  # type: ignore[no-untyped-call]
    raise Contended(f"cluster {lease.cluster_id}: watched keys changed during each of {ATTEMPTS} attempts")
