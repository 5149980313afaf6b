"""What a file says was activated: piece by piece as it is read, and added up by who saw it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from agent.interop.arrays import MAX_COUNT, Counts, Ids
from agent.interop.faults import InteropError


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """Activations of one layer, numbered as the file numbers it: `counts` float64[experts], or `routes`
    int64[tokens, k], ids of experts, -1 pads. `rank`: whom the file names; `key`: where in the file."""

    key: str
    layer: int
    rank: int | None = None
    counts: Counts | None = None
    routes: Ids | None = None


def rows_of(key: str, table: Counts, rank: int | None = None) -> Iterator[Observation]:
    """A table float64[layers, experts], layer by layer."""
    for layer, row in enumerate(table):
        yield Observation(f"{key}[{layer}]", layer, rank, counts=row)


@dataclass(slots=True, eq=False)
class Activations:
    """All that one source saw, by layer as the files number it.

    counts float64[experts] of every layer; routes int32[tokens, k] of those whose every observation had
    them, and of no layer where `only_counts`.
    """

    only_counts: bool = False
    counts: dict[int, Counts] = field(default_factory=dict)
    _routes: dict[int, list[npt.NDArray[np.int32]]] = field(default_factory=dict)
    _counted: bool = False

    def add(self, seen: Observation, layer: int) -> None:
        """`layer`: where the file's numbers begin at another than 0, not the observation's own."""
        if seen.routes is not None:
            routes = seen.routes if self.only_counts else _proper(seen.key, seen.routes)
            if routes.size:
                self._add_counts(layer, np.bincount(routes[routes >= 0]).astype(np.float64))
            if not self.only_counts:
                self._routes.setdefault(layer, []).append(routes.astype(np.int32))
        elif seen.counts is not None:
            self._counted = True
            self._add_counts(layer, seen.counts)

    def _add_counts(self, layer: int, counts: Counts) -> None:
        known = self.counts.get(layer, np.zeros(0))
        total = np.zeros(max(len(known), len(counts)))
        total[: len(known)] += known
        total[: len(counts)] += counts
        if total.max(initial=0) > MAX_COUNT:
            raise InteropError(
                f"layer {layer}: counts {total.max():.0f} of one expert, expected at most 2**53"
            )
        self.counts[layer] = total

    @property
    def by_token(self) -> bool:
        """Whether tokens are known, rather than counts alone."""
        return bool(self._routes) and not self._counted

    @property
    def active_layers(self) -> tuple[int, ...]:
        """Layers in which anything was activated, ascending."""
        return tuple(sorted(layer for layer, counts in self.counts.items() if counts.any()))

    @property
    def whole(self) -> bool:
        """Whether all counts are whole numbers, rather than weights that say how experts compare."""
        return all(bool((counts == np.floor(counts)).all()) for counts in self.counts.values())

    def routes(self, layer: int) -> npt.NDArray[np.int32]:
        """int32[tokens, k] of one layer, in the order they were added."""
        parts = [part for part in self._routes.get(layer, []) if part.size]
        if not parts:
            return np.zeros((0, 0), np.int32)
        widths = {part.shape[1] for part in parts}
        if len(widths) > 1:
            raise InteropError(
                f"layer {layer}: tokens with {' and '.join(map(str, sorted(widths)))} experts, expected one k"
            )
        return np.concatenate(parts)


def _proper(key: str, routes: Ids) -> Ids:
    """Without columns and tokens that are padding only; `InteropError` where a token is padded in part or
    has an expert twice."""
    used = routes >= 0
    kept = routes[used.any(axis=1)][:, used.any(axis=0)]
    if (kept < 0).any():
        token = int(np.argmax((used != used.any(axis=0)).any(axis=1) & used.any(axis=1)))
        raise InteropError(
            f"{key}[{token}]: experts {routes[token].tolist()}, expected as many of every token "
            "(or import counts only)"
        )
    ordered = np.sort(kept, axis=1)
    repeated = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    if repeated.any():
        token = int(np.flatnonzero(used.any(axis=1))[int(np.argmax(repeated))])
        raise InteropError(f"{key}[{token}]: experts {routes[token].tolist()}, expected different ones")
    return kept
