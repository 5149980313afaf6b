"""How soon a cluster is looked at again: at every tick while something happens, seldom while nothing does.

A worker may have hundreds of clusters, most of which are at rest. Whatever happens to one wakes it at once,
so looking at it is only for what comes with time, and for announcements that were lost.
"""

import asyncio

QUIET_TICKS = 12
"""Ticks without a change after which a cluster is at rest."""

REST_TICKS = 8
REST_SECONDS = 4.0
"""Between two looks at a cluster at rest: that many ticks, but no longer than this, unless a tick is."""


class Wake(asyncio.Event):
    """Set: observe now. `notify_of_telemetry` has telemetry folded, which alone does not make the cluster
    restless."""

    def __init__(self) -> None:
        super().__init__()
        self.news = True

    def set(self) -> None:
        self.news = True
        super().set()

    def notify_of_telemetry(self) -> None:
        super().set()


class Pace:
    """Of one cluster. Times are of a monotonic clock, seconds."""

    def __init__(self, tick_seconds: float) -> None:
        self._tick = tick_seconds
        self._rest = max(tick_seconds, min(REST_TICKS * tick_seconds, REST_SECONDS))
        self._seen: object = None
        self._changed_at = 0.0

    def pause(self, seen: object, *, restless: bool, now: float, until_due: float) -> float:
        """Seconds until the next look.

        seen: what this look saw, equal as long as nothing happens; restless: something is under way or was
        announced; until_due: seconds until something falls due that nobody will announce.
        """
        if restless or seen != self._seen:
            self._seen, self._changed_at = seen, now
        if now - self._changed_at < QUIET_TICKS * self._tick:
            return self._tick
        return min(self._rest, max(until_due, self._tick))
