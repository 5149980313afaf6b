"""When to stop: small callables that turn True once and stay so."""

from __future__ import annotations

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


@dataclass(frozen=True)
class FirstOf:
    """Stops as soon as one of several criteria does."""

    criteria: tuple[Stopping, ...]

    def __call__(self) -> bool:
        return any(stop() for stop in self.criteria)
