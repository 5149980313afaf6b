"""The cluster as a plan unfolds: who serves what, what runs, and which move each byte and copy comes from."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from migrations.diff import Difference
from migrations.model import Limits
from migrations.room import Room
from migrations.timing import copy_rates
from solvers.problem import PlacementProblem


@dataclass(slots=True)
class Step:
    """A move being planned: `source` None for a drop, N for the origin; `after` are indices of steps."""

    column: int
    source: int | None
    node: int
    after: list[int]
    start: float
    end: float


def members(mask: int) -> Iterator[int]:
    """The set bits of `mask`, lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


class Cluster:
    """Applies copies and drops and derives their dependencies. Sets of nodes and of columns are int bitmasks.

    Three things are handed out so that no two moves rely on the same one, which makes the dependencies
    sufficient for any order that respects them:
    * bytes: see `Room`;
    * spare copies: an expert that must keep k serving copies starts with (copies - k) spare ones; each
      finished copy adds one; each drop takes one and depends on the copy it came from;
    * a held expert: whoever reads it depends on the copy that brought it, and its drop on all its readers.
    """

    def __init__(self, problem: PlacementProblem, difference: Difference, limits: Limits) -> None:
        nodes, experts = problem.nodes, problem.experts
        self.nodes, self.experts, self.origin = nodes, experts, nodes
        self.limits = limits
        self.size: list[int] = problem.column_bytes.tolist()
        self.keep: list[int] = difference.keep.tolist()
        rates = copy_rates(problem, limits)
        self.rate: list[list[float]] = rates.tolist()
        self.reach = _column_masks(rates > 0)  # senders each node can copy from, the origin being bit N
        source = difference.source.holds
        self.source: list[int] = _column_masks(source)
        self.target: list[int] = _column_masks(difference.target.holds)
        self.serving = list(self.source)
        self.arriving = [0] * experts
        self.held = [_node_mask(source[n]) for n in range(nodes)]
        self.rooms = [Room(problem, n, np.flatnonzero(source[n]).tolist()) for n in range(nodes)]
        self.allowed = _parking_places(problem)
        self.missing = [0] * experts  # nodes that still have to start a copy of the column
        self.superfluous: list[dict[int, None]] = [{} for _ in range(nodes)]
        for n, column in zip(*(axis.tolist() for axis in np.nonzero(difference.missing)), strict=True):
            self.missing[column] |= 1 << n
        for n, column in zip(*(axis.tolist() for axis in np.nonzero(difference.superfluous)), strict=True):
            self.superfluous[n][column] = None
        self.parked: set[tuple[int, int]] = set()
        self.steps: list[Step] = []
        self._spare: list[int] = [
            mask.bit_count() - keep for mask, keep in zip(self.serving, self.keep, strict=True)
        ]
        self._fresh: list[deque[int]] = [deque() for _ in range(experts)]
        self._brought: dict[tuple[int, int], int] = {}
        self._readers: dict[tuple[int, int], list[int]] = {}
        self._reading: dict[tuple[int, int], int] = {}
        self._dropped: dict[tuple[int, int], int] = {}
        self._copies: list[list[int]] = [[] for _ in range(experts)]
        self._last_copy: list[int | None] = [None] * nodes

    def can_spare(self, column: int) -> bool:
        """One more copy of the expert may be dropped now."""
        return self._spare[column] > 0 or bool(self._fresh[column])

    def can_drop(self, node: int, column: int) -> bool:
        """The node serves the expert, nobody reads it there, and it can be spared."""
        return (
            bool(self.serving[column] >> node & 1)
            and self.can_spare(column)
            and not self._reading.get((node, column))
        )

    def droppable(self, node: int) -> list[int]:
        """What the node may drop now on its way to the target.

        Experts another node still waits for come last: they are sources; and an expert's last copy, without
        which the origin serves it, after all of these. One that was parked here stays until its last copy is
        in place.
        """
        idle: list[int] = []
        wanted: list[int] = []
        last: list[int] = []
        for column in self.superfluous[node]:
            if not self.can_drop(node, column):
                continue
            if not self.missing[column]:
                idle.append(column)
            elif (node, column) not in self.parked:
                (last if self.serving[column] == 1 << node else wanted).append(column)
        return idle + wanted + last

    def occupants(self, node: int) -> list[int]:
        """Columns that occupy memory of the node: served or arriving. O(E)."""
        arriving = [c for c in range(self.experts) if self.arriving[c] >> node & 1]
        return sorted({*members(self.held[node]), *arriving})

    def drop(self, node: int, column: int, now: float) -> int:
        """Drop the expert at once; the memory is free, and where the target has it, it is missing again."""
        index = len(self.steps)
        after: list[int] = []
        if self._spare[column] > 0:
            self._spare[column] -= 1
        else:
            after.append(self._fresh[column].popleft())
        brought = self._brought.pop((node, column), None)
        if brought is not None:
            after.append(brought)
        after += self._readers.pop((node, column), [])
        self.steps.append(Step(column, None, node, after, now, now))
        self.serving[column] &= ~(1 << node)
        self.held[node] &= ~(1 << column)
        self._dropped[node, column] = index
        self.rooms[node].release(column, self.size[column], index)
        self.superfluous[node].pop(column, None)
        self.parked.discard((node, column))
        if self.target[column] >> node & 1:
            self.missing[column] |= 1 << node
        return index

    def start_copy(self, source: int, node: int, column: int, now: float) -> int:
        """Start a copy that has room; returns its step. The copy ends at `steps[step].end`."""
        index = len(self.steps)
        after = self.rooms[node].take(column, self.size[column])
        earlier = self._dropped.pop((node, column), None)
        if earlier is not None:
            after.append(earlier)
        end = now + self.size[column] / self.rate[source][node]
        if source != self.origin:
            brought = self._brought.get((source, column))
            if brought is not None:
                after.append(brought)
            self._readers.setdefault((source, column), []).append(index)
            self._reading[source, column] = self._reading.get((source, column), 0) + 1
        self.steps.append(Step(column, source, node, after, now, end))
        self.arriving[column] |= 1 << node
        self.missing[column] &= ~(1 << node)
        return index

    def finish_copy(self, index: int) -> None:
        """The copy serves from now on."""
        step = self.steps[index]
        source, node, column = step.source, step.node, step.column
        if source is None:
            raise RuntimeError("a drop does not finish")
        self.arriving[column] &= ~(1 << node)
        self.serving[column] |= 1 << node
        self.held[node] |= 1 << column
        if source != self.origin:
            self._reading[source, column] -= 1
        self._brought[node, column] = index
        self._fresh[column].append(index)
        self._copies[column].append(index)
        self._last_copy[node] = index
        if not self.target[column] >> node & 1:
            self.superfluous[node][column] = None

    def drop_leftovers(self) -> None:
        """Drop what is still superfluous: after the target's copies of the expert and the node's last copy.

        Nothing waits for these drops, so they come as late as they can: until then they save latency.
        """
        for node in range(self.nodes):
            for column in list(self.superfluous[node]):
                step = self.steps[self.drop(node, column, 0.0)]
                step.after += [c for c in self._copies[column] if self.steps[c].node != node]
                last = self._last_copy[node]
                if last is not None:
                    step.after.append(last)
                step.start = step.end = max((self.steps[i].end for i in step.after), default=0.0)


def _node_mask(row: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> int:
    return int.from_bytes(np.packbits(row, bitorder="little").tobytes(), "little")


def _column_masks(holds: np.ndarray[tuple[int, int], np.dtype[Any]]) -> list[int]:
    packed = np.packbits(holds, axis=0, bitorder="little").T.copy()
    return [int.from_bytes(column.tobytes(), "little") for column in packed]


def _parking_places(problem: PlacementProblem) -> list[int]:
    """Nodes on which each column may stand for a while: not drained, and not kept away by a pin."""
    allowed = np.ones((problem.nodes, problem.experts), np.uint8)
    if problem.drained is not None:
        allowed[problem.drained == 1] = 0
    if problem.pins is not None:
        allowed[problem.pins == -1] = 0
    return _column_masks(allowed)
