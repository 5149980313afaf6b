"""The routers of a transformers model: where they are, and the ids in what they return."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from agent.telemetry import LayerShape

try:
    import torch
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "agent.hooks needs torch and transformers: pip install moeplace[transformers]", name=error.name
    ) from error

_ROUTER = re.compile("topkrouter$", re.IGNORECASE)
_LAYER = re.compile(r"^(?P<layers>(?:.*?\.)?[A-Za-z_]\w*)\.(?P<number>\d+)\.")

_OTHER_ROUTERS = frozenset(
    {
        "AfmoeTokenChoiceRouter",
        "DeepseekV4HashRouter",
        "HunYuanMoEV1Gate",
        "Llama4Router",
    }
)
"""Routers by other names. Each but Llama-4's returns what a TopKRouter does."""

_WITH_ZERO_EXPERTS = frozenset({"LongcatFlashTopkRouter"})
"""Routers whose ids beyond the experts name ones that compute nothing and have no weights: none to place."""


@dataclass(frozen=True)
class Router:
    """The router of one MoE layer. `layer`: true number in the model, dense layers counted."""

    name: str
    layer: int
    module: Any
    shape: LayerShape

    def ids(self, output: Any) -> Any:
        """Integer tensor [tokens, top_k] in what the router returned: (logits, weights, ids, ...), or
        Llama-4's (scores, logits), whose choice is the top of the logits.

        Ids are never computed from the logits of other routers: they may be chosen with a bias or by groups.
        Raises TypeError for an output of another kind.
        """
        if isinstance(output, tuple) and len(output) >= 3 and not output[2].dtype.is_floating_point:
            ids = output[2]
            if type(self.module).__name__ in _WITH_ZERO_EXPERTS:
                return ids.masked_fill(ids >= self.shape.experts, -1)
            return ids
        if type(self.module).__name__ == "Llama4Router":
            return torch.topk(output[1].detach(), self.shape.top_k, dim=-1).indices
        raise TypeError(f"{self.name}: {type(self.module).__name__} returned no ids, expected them third")


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
        shape = LayerShape(_size(name, module, "num_experts"), _size(name, module, "top_k"))
        yield place["layers"], Router(name, int(place["number"]), module, shape)


def _size(name: str, module: Any, attribute: str) -> int:
    value = getattr(module, attribute, None)
    if not isinstance(value, int):
        raise ValueError(f"{name}: {type(module).__name__} has no {attribute}, expected a whole number")
    return value
