"""What calls from this node cost: measured, so that nobody has to configure it."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from moeplace_agent.experts.fetching import ORIGIN

PROBES = 9
"""Round trips remembered per place; their median counts, so that single slow ones change nothing."""

MAX_PLACES = 4096
"""Heartbeats carry no more."""

CALLS = 256
CALL_SECONDS = 60.0
"""Calls count for so long; while there are any, they count instead of probes."""

CHANGE_RATIO = 0.1
CHANGE_SECONDS = 5e-5
"""Changes below both are not told: every one makes the service look at its routes anew."""


class LatencyMeter:
    """Collects round trips and calls, and says what heartbeats should carry.

    A call to a peer takes a round trip and the expert's own time. Where the engine tells how long its calls
    took, that is it; else it is the median round trip and `expert_seconds`.
    """

    def __init__(
        self, node_id: str, *, expert_seconds: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`expert_seconds`: of an expert called here, until the engine tells better."""
        self._node_id = node_id
        self._expert_seconds = expert_seconds
        self._clock = clock
        self._probes: dict[str, deque[float]] = {}
        self._calls: dict[str, deque[tuple[float, float]]] = {}
        self._told: dict[str, float] = {}

    def probed(self, name: str, seconds: float) -> None:
        """A round trip to the node of that name (or ORIGIN) without any work there."""
        if self._has_room(name):
            self._probes.setdefault(name, deque(maxlen=PROBES)).append(seconds)

    def called(self, name: str, seconds: float) -> None:
        """An expert call to the node of that name (this one's too, or ORIGIN), from sending to result."""
        if self._has_room(name):
            self._calls.setdefault(name, deque(maxlen=CALLS)).append((self._clock(), seconds))

    def forget(self, name: str) -> None:
        """The place is no more, or another one now."""
        for known in (self._probes, self._calls, self._told):
            known.pop(name, None)

    def _has_room(self, name: str) -> bool:
        return name in self._probes or name in self._calls or len(self.names()) < MAX_PLACES

    def names(self) -> set[str]:
        return {*self._probes, *self._calls}

    def report(self) -> dict[str, Any] | None:
        """As the API's `latency` of a heartbeat; None before anything was measured. O(places * CALLS)."""
        local = self._tell(self._node_id, self._mean_call(self._node_id))
        expert = self._expert_seconds if local is None else local
        measured = {}
        for name in sorted(self.names() - {self._node_id}):
            seconds = self._mean_call(name)
            if seconds is None and self._probes.get(name):
                seconds = statistics.median(self._probes[name]) + expert
            told = self._tell(name, seconds)
            if told is not None:
                measured[name] = told
        if local is None and not measured:
            return None
        origin = measured.pop(ORIGIN, None)
        return {"local_seconds": expert, "peers_seconds": measured, "origin_seconds": origin}

    def _mean_call(self, name: str) -> float | None:
        since = self._clock() - CALL_SECONDS
        recent = [seconds for at, seconds in self._calls.get(name, ()) if at >= since]
        return statistics.fmean(recent) if recent else None

    def _tell(self, name: str, seconds: float | None) -> float | None:
        told = self._told.get(name)
        if seconds is None:
            return told
        if told is None or abs(seconds - told) > max(CHANGE_SECONDS, CHANGE_RATIO * told):
            self._told[name] = told = seconds
        return told
