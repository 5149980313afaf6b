"""Nodes that come and go."""

from collections import deque
from collections.abc import Set

WINDOW_SECONDS = 900.0
LOSSES = 3
"""Lost so often within WINDOW_SECONDS, a node is flapping."""


class Flapping:
    """Counts losses of each registered node. Times are of a monotonic clock, seconds."""

    def __init__(self) -> None:
        self._live: Set[str] | None = None
        self._losses: dict[str, deque[float]] = {}

    def look(self, registered: Set[str], live: Set[str], now: float) -> tuple[int, int]:
        """How many registered nodes came to life, and were lost, since the last look; nodes that are not
        registered any more are forgotten."""
        before, self._live = self._live, live
        for node_id in self._losses.keys() - registered:
            del self._losses[node_id]
        if before is None:
            return 0, 0
        lost = (before - live) & registered
        for node_id in lost:
            self._losses.setdefault(node_id, deque(maxlen=LOSSES)).append(now)
        return len(live - before), len(lost)

    def count(self, now: float) -> int:
        """Nodes that are flapping."""
        earliest = now - WINDOW_SECONDS
        return sum(len(losses) == LOSSES and losses[0] >= earliest for losses in self._losses.values())
