"""When to stop: small callables that turn True once and stay so."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

Stopping = Callable[[], bool]


def never() -> bool:
    """Runs to the algorithm's own end."""
    return False


@dataclass(frozen=True)
class MaxRuntime:
    """Stops `seconds` after it was made, by the monotonic clock."""

    seconds: float
    _start: float = field(default_factory=time.monotonic, init=False)

    def __post_init__(self) -> None:
        if not self.seconds >= 0:
            raise ValueError(f"seconds: is {self.seconds}, expected at least 0")

    def __call__(self) -> bool:
        return time.monotonic() - self._start >= self.seconds

    @property
    def seconds_left(self) -> float:
        """Seconds until it stops, at least 0."""
        return max(0.0, self.seconds - (time.monotonic() - self._start))


@dataclass(frozen=True)
class FirstOf:
    """Stops as soon as one of several criteria does."""

    criteria: tuple[Stopping, ...]

    def __call__(self) -> bool:
        return any(stop() for stop in self.criteria)


def seconds_left(stopping: Stopping) -> float:
    """Seconds until `stopping` stops by the clock, inf where no clock is part of it; it may stop before."""
    if isinstance(stopping, MaxRuntime):
        return stopping.seconds_left
    if isinstance(stopping, FirstOf):
        return min((seconds_left(part) for part in stopping.criteria), default=math.inf)
    return math.inf
