"""One pass through the model, recorded layer by layer and counted as a whole."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from agent.telemetry.arrays import here, nothing, side_by_side
from agent.telemetry.tally import Layout


class ForwardPass:
    """Collects the ids of each layer and hands them on together when the `with` ends; nothing when it ends by
    an exception. For one thread."""

    __slots__ = ("_finish", "_layers", "_layout", "_tokens")

    def __init__(self, layout: Layout, finish: Callable[[Any], None]) -> None:
        self._layout = layout
        self._finish = finish
        self._layers: dict[int, Any] = {}
        self._tokens = 0

    def record(self, layer: int, experts: Any) -> None:
        """The top-k ids of one layer, [tokens, top_k], for all tokens of the pass. They are looked at when
        the pass ends: hand in a copy of a buffer that is written to before.

        Raises KeyError for a layer the model does not have, ValueError for one recorded before and for a
        shape other than expected.
        """
        top_k = self._layout.top_k_of.get(layer)
        if top_k is None:
            raise KeyError(f"layer {layer}: is no MoE layer, expected one of {list(self._layout.layers)}")
        if layer in self._layers:
            raise ValueError(f"layer {layer}: was recorded in this pass already")
        ids = here(experts)
        shape = ids.shape
        if not self._layers and len(shape) == 2:
            self._tokens = shape[0]
        if shape != (self._tokens, top_k):
            tokens = self._tokens if self._layers else "tokens"
            raise ValueError(f"layer {layer}: ids have shape {tuple(shape)}, expected ({tokens}, {top_k})")
        self._layers[layer] = ids

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
        if not layers:
            return
        if len(layers) < len(self._layout.layers):
            none = nothing(next(iter(layers.values())))
            for layer in self._layout.layers:
                layers.setdefault(layer, none)
        self._finish(side_by_side([layers[layer] for layer in self._layout.layers], self._layout.top_k))
