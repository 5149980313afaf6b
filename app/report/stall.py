"""How long nothing has moved although nodes are to be brought elsewhere."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Moved:
    """What has been moved for a plan so far."""

    plan_id: str
    moves: int
    bytes: int

    def progressed_since(self, before: "Moved | None") -> bool:
        """A new plan alone is no progress: plans that fail follow each other."""
        if before is None or before.plan_id != self.plan_id:
            return self.moves > 0 or self.bytes > 0
        return self.moves > before.moves or self.bytes > before.bytes


class StallClock:
    """Times are of a monotonic clock, seconds."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._moved: Moved | None = None

    def observe(self, moved: Moved | None, *, wanted: bool, now: float) -> float:
        """Seconds since the last progress, or since it was first `wanted`; 0 while it is not wanted.

        moved: of the plan being carried out; None between plans.
        """
        if moved is not None:
            progressed = moved.progressed_since(self._moved)
            self._moved = moved
        else:
            progressed = False
        if not wanted:
            self._since = None
            return 0.0
        if progressed or self._since is None:
            self._since = now
        return now - self._since
