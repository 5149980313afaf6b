"""Writes that happen only while the writer holds the cluster's lease."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.storage.lease import Lease, LeaseLost
from app.storage.optimistic import Queue, transaction


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

    async def decide(pipe: Pipeline) -> tuple[None, Queue]:
        if await pipe.get(lease.key) != lease.value:
            raise LeaseLost(f"cluster {lease.cluster_id}: the lease with token {lease.token} is gone")
        if check is not None:
            await check(pipe)
        return None, lambda: queue(pipe)

    _, replies = await transaction(redis, (lease.key, *watch), decide)
    return replies
