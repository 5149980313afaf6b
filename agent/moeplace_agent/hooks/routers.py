"""The routers of a transformers model: where they are, and the ids in what they return."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from moeplace_agent.telemetry import LayerShape

try:
    import torch
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "moeplace_agent.hooks needs torch and transformers: pip install moeplace-agent[transformers]",
        name=error.name,
    ) from error

_ROUTER = re.compile("topkrouter$", re.IGNORECASE)
_LAYER = re.compile(r"^(?P<layers>(?:.*?\.)?[A-Za-z_]\w*)\.(?P<number>\d+)\.")

_OTHER_ROUTERS = frozenset(
    {
        "AfmoeTokenChoiceRouter",
        "DeepseekV4HashRouter",
        "DogeCDMoE",
        "Gemma4TextRouter",
        "HunYuanMoEV1Gate",
        "Llama4Router",
        "ZayaRouter",
    }
)
"""Routers by other names. Each but Llama-4's and Doge's returns what a TopKRouter does."""


def _without_zero_experts(router: Router, output: Any) -> Any:
    """LongCat's ids beyond the experts name ones that compute nothing and have no weights: none to place."""
    return output[2].masked_fill(output[2] >= router.shape.experts, -1)


def _without_skips(router: Router, output: Any) -> Any:
    """Where Zaya's router skips the experts it returns id 0 with weight 0."""
    return output[2].masked_fill(output[1] == 0, -1)


def _top_logits(router: Router, output: Any) -> Any:
    """Llama-4's router returns (scores, logits), and its choice is the top of the logits."""
    return torch.topk(output[1].detach(), router.shape.top_k, dim=-1).indices


def _product_keys(router: Router, output: Any) -> Any:
    """Doge's block returns (states, logits [2, tokens, keys]). An expert is a pair of keys, its score the sum
    of theirs."""
    rows, columns = output[1].detach()
    scores = rows.unsqueeze(-1) + columns.unsqueeze(-2)
    return torch.topk(scores.flatten(-2), router.shape.top_k, dim=-1).indices


_IDS: Mapping[str, Callable[[Router, Any], Any]] = {
    "DogeCDMoE": _product_keys,
    "Llama4Router": _top_logits,
    "LongcatFlashTopkRouter": _without_zero_experts,
    "ZayaRouter": _without_skips,
}
"""How to read the ids of routers whose third output is not simply those."""


@dataclass(frozen=True)
class Router:
    """The router of one MoE layer. `layer`: true number in the model, dense layers counted."""

    name: str
    layer: int
    module: Any
    shape: LayerShape

    def ids(self, output: Any) -> Any:
        """Integer tensor [tokens, top_k] in what the router returned: (logits, weights, ids, ...), or what
        `_IDS` makes of it. -1 names no expert.

        Ids are never computed from the logits of other routers: they may be chosen with a bias or by groups.
        Raises TypeError for an output of another kind.
        """
        kind = type(self.module).__name__
        ids = None
        if isinstance(output, tuple) and len(output) >= 2:
            if kind in _IDS:
                ids = _IDS[kind](self, output)
            elif len(output) >= 3:
                ids = output[2]
        if ids is None or ids.dtype.is_floating_point:
            raise TypeError(f"{self.name}: {kind} returned no ids, expected them third")
        return ids


@dataclass(frozen=True)
class Routers:
    """All routers of one stack of layers, and the module that runs the stack."""

    stack: Any
    routers: tuple[Router, ...]


def find_routers(model: Any, select: Callable[[str], bool] = lambda name: True) -> Routers:
    """The routers of `model` whose qualified name `select` takes, in order of their layers.

    Raises ValueError where there is none, or where it can't be told which layer one belongs to: in models
    with several stacks (text and vision, thinker and talker) or several routers in a layer, `select` decides.
    """
    found = list(_routers(model, select))
    if not found:
        raise ValueError(
            f"{type(model).__name__}: has no router known here, expected modules whose class is called "
            f"...TopKRouter, or {', '.join(sorted(_OTHER_ROUTERS))}"
        )
    stacks = sorted({stack for stack, _ in found})
    if len(stacks) > 1:
        raise ValueError(
            f"{type(model).__name__}: has routers in {' and '.join(stacks)}, expected one: attach to one "
            "of them, or select by name"
        )
    routers = sorted((router for _, router in found), key=lambda router: router.layer)
    for one, other in pairwise(routers):
        if one.layer == other.layer:
            raise ValueError(
                f"layer {one.layer}: has the routers {one.name} and {other.name}, expected one: "
                "select by name"
            )
    owner = stacks[0].rpartition(".")[0]
    return Routers(model.get_submodule(owner), tuple(routers))


def moe_layers(model: Any, select: Callable[[str], bool] = lambda name: True) -> dict[int, LayerShape]:
    """True layer number to shape, as `Recorder` takes it. Raises as `find_routers`."""
    return {router.layer: router.shape for router in find_routers(model, select).routers}


def _routers(model: Any, select: Callable[[str], bool]) -> Iterator[tuple[str, Router]]:
    for name, module in model.named_modules():
        kind = type(module).__name__
        if not (_ROUTER.search(kind) or kind in _OTHER_ROUTERS) or not select(name):
            continue
        place = _LAYER.match(name)
        if place is None:
            raise ValueError(f"{name}: {kind} is in no list of layers, expected a name as layers.3.mlp.gate")
        shape = LayerShape(
            _size(name, module, "num_experts", "num_experts"), _size(name, module, "top_k", "top_k_experts")
        )
        yield place["layers"], Router(name, int(place["number"]), module, shape)


def _size(name: str, module: Any, attribute: str, of_config: str) -> int:
    """What the router says of itself, or else the configuration it keeps, under that name."""
    value = getattr(module, attribute, None)
    if value is None:
        value = getattr(getattr(module, "config", None), of_config, None)
    if not isinstance(value, int):
        raise ValueError(f"{name}: {type(module).__name__} has no {attribute}, expected a whole number")
    return value
