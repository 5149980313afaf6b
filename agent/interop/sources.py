"""Who saw what: the activations of several files and ranks, added up by source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agent.interop.faults import InteropError
from agent.interop.layers import LayerIndex, MoeLayers
from agent.interop.observations import Activations
from agent.interop.registry import RecordingFormat

DEFAULT_SOURCE = "all"
WEIGHT_SCALE = 1_000_000
"""What the largest weight becomes where weights are no counts."""

_SOURCE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file, and the source of what it holds; None: `DEFAULT_SOURCE`, or by rank."""

    path: Path
    source: str | None = None

    @classmethod
    def of(cls, text: str) -> InputFile:
        """`PATH` or `SOURCE=PATH`."""
        name, separator, path = text.partition("=")
        if separator and _SOURCE.fullmatch(name):
            return cls(Path(path), name)
        return cls(Path(text))


def source_name(text: str) -> str:
    """Names of sources are ids, since sources are nodes or the domains they serve."""
    if _SOURCE.fullmatch(text) is None:
        raise InteropError(f"{text!r:.70}: expected a name of letters, digits, '.', '_' and '-'")
    return text


def accumulate(
    form: RecordingFormat,
    files: Iterable[InputFile],
    source_of_rank: Mapping[int, str],
    *,
    only_counts: bool = False,
    first_layer: int = 0,
) -> dict[str, Activations]:
    """The activations of all files by source. `source_of_rank` decides for files without a source of their
    own. `first_layer`: the number that the file gives the first layer. `InteropError` names file and place;
    `OSError` where a file cannot be read."""
    if source_of_rank and not form.ranks:
        raise InteropError(f"{form.name}: its files name no ranks, expected SOURCE=PATH instead of --rank")
    found: dict[str, Activations] = {}
    for file in files:
        try:
            for seen in form.read(file.path):
                if seen.layer < first_layer:
                    raise InteropError(f"{seen.key}: layer {seen.layer}, expected at least {first_layer}")
                source = file.source or DEFAULT_SOURCE
                if file.source is None and source_of_rank:
                    if seen.rank is None or seen.rank not in source_of_rank:
                        raise InteropError(
                            f"{seen.key}: rank {seen.rank} is of no source, expected a --rank for it"
                        )
                    source = source_of_rank[seen.rank]
                found.setdefault(source, Activations(only_counts)).add(seen, seen.layer - first_layer)
        except InteropError as error:
            raise InteropError(f"{file.path}: {error}") from None
    if not any(source.active_layers for source in found.values()):
        raise InteropError("files: nothing was activated in any of them")
    return found


def moe_layers_of(found: Mapping[str, Activations], index: LayerIndex, known: MoeLayers | None) -> MoeLayers:
    """The MoE layers: as known, or else those in which anything was activated (MODEL), or all that there are
    (MOE). `InteropError` where something was activated in a layer that is none."""
    active = sorted({layer for source in found.values() for layer in source.active_layers})
    if known is None:
        return MoeLayers.of(active if index is LayerIndex.MODEL else range(active[-1] + 1))
    for layer in active:
        if known.ordinal(layer, index) is None:
            numbers = f"MoE layers {known}" if index is LayerIndex.MODEL else f"0..{len(known.numbers) - 1}"
            raise InteropError(
                f"layer {layer}: has activations, expected them in {numbers} "
                f"(layers numbered as {index.value}: see --layer-index)"
            )
    return known


def recordings(
    found: Mapping[str, Activations], index: LayerIndex, moe: MoeLayers
) -> dict[str, npt.NDArray[np.integer]]:
    """By source what `moeplace instance` reads: int32[tokens, MoE layers, k], or int64[MoE layers, experts]
    where only counts are known. Weights that are no counts are scaled, all sources alike. `InteropError`
    where a source saw nothing in a layer: its file is of another model, or of a part of it."""
    scale = 1.0
    if not all(source.whole for source in found.values()):
        largest = max(float(counts.max(initial=0)) for s in found.values() for counts in s.counts.values())
        scale = WEIGHT_SCALE / largest
    named = {name: source for name, source in found.items() if source.active_layers}
    for name, source in named.items():
        expected = MoeLayers.of(_file_layers(index, moe))
        silent = sorted(set(expected.numbers) - set(source.active_layers))
        if silent:
            more = f" and {len(silent) - 1} more" if len(silent) > 1 else ""
            raise InteropError(
                f"{name}: nothing was activated in layer {silent[0]}{more}, expected something in every MoE "
                f"layer, {expected} (layers numbered as {index.value}: see --layer-index)"
            )
    return {
        name: _tokens(name, source, index, moe) if source.by_token else _counts(source, index, moe, scale)
        for name, source in named.items()
    }


def _file_layers(index: LayerIndex, moe: MoeLayers) -> list[int]:
    return list(moe.numbers) if index is LayerIndex.MODEL else list(range(len(moe.numbers)))


def _tokens(name: str, source: Activations, index: LayerIndex, moe: MoeLayers) -> npt.NDArray[np.integer]:
    layers = _file_layers(index, moe)
    routes = [source.routes(layer) for layer in layers]
    for layer, rows in zip(layers, routes, strict=True):
        if rows.shape != routes[0].shape:
            raise InteropError(
                f"{name}: layer {layer} has {rows.shape[0]} tokens of {rows.shape[1]} experts, expected "
                f"{routes[0].shape[0]} of {routes[0].shape[1]} as layer {layers[0]} has (--counts imports "
                "counts only)"
            )
    return np.stack(routes, axis=1)


def _counts(source: Activations, index: LayerIndex, moe: MoeLayers, scale: float) -> npt.NDArray[np.integer]:
    layers = _file_layers(index, moe)
    width = max(len(counts) for counts in source.counts.values())
    table = np.zeros((len(layers), width), np.int64)
    for at, layer in enumerate(layers):
        counts = source.counts.get(layer)
        if counts is not None:
            table[at, : len(counts)] = np.rint(counts * scale)
    return table
