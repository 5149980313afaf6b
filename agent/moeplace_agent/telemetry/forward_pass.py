"""One pass through the model, recorded layer by layer and counted as a whole."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from moeplace_agent.telemetry.arrays import here, nothing, side_by_side
from moeplace_agent.telemetry.tally import Layout


class ForwardPass:
    """Collects the ids of each layer and hands them on together when the `with` ends; nothing when it ends by
    an exception. For one thread."""

    __slots__ = ("_finish", "_layers", "_layout", "_owned")

    def __init__(self, layout: Layout, owned: bool, finish: Callable[[dict[int, Any]], None]) -> None:
        self._layout = layout
        self._owned = owned
        self._finish = finish
        self._layers: dict[int, Any] = {}

    def record(self, layer: int, experts: Any) -> None:
        """The top-k ids of one layer, [tokens, top_k], for all tokens of the pass. They are looked at when
        the pass ends, or later where they are `owned`: hand in a copy of a buffer that is written to before.

        Raises KeyError for a layer the model does not have, ValueError for one recorded before; unless the
        ids are `owned`, for types and shapes other than expected, too.
        """
        if layer not in self._layout.top_k_of:
            raise KeyError(f"layer {layer}: is not a MoE layer, expected one of {list(self._layout.layers)}")
        if layer in self._layers:
            raise ValueError(f"layer {layer}: was recorded in this pass already")
        if not self._owned:
            experts = _checked(layer, experts, self._layout, next(iter(self._layers.values()), None))
        self._layers[layer] = experts

    def __enter__(self) -> ForwardPass:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()

    def finish(self) -> None:
        """Count what was recorded; `with` does it. A layer left out was not observed."""
        layers, self._layers = self._layers, {}
        if layers:
            self._finish(layers)


def assembled(layout: Layout, layers: dict[int, Any]) -> Any:
    """The ids of a pass as one [tokens, layers, top_k]; a tensor where one of them is on a GPU.

    Raises ValueError that names the layer.
    """
    first = None
    arrays = {}
    for layer, ids in layers.items():
        arrays[layer] = _checked(layer, ids, layout, first)
        first = arrays[layer] if first is None else first
    if len(arrays) < len(layout.layers):
        none = nothing(first)
        for layer in layout.layers:
            arrays.setdefault(layer, none)
    return side_by_side([arrays[layer] for layer in layout.layers], layout.top_k + layout.fused)


def _checked(layer: int, experts: Any, layout: Layout, other: Any) -> Any:
    """The ids of one layer; of as many tokens as the `other`, where there is one."""
    try:
        ids = here(experts)
    except TypeError as error:
        raise ValueError(f"layer {layer}: {error}") from None
    shape, top_k = ids.shape, layout.ids_of(layer)
    if len(shape) != 2 or shape[1] != top_k or (other is not None and shape[0] != other.shape[0]):
        tokens = "tokens" if other is None else other.shape[0]
        hint = layout.hint() if len(shape) == 2 and shape[1] > top_k else ""
        raise ValueError(f"layer {layer}: ids have shape {tuple(shape)}, expected ({tokens}, {top_k}){hint}")
    return ids
