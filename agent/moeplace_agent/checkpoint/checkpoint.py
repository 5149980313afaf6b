"""The experts of a Hugging Face checkpoint, each as the file it is served as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moeplace_agent.architecture.architecture import Configuration
from moeplace_agent.architecture.faults import ConfigFault
from moeplace_agent.architecture.section import LAYERS, TOP_K
from moeplace_agent.checkpoint.equality import check_alike
from moeplace_agent.checkpoint.layouts import Layout, Part, UnknownLayout, find_experts
from moeplace_agent.checkpoint.shards import CONFIG, CheckpointError, StoredTensor, read_config, read_tensors
from moeplace_agent.experts.content import Content, Piece
from moeplace_agent.experts.safetensors import ExpertTensor, expert_head, file_order


@dataclass(frozen=True)
class CheckpointExpert:
    """`content` is the safetensors file of the expert; `data_bytes` what its tensors take in memory."""

    layer: int
    expert: int
    content: Content
    data_bytes: int
    tensors: tuple[ExpertTensor, ...]


@dataclass(frozen=True)
class Checkpoint:
    """Every expert of every MoE layer.

    `top_k`: by layer. `left_out`: layers with experts that are not of the model proper, by their names in
    the checkpoint.
    """

    directory: Path
    model_type: str
    top_k: Mapping[int, int]
    layers: Mapping[int, tuple[CheckpointExpert, ...]]
    files: tuple[Path, ...]
    left_out: tuple[str, ...] = ()

    @property
    def experts(self) -> list[CheckpointExpert]:
        return [expert for layer in self.layers.values() for expert in layer]

    def expert_bytes(self, layer: int) -> int:
        """Of the largest expert of the layer: what a node must have room for."""
        return max(expert.data_bytes for expert in self.layers[layer])


def open_checkpoint(
    directory: Path, *, top_k: int | None = None, layers: int | None = None, below: str | None = None
) -> Checkpoint:
    """Read the headers of `directory`; no weight is touched. Raises `CheckpointError`.

    `top_k` and `layers` say what config.json does not, or says otherwise: experts per token, and how many
    layers the model has without those for multi-token prediction. `below`: only the experts whose tensors'
    names begin so, where a checkpoint holds two models.
    """
    config = read_config(directory)
    stored = read_tensors(directory)
    try:
        return _open(directory, Configuration(config), config, stored, top_k, layers, below)
    except UnknownLayout as error:
        raise CheckpointError(f"{directory} ({config.get('model_type', 'no model_type')}): {error}") from None
    except ConfigFault as fault:
        raise CheckpointError(f"{directory / CONFIG}: {fault}") from None


def _open(
    directory: Path,
    configuration: Configuration,
    config: Mapping[str, Any],
    stored: Mapping[str, StoredTensor],
    top_k: int | None,
    layers: int | None,
    below: str | None,
) -> Checkpoint:
    count = layers or configuration.layer_count()
    if count is None:
        raise CheckpointError(
            f"{directory / CONFIG}: has none of {', '.join(LAYERS)}; --layers gives the number of layers"
        )
    counts = configuration.expert_counts()
    single = sorted({numbers[0] for numbers in counts.values() if len(numbers) == 1})
    layout = find_experts(
        {name: found.tensor.shape for name, found in stored.items()},
        layers=count,
        experts=single[0] if len(single) == 1 else None,
        below=below,
    )
    zero = configuration.zero_experts()
    found = {
        layer: tuple(
            _expert(directory, stored, layer, expert, parts)
            for expert, parts in enumerate(_without_zero(experts, zero, single))
        )
        for layer, experts in layout.layers.items()
    }
    _check_layers(directory, configuration, layout, given=layers is None and below is None)
    _check_counts(directory, configuration, found)
    for layer, experts in found.items():
        check_alike(directory, layer, [expert.tensors for expert in experts])
    files = {piece.path for layer in found.values() for e in layer for piece in e.content.pieces}
    return Checkpoint(
        directory,
        str(config.get("model_type", "")),
        _top_k(directory, configuration, found, top_k),
        found,
        tuple(sorted(path for path in files if path is not None)),
        layout.left_out,
    )


def _expert(
    directory: Path, stored: Mapping[str, StoredTensor], layer: int, expert: int, parts: tuple[Part, ...]
) -> CheckpointExpert:
    places: dict[str, Piece] = {}
    tensors: list[ExpertTensor] = []
    for part in parts:
        path, tensor = stored[part.source]
        shape, begin, size = tensor.shape, tensor.begin, tensor.bytes
        if part.entry is not None:
            size, left = divmod(size, part.entries)
            if left:
                raise CheckpointError(
                    f"{directory}: {part.source} does not divide into {part.entries} experts"
                )
            rows = shape[0] // part.entries
            shape = shape[1:] if rows == 1 else (rows, *shape[1:])
            begin += part.entry * size
        places[part.name] = Piece(size, path=path, offset=begin)
        tensors.append(ExpertTensor(part.name, tensor.dtype, shape, size))
    ordered = file_order(tensors)
    head = expert_head(layer, expert, ordered)
    pieces = (Piece(len(head), data=head), *(places[tensor.name] for tensor in ordered))
    return CheckpointExpert(
        layer, expert, Content(pieces), sum(tensor.bytes for tensor in ordered), tuple(ordered)
    )


def _without_zero(
    experts: tuple[tuple[Part, ...], ...], zero: int, counts: Sequence[int]
) -> tuple[tuple[Part, ...], ...]:
    """`counts`: how many experts there are without the `zero` behind them."""
    return experts[:-zero] if zero and len(experts) - zero in counts else experts


def _check_layers(directory: Path, configuration: Configuration, layout: Layout, *, given: bool) -> None:
    """Every layer that the configuration says has experts must have them: some files may be missing."""
    expected = configuration.given_layers() if given else None
    missing = [layer for layer in expected or () if layer not in layout.layers]
    if missing:
        raise CheckpointError(
            f"{directory}: layer {missing[0]} has no experts, {CONFIG} says that it has: is the checkpoint "
            "complete?"
        )


def _check_counts(
    directory: Path, configuration: Configuration, layers: Mapping[int, tuple[CheckpointExpert, ...]]
) -> None:
    """The number of experts must be one that the configuration gives. Some give several for one thing."""
    counts = configuration.expert_counts()
    numbers = list(layers)
    said = {name: _expected(configuration, name, counts[name], numbers) for name in counts}
    for place, (layer, experts) in enumerate(layers.items()):
        if said and all(len(experts) != expected[place] for expected in said.values()):
            words = " and ".join(f"{name} says {expected[place]}" for name, expected in said.items())
            raise CheckpointError(f"{directory}: layer {layer} has {len(experts)} experts, {words}")


def _expected(configuration: Configuration, name: str, said: list[int], layers: list[int]) -> list[int]:
    """How many experts each of `layers` should have."""
    kinds = configuration.kinds()
    if kinds > 1 and len(said) in (1, kinds):
        return [sum(said) * kinds // len(said)] * len(layers)
    return configuration.by_layer(name, said, layers)


def _top_k(
    directory: Path,
    configuration: Configuration,
    layers: Mapping[int, tuple[CheckpointExpert, ...]],
    given: int | None,
) -> dict[int, int]:
    numbers = list(layers)
    if given is not None:
        name, chosen = "--top-k", [given] * len(numbers)
    else:
        said = configuration.top_k()
        if said is None:
            raise CheckpointError(
                f"{directory / CONFIG}: has none of {', '.join(TOP_K)}; --top-k gives the experts per token"
            )
        name, chosen = said[0], configuration.by_layer(*said, numbers)
    for layer, k in zip(numbers, chosen, strict=True):
        if k > len(layers[layer]):
            place = name if given is not None else f"{directory / CONFIG}: {name}"
            raise CheckpointError(f"{place} is {k} of {len(layers[layer])} experts")
    return dict(zip(numbers, chosen, strict=True))
