"""What a file says was activated: piece by piece as it is read, and added up by who saw it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moeplace_agent.interop.arrays import MAX_COUNT, Counts, Ids
from moeplace_agent.interop.faults import InteropError


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """Activations of one layer, numbered as the file numbers it: `counts` float64[experts], or `routes`
    int64[tokens, k], ids of experts, -1 pads. `rank`: whom the file names; `key`: where in the file.
    `layers`: how many the table has that this is of; `experts`: how many the file says a layer has.
    `maybe_dense`: every token has expert 0 and no other, which is also what the engine writes for a layer
    without experts. `maybe_none`: an id that is -1 unless there are so many experts."""

    key: str
    layer: int
    rank: int | None = None
    counts: Counts | None = None
    routes: Ids | None = None
    layers: int | None = None
    experts: int | None = None
    maybe_dense: bool = False
    maybe_none: int | None = None


def rows_of(key: str, table: Counts, rank: int | None = None) -> Iterator[Observation]:
    """A table float64[layers, experts], layer by layer."""
    for layer, row in enumerate(table):
        yield Observation(f"{key}[{layer}]", layer, rank, counts=row, layers=len(table), experts=len(row))


@dataclass(slots=True, eq=False)
class Activations:
    """All that one source saw, by layer as the files number it.

    counts float64[experts] of every layer; routes int32[tokens, k] of those whose every observation had
    them, and of no layer where `only_counts`.
    """

    only_counts: bool = False
    counts: dict[int, Counts] = field(default_factory=dict)
    layers: int | None = None
    experts: int | None = None
    """How many layers the tables have that this was read of, and how many experts the files say a layer has;
    None where they do not say."""
    beyond_experts: float = 0
    """Activations that were left out, being of ids beyond the experts."""
    _routes: dict[int, list[npt.NDArray[np.int32]]] = field(default_factory=dict)
    _used: dict[int, list[npt.NDArray[np.bool_]]] = field(default_factory=dict)
    _more_than_expert_0: set[int] = field(default_factory=set)
    _counted: bool = False

    def add(self, seen: Observation, layer: int) -> None:
        """`layer`: where the file's numbers begin at another than 0, not the observation's own."""
        self.layers = _agreed(seen.key, "layers", self.layers, seen.layers)
        self.experts = _agreed(seen.key, "experts", self.experts, seen.experts)
        if not seen.maybe_dense:
            self._more_than_expert_0.add(layer)
        if seen.routes is not None:
            used: npt.NDArray[np.bool_] = np.any(seen.routes >= 0, axis=1)
            routes = seen.routes if self.only_counts else _proper(seen.key, seen.routes)
            if routes.size:
                self._add_counts(layer, np.bincount(routes[routes >= 0]).astype(np.float64))
            if not self.only_counts:
                self._routes.setdefault(layer, []).append(routes.astype(np.int32))
                self._used.setdefault(layer, []).append(used)
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

    def maybe_dense(self, layer: int) -> bool:
        """Whether all that was seen of the layer may be the zeros of a dense one."""
        return layer not in self._more_than_expert_0

    def forget(self, layer: int) -> None:
        """As if nothing had been seen of the layer."""
        for known in (self.counts, self._routes, self._used):
            known.pop(layer, None)

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

    @property
    def unused_rows(self) -> int:
        """Rows of files that are no tokens, since they name no expert; of the layer that has the fewest."""
        layers = [self.used(layer) for layer in self.active_layers if layer in self._used]
        return min((len(used) - int(used.sum()) for used in layers), default=0)

    def used(self, layer: int) -> npt.NDArray[np.bool_]:
        """bool[rows]: which of the rows that files had for the layer are tokens, in the order they were
        added."""
        return np.concatenate([np.zeros(0, np.bool_), *self._used.get(layer, [])])


def _agreed(key: str, what: str, before: int | None, now: int | None) -> int | None:
    if before is not None and now is not None and before != now:
        raise InteropError(f"{key}: is of a table of {now} {what}, expected {before} as in those before")
    return before if now is None else now


def _proper(key: str, routes: Ids) -> Ids:
    """Without padding, wherever it is in a row; `InteropError` where a token has fewer experts than others,
    or one twice."""
    used = routes >= 0
    if not used.all():
        order = np.argsort(~used, axis=1, kind="stable")
        kept = np.take_along_axis(routes, order, axis=1)[used.any(axis=1)]
        kept = kept[:, (kept >= 0).any(axis=0)]
    else:
        kept = routes
    if (kept < 0).any():
        number = used.sum(axis=1)
        token = int(np.argmax((number > 0) & (number < number.max())))
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
