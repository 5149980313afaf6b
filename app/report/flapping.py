"""Nodes that come and go."""

from collections import deque
from collections.abc import Set

import structlog

log = structlog.stdlib.get_logger(__name__)

WINDOW_SECONDS = 900.0
LOSSES = 3
"""Lost so often within WINDOW_SECONDS, a node is flapping."""

_NAMED = 10


class Flapping:
    """Counts losses of each registered node. Times are of a monotonic clock, seconds."""

    def __init__(self) -> None:
        self._live: Set[str] | None = None
        self._losses: dict[str, deque[float]] = {}

    def observe(self, registered: Set[str], live: Set[str], now: float) -> tuple[int, int]:
        """How many registered nodes came to life, and were lost, since the last look. The log names them.
        Nodes that are not registered any more are forgotten."""
        before, self._live = self._live, live
        for node_id in self._losses.keys() - registered:
            del self._losses[node_id]
        if before is None:
            return 0, 0
        lost = (before - live) & registered
        for node_id in lost:
            self._losses.setdefault(node_id, deque(maxlen=LOSSES)).append(now)
        came = live - before
        if lost:
            log.warning(
                "nodes lost: they said nothing for a lease",
                nodes=_names(lost),
                lost=len(lost),
                live=len(live),
            )
        if came:
            log.info("nodes live", nodes=_names(came), came=len(came), live=len(live))
        return len(came), len(lost)

    def count(self, now: float) -> int:
        """Nodes that are flapping."""
        earliest = now - WINDOW_SECONDS
        return sum(len(losses) == LOSSES and losses[0] >= earliest for losses in self._losses.values())


def _names(node_ids: Set[str]) -> str:
    """Some of them, where there are many."""
    first = ", ".join(sorted(node_ids)[:_NAMED])
    return first if len(node_ids) <= _NAMED else f"{first} and {len(node_ids) - _NAMED} more"
