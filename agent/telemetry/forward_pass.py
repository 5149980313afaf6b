"""One pass through the model, recorded layer by layer and counted as a whole."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np

from agent.telemetry.arrays import is_tensor, nothing, stacked
from agent.telemetry.tally import Layout


class ForwardPass:
    """Collects the ids of each layer and hands them on together when the `with` ends; nothing when it ends by
    an exception. For one thread."""

    def __init__(self, layout: Layout, finish: Callable[[Any], None]) -> None:
        self._layout = layout
        self._finish = finish
        self._layers: dict[int, Any] = {}

    def record(self, layer: int, experts: Any) -> None:
        """The top-k ids of one layer, [tokens, top_k], for all tokens of the pass. They are looked at when
        the pass ends: hand in a copy of a buffer that is written to before.

        Raises KeyError for a layer the model does not have, ValueError for one recorded before.
        """
        if layer not in self._layout.layers:
            raise KeyError(f"layer {layer}: is no MoE layer, expected one of {list(self._layout.layers)}")
        if layer in self._layers:
            raise ValueError(f"layer {layer}: was recorded in this pass already")
        self._layers[layer] = experts if is_tensor(experts) else np.asarray(experts)

    def __enter__(self) -> ForwardPass:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()

    def finish(self) -> None:
        """Count what was recorded; `with` does it. A layer left out was not observed.

        Raises ValueError where layers disagree in their number of tokens or an array has another shape.
        """
        layers, self._layers = self._layers, {}
        if not layers:
            return
        first = next(iter(layers))
        tokens = len(layers[first])
        for layer, shape in zip(self._layout.layers, self._layout.shapes, strict=True):
            ids = layers.get(layer)
            if ids is not None and tuple(ids.shape) != (tokens, shape.top_k):
                raise ValueError(
                    f"layer {layer}: ids have shape {tuple(ids.shape)}, expected ({tokens}, {shape.top_k}) "
                    f"as layer {first} has {tokens} tokens"
                )
        if len(layers) < len(self._layout.layers):
            for layer in self._layout.layers:
                layers.setdefault(layer, nothing(layers[first]))
        self._finish(stacked([layers[layer] for layer in self._layout.layers], self._layout.top_k))
