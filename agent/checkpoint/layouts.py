"""Where the experts are among a checkpoint's tensors, by the tensors' names.

Two ways are in use. *Separate*: every expert has tensors of its own, numbered in their names (Mixtral and
Phi-MoE `block_sparse_moe.experts.7.w1.weight`; Qwen2-MoE, Qwen3-MoE, OLMoE, DeepSeek V2 and V3, Kimi K2
`mlp.experts.7.gate_proj.weight`; scales of quantized weights beside them). *Fused*: one tensor holds all
experts of a layer, one after another along its first axis, so that each expert is a consecutive part of it
(GPT-OSS `mlp.experts.gate_up_proj_blocks`, Llama 4 and checkpoints written by transformers 5
`experts.gate_up_proj`, Granite-MoE `block_sparse_moe.input_linear.weight`). Shared experts, which every token
uses, are no experts here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

_SEPARATE = re.compile(
    r"(?P<tower>(?:.+\.)?)layers\.(?P<layer>\d+)\.(?:.+\.)?experts\.(?P<expert>\d+)\.(?P<tensor>.+)"
)
_FUSED = re.compile(
    r"(?P<tower>(?:.+\.)?)layers\.(?P<layer>\d+)\.(?:(?:.+\.)?experts|block_sparse_moe)"
    r"\.(?P<tensor>(?:gate_up_proj|down_proj|input_linear|output_linear)[^.]*(?:\.weight)?)"
)
_PREDICTION_TOWER = "mtp."
"""Modules for multi-token prediction: no part of the model proper."""


class UnknownLayout(ValueError):
    """The experts cannot be found; in words."""


class Part(NamedTuple):
    """One tensor of an expert: the whole of tensor `source`, or its part `entry` along the first axis."""

    name: str
    source: str
    entry: int | None


@dataclass(frozen=True)
class Layout:
    """`layers[layer][expert]` are the expert's tensors, by name; experts are numbered without a gap."""

    fused: bool
    layers: Mapping[int, tuple[tuple[Part, ...], ...]]


def find_experts(shapes: Mapping[str, tuple[int, ...]], *, layers: int | None) -> Layout:
    """The experts among the tensors `shapes`, in layers below `layers` (those beyond belong to multi-token
    prediction; None: all).

    Raises `UnknownLayout` where there are none, or where they are numbered in a way that is not understood.
    """
    separate = _matches(_SEPARATE, shapes, layers)
    fused = _matches(_FUSED, shapes, layers)
    if separate and fused:
        raise UnknownLayout(
            f"both {separate[0].string} and {fused[0].string} look like experts: expected one way of naming"
        )
    if not separate and not fused:
        raise UnknownLayout(
            "no tensor is named like an expert: expected layers.N...experts.M.NAME, or for experts fused in "
            "one tensor layers.N...experts.gate_up_proj or layers.N.block_sparse_moe.input_linear"
        )
    matches = separate or fused
    towers = sorted({match["tower"] for match in matches})
    if len(towers) > 1:
        raise UnknownLayout(f"experts are found below {' and below '.join(map(repr, towers))}: expected one")
    return _separate(matches) if separate else _fused(matches, shapes)


def _matches(pattern: re.Pattern[str], names: Iterable[str], layers: int | None) -> list[re.Match[str]]:
    found = (pattern.fullmatch(name) for name in names)
    return [
        match
        for match in found
        if match is not None
        and not match["tower"].startswith(_PREDICTION_TOWER)
        and (layers is None or int(match["layer"]) < layers)
    ]


def _separate(matches: Iterable[re.Match[str]]) -> Layout:
    experts: dict[int, dict[int, list[Part]]] = defaultdict(lambda: defaultdict(list))
    for match in matches:
        experts[int(match["layer"])][int(match["expert"])].append(Part(match["tensor"], match.string, None))
    for layer, found in experts.items():
        missing = next((expert for expert in range(max(found) + 1) if expert not in found), None)
        if missing is not None:
            raise UnknownLayout(f"layer {layer} has expert {max(found)} and no expert {missing}")
    return Layout(
        fused=False,
        layers={
            layer: tuple(tuple(sorted(found[expert])) for expert in range(len(found)))
            for layer, found in sorted(experts.items())
        },
    )


def _fused(matches: Iterable[re.Match[str]], shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    tensors: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for match in matches:
        tensors[int(match["layer"])].append((match["tensor"], match.string))
    layers = {}
    for layer, found in sorted(tensors.items()):
        counts = {shapes[source][0] if shapes[source] else 0 for _, source in found}
        if len(counts) > 1 or 0 in counts:
            told = ", ".join(f"{source} {list(shapes[source])}" for _, source in sorted(found))
            raise UnknownLayout(f"the first axes of {told} differ, expected the number of experts in each")
        layers[layer] = tuple(
            tuple(Part(name, source, expert) for name, source in sorted(found))
            for expert in range(counts.pop())
        )
    return Layout(fused=True, layers=layers)
