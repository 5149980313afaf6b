"""The experts of a Hugging Face checkpoint, each as the file it is served as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.checkpoint.layouts import Part, UnknownLayout, find_experts
from agent.checkpoint.shards import CONFIG, CheckpointError, StoredTensor, read_config, read_tensors
from agent.experts.content import Content, Piece
from agent.experts.safetensors import ExpertTensor, expert_head, file_order

_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")


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
    """Every expert of every MoE layer. `model_type` and `top_k` as config.json gives them."""

    directory: Path
    model_type: str
    top_k: int
    layers: Mapping[int, tuple[CheckpointExpert, ...]]
    files: tuple[Path, ...]

    @property
    def experts(self) -> list[CheckpointExpert]:
        return [expert for layer in self.layers.values() for expert in layer]


def open_checkpoint(directory: Path) -> Checkpoint:
    """Read the headers of `directory`; no weight is touched. Raises `CheckpointError`."""
    config = read_config(directory)
    text = config.get("text_config")
    text = text if isinstance(text, dict) else {}
    stored = read_tensors(directory)
    shapes = {name: found.tensor.shape for name, found in stored.items()}
    try:
        layout = find_experts(shapes, layers=_number(directory, config, text, "num_hidden_layers"))
    except UnknownLayout as error:
        raise CheckpointError(f"{directory} ({config.get('model_type', 'no model_type')}): {error}") from None
    top_k = _number(directory, config, text, "num_experts_per_tok")
    layers = {
        layer: tuple(_expert(directory, stored, layer, expert, parts) for expert, parts in enumerate(experts))
        for layer, experts in layout.layers.items()
    }
    for name in _EXPERT_COUNTS:
        if name in config or name in text:
            _check_counts(directory, layers, name, _number(directory, config, text, name))
    _check_sizes(directory, layers)
    fewest = min(len(experts) for experts in layers.values())
    if top_k > fewest:
        raise CheckpointError(f"{directory / CONFIG}: num_experts_per_tok is {top_k} of {fewest} experts")
    files = {piece.path for layer in layers.values() for e in layer for piece in e.content.pieces}
    return Checkpoint(
        directory,
        str(config.get("model_type", "")),
        top_k,
        layers,
        tuple(sorted(path for path in files if path is not None)),
    )


def _number(directory: Path, config: Mapping[str, Any], text: Mapping[str, Any], name: str) -> int:
    value = config.get(name, text.get(name))
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{directory / CONFIG}: {name} is {value!r}, expected a whole number from 1")
    return value


def _expert(
    directory: Path, stored: Mapping[str, StoredTensor], layer: int, expert: int, parts: tuple[Part, ...]
) -> CheckpointExpert:
    places: dict[str, Piece] = {}
    tensors: list[ExpertTensor] = []
    for part in parts:
        path, tensor = stored[part.source]
        shape, begin, size = tensor.shape, tensor.begin, tensor.bytes
        if part.entry is not None:
            size, left = divmod(size, shape[0])
            if left:
                raise CheckpointError(f"{directory}: {part.source} does not divide into {shape[0]} experts")
            shape, begin = shape[1:], begin + part.entry * size
        places[part.name] = Piece(size, path=path, offset=begin)
        tensors.append(ExpertTensor(part.name, tensor.dtype, shape, size))
    ordered = file_order(tensors)
    head = expert_head(layer, expert, ordered)
    pieces = (Piece(len(head), data=head), *(places[tensor.name] for tensor in ordered))
    return CheckpointExpert(
        layer, expert, Content(pieces), sum(tensor.bytes for tensor in ordered), tuple(ordered)
    )


def _check_counts(
    directory: Path, layers: Mapping[int, tuple[CheckpointExpert, ...]], name: str, expected: int
) -> None:
    for layer, experts in layers.items():
        if len(experts) != expected:
            raise CheckpointError(
                f"{directory}: layer {layer} has {len(experts)} experts, {name} says {expected}"
            )


def _check_sizes(directory: Path, layers: Mapping[int, tuple[CheckpointExpert, ...]]) -> None:
    """All experts of a layer must be alike: placement counts on one size."""
    for layer, experts in layers.items():
        for expert in experts:
            if expert.tensors != experts[0].tensors:
                raise CheckpointError(
                    f"{directory}: expert {expert.expert} of layer {layer} has other tensors than expert 0"
                )
