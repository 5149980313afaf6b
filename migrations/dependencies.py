"""Which moves each move has to wait for, found from what a schedule did."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from migrations.diff import Difference
from migrations.kernels.arrays import FINISH, START, Records
from migrations.model import Limits
from migrations.timing import copy_rates
from solvers.problem import Int64, PlacementProblem


@dataclass(slots=True)
class Step:
    """A move being planned: `source` None for a drop, N for the origin; `after` are indices of steps."""

    column: int
    source: int | None
    node: int
    after: list[int]
    start: float
    end: float


class Layout(NamedTuple):
    """Before `entry` of the log a node's experts were laid out anew, which left free bytes on each device
    from its first one on."""

    entry: int
    node: int
    first_device: int
    free: list[int]


class Room:
    """The memory of one device, accounted so that every byte a copy takes names the drop that freed it.

    Free bytes are pools: one free from the start, one per drop. A copy takes bytes from pools and depends on
    the drops that filled them. No byte is given twice, so memory is never exceeded in whatever order the
    dependencies allow the moves to run, not only in that of the planner. A debt, where the placement in
    force exceeds the memory, is paid by the first drops, on which every copy depends.
    """

    def __init__(self, free: int) -> None:
        self._debt = max(0, -free)
        self._pools: deque[tuple[int, int | None]] = deque([(max(free, 0), None)])
        self._always: list[int] = []

    def take(self, size: int) -> list[int]:
        """Give a copy its bytes; the drops they come from."""
        sources = list(self._always)
        while size:
            amount, drop = self._pools[0]
            taken = min(amount, size)
            size -= taken
            if drop is not None and taken:
                sources.append(drop)
            if taken == amount and size:
                self._pools.popleft()
            else:
                self._pools[0] = (amount - taken, drop)
        return sources

    def give(self, size: int, drop: int) -> None:
        """Take back the bytes of an expert, freed by the move `drop`."""
        if self._debt > 0:
            self._always.append(drop)
            size, self._debt = max(0, size - self._debt), max(0, self._debt - size)
        if size:
            self._pools.append((size, drop))

    def lay_out(self, free: int, drops: list[int]) -> None:
        """The node's experts lie elsewhere. Copies that come later depend on all of its drops so far: any set
        the node may hold from then on is part of one layout."""
        self._debt = 0
        self._pools = deque([(free, None)])
        self._always = list(drops)


class Dependencies:
    """Follows the log of a schedule, `free` int64[D] being the free bytes of each device at its start.

    Three things are handed out so that no two moves rely on the same one, which makes the dependencies
    sufficient for any order that respects them:
    * bytes: see `Room`;
    * spare copies: an expert that must keep k serving copies starts with (copies - k) spare ones; each
      finished copy adds one; each drop takes one and depends on the copy it came from;
    * a held expert: whoever reads it depends on the copy that brought it, and its drop on all its readers.
    """

    def __init__(self, problem: PlacementProblem, change: Difference, limits: Limits, free: Int64) -> None:
        self.steps: list[Step] = []
        self._origin = problem.nodes
        self._size: list[int] = problem.column_bytes.tolist()
        self._rate = copy_rates(problem, limits)
        self._free: list[int] = free.tolist()
        self._rooms: dict[int, Room] = {}
        self._spare: list[int] = (change.source.holds.sum(axis=0, dtype=np.int64) - change.keep).tolist()
        self._fresh: dict[int, deque[int]] = {}
        self._brought: dict[tuple[int, int], int] = {}
        self._readers: dict[tuple[int, int], list[int]] = {}
        self._dropped: dict[tuple[int, int], int] = {}
        self._drops: dict[int, list[int]] = {}
        self._copies: dict[int, list[int]] = {}
        self._last_copy: dict[int, int] = {}

    def follow(self, log: Records, layouts: list[Layout]) -> None:
        """Derive the steps of every entry of the log. O(entries + dependencies)."""
        running: dict[int, int] = {}
        next_layout = 0
        for entry, (kind, source, node, column, device, moment) in enumerate(log.tolist()):
            while next_layout < len(layouts) and layouts[next_layout].entry <= entry:
                self._lay_out(layouts[next_layout])
                next_layout += 1
            if kind == START:
                running[entry] = self._start(source, node, column, device, moment)
            elif kind == FINISH:
                self._finish(running.pop(source))
            else:
                self._drop(node, column, device, moment)

    def drop_leftovers(self, node: int, column: int) -> None:
        """Drop what is still superfluous: after the target's copies of the expert and the node's last copy.

        Nothing waits for these drops, so they come as late as they can: until then they save latency.
        """
        step = self.steps[self._drop(node, column, None, 0.0)]
        step.after += [c for c in self._copies.get(column, ()) if self.steps[c].node != node]
        last = self._last_copy.get(node)
        if last is not None:
            step.after.append(last)
        step.start = step.end = max((self.steps[i].end for i in step.after), default=0.0)

    def _start(self, source: int, node: int, column: int, device: int, now: float) -> int:
        index = len(self.steps)
        after = self._room(device).take(self._size[column])
        earlier = self._dropped.pop((node, column), None)
        if earlier is not None:
            after.append(earlier)
        end = now + self._size[column] / float(self._rate[source, node])
        if source != self._origin:
            brought = self._brought.get((source, column))
            if brought is not None:
                after.append(brought)
            self._readers.setdefault((source, column), []).append(index)
        self.steps.append(Step(column, source, node, after, now, end))
        return index

    def _finish(self, index: int) -> None:
        node, column = self.steps[index].node, self.steps[index].column
        self._brought[node, column] = index
        self._fresh.setdefault(column, deque()).append(index)
        self._copies.setdefault(column, []).append(index)
        self._last_copy[node] = index

    def _drop(self, node: int, column: int, device: int | None, now: float) -> int:
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
        self._dropped[node, column] = index
        self._drops.setdefault(node, []).append(index)
        if device is not None:
            self._room(device).give(self._size[column], index)
        return index

    def _lay_out(self, layout: Layout) -> None:
        for device, free in enumerate(layout.free, layout.first_device):
            self._room(device).lay_out(free, self._drops.get(layout.node, []))

    def _room(self, device: int) -> Room:
        if device not in self._rooms:
            self._rooms[device] = Room(self._free[device])
        return self._rooms[device]
