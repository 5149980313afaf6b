"""Group commit: whatever windows came while Redis was busy go there together, and are answered after it.

Two groups may overtake one another: the order of windows in the stream is no matter, even of one node's.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.errors import Unavailable
from app.observability.metrics import REFUSED
from app.telemetry.store import Append, Outcome, queue_appends

QUEUED_WINDOWS = 4096
QUEUED_BYTES = 64 << 20
"""What may wait for Redis in one process; beyond, clients are told to come back."""

GROUP_WINDOWS = 256
GROUP_BYTES = 4 << 20

GROUPS_UNDER_WAY = 2
"""While Redis has one, the next is put together and sent: neither waits for the other."""

_OUTCOMES = {int(outcome): outcome for outcome in Outcome}

CALL_WINDOWS = 32
"""Windows of a cluster that go in one call; Redis serves nobody else meanwhile."""


class GroupCommit:
    """Appends of one process."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._queue: deque[tuple[Append, asyncio.Future[Outcome]]] = deque()
        self._queued_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def append(self, window: Append) -> asyncio.Future[Outcome]:
        """What became of the window, once Redis has said so.

        `Unavailable` when too much is waiting, or when Redis failed: the window may be there or not, and
        sending it again counts it once.
        """
        size = len(window.packed)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        if len(self._queue) >= QUEUED_WINDOWS or self._queued_bytes + size > QUEUED_BYTES:
            REFUSED.labels("commits").inc()
            future.set_exception(Unavailable("too many windows wait for Redis", retry_after_seconds=1))
            return future
        self._queue.append((window, future))
        self._queued_bytes += size
        if len(self._tasks) < GROUPS_UNDER_WAY:
            # For as long as something waits: an idle process runs none.
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return future

    async def drain(self) -> None:
        """Wait until nothing waits."""
        while self._tasks:
            await asyncio.wait(self._tasks)

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
        calls = _calls(windows)
        async with self._redis.pipeline(transaction=False) as pipe:
            for places in calls:
                queue_appends(pipe, [windows[place] for place in places])
            for window in windows:
                if window.renewal is not None:
                    window.renewal.queue(pipe)
            replies = (await pipe.execute(raise_on_error=False))[: len(calls)]
        outcomes: list[Outcome | Unavailable] = [Outcome.FULL] * len(windows)
        for places, reply in zip(calls, replies, strict=True):
            for at, place in enumerate(places):
                outcomes[place] = (
                    Unavailable(f"Redis refused the window: {reply}", retry_after_seconds=2)
                    if isinstance(reply, Exception)
                    else _OUTCOMES[reply[at]]
                )
        return outcomes


def _calls(windows: Sequence[Append]) -> list[list[int]]:
    """Places of the windows that go together: those of one cluster, in the order they came."""
    open_calls: dict[tuple[str, bytes, int], list[int]] = {}
    calls: list[list[int]] = []
    for place, window in enumerate(windows):
        call = open_calls.get(window.shared)
        if call is None or len(call) == CALL_WINDOWS:
            call = open_calls[window.shared] = []
            calls.append(call)
        call.append(place)
    return calls
