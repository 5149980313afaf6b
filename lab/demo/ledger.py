"""Everything the demo has been told by nodes and service, and the figures drawn from it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

from lab.demo.slices import Slice
from lab.harness.observation import Observation


class Figures(NamedTuple):
    """Means over the tokens of some slices."""

    tokens: int
    seconds: float
    mean_latency_seconds: float
    local_hit_ratio: float


_Entry = TypeVar("_Entry")

_KEPT = 8192
"""Entries of each kind: half an hour of slices. A demo that is left running must not grow."""


class Ledger:
    def __init__(self) -> None:
        self.slices: dict[str, list[Slice]] = defaultdict(list)
        self.observations: list[Observation] = []

    def add_slice(self, told: Slice) -> None:
        _append(self.slices[told.node_id], told)

    def add_observation(self, seen: Observation) -> None:
        _append(self.observations, seen)

    @property
    def latest(self) -> Observation | None:
        return self.observations[-1] if self.observations else None

    def last(self, node_id: str) -> Slice | None:
        told = self.slices.get(node_id)
        return told[-1] if told else None

    def between(self, begin: float, end: float) -> list[Slice]:
        """Slices of all nodes that lie wholly within the interval, in order of time."""
        inside = [s for told in self.slices.values() for s in told if s.begin >= begin and s.end <= end]
        return sorted(inside, key=lambda s: (s.end, s.node_id))

    def recent(self, node_id: str, seconds: float) -> list[Slice]:
        """The node's slices of its last `seconds`."""
        told = self.slices.get(node_id, [])
        return [s for s in told[-64:] if s.begin >= told[-1].end - seconds]

    def history(self, step_seconds: float, count: int) -> list[float]:
        """Mean latency of the fleet in the last `count` steps of time, oldest first; steps without tokens
        are left out."""
        ends = [told[-1].end for told in self.slices.values() if told]
        if not ends:
            return []
        now = max(ends)
        steps: list[list[Slice]] = [[] for _ in range(count)]
        for told in self.slices.values():
            for one in reversed(told):
                index = int((now - one.end) / step_seconds)
                if index >= count:
                    break
                steps[count - 1 - index].append(one)
        return [figures(step).mean_latency_seconds for step in steps if step]

    def first_change(self, after: float) -> float | None:
        """When a node first held or routed otherwise than at `after`: the service's reaction has begun."""
        changes = []
        for told in self.slices.values():
            before = [s for s in told if s.end <= after]
            if before:
                state = (before[-1].held, before[-1].generation)
                changes += [s.begin for s in told if s.end > after and (s.held, s.generation) != state][:1]
        return min(changes, default=None)

    def windows_dropped(self) -> int:
        return sum(told[-1].windows_dropped for told in self.slices.values() if told)


def _append(entries: list[_Entry], entry: _Entry) -> None:
    entries.append(entry)
    if len(entries) > 2 * _KEPT:
        del entries[:-_KEPT]


def figures(slices: Iterable[Slice]) -> Figures:
    """Over all the slices together; zeros where there are none."""
    tokens = local = activations = 0
    latency = 0.0
    begin, end = float("inf"), float("-inf")
    for one in slices:
        tokens += one.tokens
        latency += one.latency_seconds
        local += one.local
        activations += one.activations
        begin, end = min(begin, one.begin), max(end, one.end)
    if not tokens:
        return Figures(0, 0.0, 0.0, 0.0)
    return Figures(tokens, end - begin, latency / tokens, local / activations)
