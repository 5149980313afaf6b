"""Group commit: whatever windows came while Redis was busy go there together, and are answered after it."""

import asyncio
import contextlib
from collections import deque

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.errors import Unavailable
from app.telemetry.store import Append, Outcome, queue_append

QUEUED_WINDOWS = 4096
QUEUED_BYTES = 64 << 20
"""What may wait for Redis in one process; beyond, clients are told to come back."""

GROUP_WINDOWS = 256
GROUP_BYTES = 4 << 20


class GroupCommit:
    """Appends of one process."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._queue: deque[tuple[Append, asyncio.Future[Outcome]]] = deque()
        self._queued_bytes = 0
        self._task: asyncio.Task[None] | None = None

    async def append(self, window: Append) -> Outcome:
        """What became of the window, once Redis has said so.

        Raises `Unavailable` when too much is waiting, or when Redis failed: the window may be there or not,
        and sending it again counts it once.
        """
        size = len(window.packed)
        if len(self._queue) >= QUEUED_WINDOWS or self._queued_bytes + size > QUEUED_BYTES:
            raise Unavailable("too many windows wait for Redis", retry_after_seconds=1)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._queue.append((window, future))
        self._queued_bytes += size
        if self._task is None or self._task.done():
            # One task at a time, for as long as something waits: an idle process runs none.
            self._task = asyncio.create_task(self._run())
        return await future

    async def drain(self) -> None:
        """Wait until nothing waits."""
        while self._task is not None and not self._task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(self._task)

    async def _run(self) -> None:
        while self._queue:
            group = self._next_group()
            try:
                outcomes = await self._commit([window for window, _ in group])
            except (RedisError, OSError, TimeoutError) as error:
                reason = f"Redis did not take the window: {type(error).__name__}"
                for _, future in group:
                    if not future.done():
                        future.set_exception(Unavailable(reason, retry_after_seconds=1))
            except BaseException:
                for _, future in group:
                    future.cancel()
                raise
            else:
                for (_, future), outcome in zip(group, outcomes, strict=True):
                    if future.done():
                        continue
                    if isinstance(outcome, Outcome):
                        future.set_result(outcome)
                    else:
                        future.set_exception(outcome)

    def _next_group(self) -> list[tuple[Append, asyncio.Future[Outcome]]]:
        group: list[tuple[Append, asyncio.Future[Outcome]]] = []
        size = 0
        while self._queue and len(group) < GROUP_WINDOWS and (size < GROUP_BYTES or not group):
            window, future = self._queue.popleft()
            size += len(window.packed)
            group.append((window, future))
        self._queued_bytes -= size
        return group

    async def _commit(self, windows: list[Append]) -> list[Outcome | Unavailable]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for window in windows:
                queue_append(pipe, window)
            replies = await pipe.execute(raise_on_error=False)
        return [
            Unavailable(f"Redis refused the window: {reply}", retry_after_seconds=2)
            if isinstance(reply, Exception)
            else Outcome(reply)
            for reply in replies
        ]
