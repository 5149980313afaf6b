"""The time that windows cover together, and the tokens that went through, block by block.

Several processes of one node post windows of the same time: each of its tokens, or of its layers. Time that
two windows cover is covered once, so that rates are those of one process that does all the work. Blocks that
the same windows observed share a `Stretch`.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

MAX_PIECES = 64
"""Separate pieces of time kept of one stretch. With more, edges move outwards to a grid of powers of two
microseconds, the finest under which so few are left: gaps shorter than the grid count as covered."""


@dataclass(slots=True, eq=False)
class Stretch:
    """edges: start, end, start, end, .. of the pieces, rising, microseconds since the epoch; grid_us: what
    the edges are multiples of; apart_us: time added by a program that knew durations alone."""

    edges: list[int] = field(default_factory=list)
    grid_us: int = 1
    apart_us: int = 0
    tokens: int = 0

    def copy(self) -> "Stretch":
        return Stretch(list(self.edges), self.grid_us, self.apart_us, self.tokens)

    @property
    def covered_us(self) -> int:
        return sum(self.edges[1::2]) - sum(self.edges[::2]) + self.apart_us

    def add(self, start_us: int, end_us: int, tokens: int) -> None:
        self.tokens += tokens
        edges = self.edges
        if self.grid_us > 1:
            start_us -= start_us % self.grid_us
            end_us += -end_us % self.grid_us
        if edges and edges[-2] <= start_us <= edges[-1]:  # goes on where the last piece is: nearly always
            if end_us > edges[-1]:
                edges[-1] = end_us
            return
        # Between the edges of equal parity a position lies outside all pieces, of odd parity within one.
        low, high = bisect_left(edges, start_us), bisect_right(edges, end_us)
        edges[low:high] = [start_us] * (low % 2 == 0) + [end_us] * (high % 2 == 0)
        while len(self.edges) > 2 * MAX_PIECES:
            self._coarsen()

    def _coarsen(self) -> None:
        self.grid_us *= 2
        grid, before = self.grid_us, self.edges
        self.edges = []
        for start, end in zip(before[::2], before[1::2], strict=True):
            start, end = start - start % grid, end + -end % grid
            if self.edges and start <= self.edges[-1]:
                self.edges[-1] = end
            else:
                self.edges += (start, end)


@dataclass(slots=True, eq=False)
class Coverage:
    """part: block -> index into stretches, in the order in which they first come up."""

    part: list[int]
    stretches: list[Stretch]

    @classmethod
    def nothing(cls, blocks: int) -> "Coverage":
        return cls([0] * blocks, [Stretch()] if blocks else [])

    def add(self, start_us: int, end_us: int, tokens: int, blocks: Iterable[int] | None) -> None:
        """A window of those blocks; None: of all."""
        if blocks is None:
            for stretch in self.stretches:
                stretch.add(start_us, end_us, tokens)
            return
        for index in self._split(blocks):
            self.stretches[index].add(start_us, end_us, tokens)

    def _split(self, blocks: Iterable[int]) -> set[int]:
        """The stretches of these blocks, which other blocks then have no part of."""
        within = set(blocks)
        touched = {self.part[block] for block in within}
        others = {index for block, index in enumerate(self.part) if block not in within}
        shared = touched & others
        if shared:
            # Anew, in order of block: the same whatever window came first.
            renumbered: dict[tuple[int, bool], int] = {}
            stretches: list[Stretch] = []
            for block, index in enumerate(self.part):
                key = (index, block in within)
                if key not in renumbered:
                    renumbered[key] = len(stretches)
                    kept = self.stretches[index]
                    stretches.append(kept.copy() if index in shared else kept)
                self.part[block] = renumbered[key]
            self.stretches = stretches
            touched = {self.part[block] for block in within}
        return touched

    @property
    def observed_us(self) -> list[int]:
        """Of each block."""
        covered = [stretch.covered_us for stretch in self.stretches]
        return [covered[index] for index in self.part]


def weighed_us(parts: Sequence[tuple[Stretch, float]]) -> float:
    """Microseconds that the stretches cover together, each at the weight that goes with it; where several
    cover a time, at the mean of theirs. O(n log n)."""
    apart = sum(stretch.apart_us * weight for stretch, weight in parts)
    pieces = sorted(
        (start, end, weight)
        for stretch, weight in parts
        for start, end in zip(stretch.edges[::2], stretch.edges[1::2], strict=True)
    )
    if all(one[1] <= two[0] for one, two in pairwise(pieces)):
        return apart + sum((end - start) * weight for start, end, weight in pieces)
    edges = [(start, 1, weight) for start, _, weight in pieces]
    edges = sorted(edges + [(end, -1, -weight) for _, end, weight in pieces])
    total, covering, sum_of_weights, since = 0.0, 0, 0.0, edges[0][0]
    for at, change, weight in edges:
        if covering:
            total += (at - since) * sum_of_weights / covering
        covering, sum_of_weights, since = covering + change, sum_of_weights + weight, at
    return apart + total
