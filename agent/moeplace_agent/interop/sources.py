"""Who saw what: the activations of several files and ranks, added up by source."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moeplace_agent.interop.beyond import without_beyond
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.layers import LayerIndex, MoeLayers, drop_advice
from moeplace_agent.interop.observations import Activations
from moeplace_agent.interop.registry import RecordingFormat

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
    dropped_layers: Collection[int] = (),
    experts: int | None = None,
    known_experts: int | None = None,
) -> dict[str, Activations]:
    """The activations of all files by source. `source_of_rank` decides for files without a source of their
    own. `first_layer`: the number that the file gives the first layer. `dropped_layers`: left out, numbered
    from 0. `experts`: ids from it on are left out; absent, ids beyond the experts that a
    file or the model (`known_experts`) has are refused. `InteropError` names file and place; `OSError` where
    a file cannot be read."""
    if source_of_rank and not form.ranks:
        raise InteropError(f"{form.name}: its files name no ranks, expected SOURCE=PATH instead of --rank")
    found: dict[str, Activations] = {}
    for file in files:
        try:
            for seen in form.read(file.path):
                if seen.layer < first_layer:
                    raise InteropError(f"{seen.key}: layer {seen.layer}, expected at least {first_layer}")
                layer = seen.layer - first_layer
                if layer in dropped_layers:
                    continue
                source = file.source or DEFAULT_SOURCE
                if file.source is None and source_of_rank:
                    if seen.rank is None or seen.rank not in source_of_rank:
                        raise InteropError(
                            f"{seen.key}: rank {seen.rank} is of no source, expected a --rank for it"
                        )
                    source = source_of_rank[seen.rank]
                routed, left_out = without_beyond(seen, experts, known_experts)
                activations = found.setdefault(source, Activations(only_counts))
                activations.add(routed, layer)
                activations.beyond_experts += left_out
        except InteropError as error:
            raise InteropError(f"{file.path}: {error}") from None
    if not any(source.active_layers for source in found.values()):
        raise InteropError("files: nothing was activated in any of them")
    return found


def layer_index_of(
    form: RecordingFormat, found: Mapping[str, Activations], known: MoeLayers | None
) -> LayerIndex:
    """How files number layers whose format allows both: the way in which what was activated are the known MoE
    layers, those and no others; the format's own where that does not decide."""
    if known is None or not form.either_index:
        return form.index
    tables = [source.layers for source in found.values() if source.layers is not None]
    moe_only = max(tables, default=0) <= len(known.numbers)
    ways = (LayerIndex.MOE, LayerIndex.MODEL) if moe_only else (LayerIndex.MODEL, LayerIndex.MOE)
    active, certain = _active(found)
    for way in ways:
        if certain <= set(_file_layers(way, known)) <= active:
            return way
    return form.index


def moe_layers_of(found: Mapping[str, Activations], index: LayerIndex, known: MoeLayers | None) -> MoeLayers:
    """The MoE layers: as known, or else those in which anything was activated (MODEL), or all that there are
    (MOE). Layers that may be dense, and are as far as is known, are forgotten. `InteropError` where
    something was activated in a layer that is none, and where nothing says whether a layer is dense."""
    active, certain = _active(found)
    unsure = sorted(active - certain)
    if known is None:
        if unsure:
            raise InteropError(
                f"layer {unsure[0]}: every token has expert 0, as in a dense layer's row, expected "
                "--moe-layers, --model-config or --preset to say whether it is a MoE layer"
            )
        numbers = sorted(active)
        return MoeLayers.of(numbers if index is LayerIndex.MODEL else range(numbers[-1] + 1))
    for layer in unsure:
        if known.ordinal(layer, index) is None:
            for source in found.values():
                source.forget(layer)
    for layer in sorted(certain):
        if known.ordinal(layer, index) is None:
            last = known.numbers[-1] if index is LayerIndex.MODEL else len(known.numbers) - 1
            expected = f"MoE layers {known}" if index is LayerIndex.MODEL else f"0..{last}"
            advice = f"; {drop_advice(layer)}" if layer > last else ""
            raise InteropError(
                f"layer {layer}: has activations, expected them in {expected} "
                f"(layers numbered as {index.value}: see --layer-index{advice})"
            )
    return known


def _active(found: Mapping[str, Activations]) -> tuple[set[int], set[int]]:
    """Layers in which anything was activated; those of them that cannot be dense."""
    active = {layer for source in found.values() for layer in source.active_layers}
    return active, {
        layer for layer in active if not all(source.maybe_dense(layer) for source in found.values())
    }


def recordings(
    found: Mapping[str, Activations], index: LayerIndex, moe: MoeLayers
) -> dict[str, npt.NDArray[np.integer]]:
    """By source what `moeplace instance` reads: int32[tokens, MoE layers, k], or int64[MoE layers, experts]
    where only counts are known, with as many experts as the files say there are. Weights that are no counts
    are scaled, all sources alike. `InteropError` where a source saw nothing in a layer: its file is of
    another model, or of a part of it."""
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
    width = max(max(source.experts or 0, *map(len, source.counts.values())) for source in named.values())
    return {
        name: _tokens(name, source, index, moe)
        if source.by_token
        else _counts(source, index, moe, scale, width)
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
        if not np.array_equal(source.used(layer), source.used(layers[0])):
            raise InteropError(
                f"{name}: layer {layer} and layer {layers[0]} have other tokens without experts, expected "
                "the same (--counts imports counts only)"
            )
    return np.stack(routes, axis=1)


def _counts(
    source: Activations, index: LayerIndex, moe: MoeLayers, scale: float, width: int
) -> npt.NDArray[np.integer]:
    layers = _file_layers(index, moe)
    table = np.zeros((len(layers), width), np.int64)
    for at, layer in enumerate(layers):
        counts = source.counts.get(layer)
        if counts is not None:
            table[at, : len(counts)] = np.rint(counts * scale)
    return table
