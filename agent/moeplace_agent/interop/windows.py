"""What a source saw, as windows of telemetry for the service."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from moeplace_agent.interop.arrays import Counts
from moeplace_agent.interop.beyond import advice
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.layers import LayerIndex, MoeLayers
from moeplace_agent.interop.observations import Activations
from moeplace_agent.telemetry import LayerShape, LayerWindow, Recorder, Window

MAX_WINDOW_SECONDS = 3600.0
"""The service takes no longer ones."""

_MAX_ROUTE_BYTES = 1 << 20
_ROUTES_PER_LAYER = 512
_MAX_COUNT = 2**32 - 1


def window_of(
    model_id: str,
    shapes: Mapping[int, LayerShape],
    source: Activations,
    index: LayerIndex,
    seconds: float,
    end_at: datetime,
    *,
    seed: int = 0,
) -> Window:
    """One window of `seconds` that ends at `end_at`. shapes: true layer number to shape, as the model is
    registered; counts are complete, routes are a uniform sample.

    `InteropError` where a layer or an expert is not the model's, where the counts are weights, and where a
    count is more than a window can say.
    """
    moe = MoeLayers.of(sorted(shapes))
    if not source.whole:
        raise InteropError("weights: are not counts, expected whole numbers of activations")
    bytes_per_route = sum(2 * shape.top_k + 4 for shape in shapes.values())
    sampled = min(_ROUTES_PER_LAYER, _MAX_ROUTE_BYTES // bytes_per_route)
    start_at = end_at - timedelta(seconds=seconds)
    recorder = Recorder(model_id, shapes, routes_per_layer=sampled, seed=seed, now=start_at)
    counted: dict[int, npt.NDArray[np.uint32]] = {}
    tokens = 0
    for layer in source.active_layers:
        ordinal = moe.ordinal(layer, index)
        if ordinal is None:
            raise InteropError(f"layer {layer}: is not a MoE layer of {model_id}, expected {moe}")
        number = moe.numbers[ordinal]
        shape = shapes[number]
        counted[number] = _counts(number, shape.experts, source.counts[layer])
        tokens = max(tokens, -(-int(counted[number].sum()) // shape.top_k))
        if source.by_token:
            routes = source.routes(layer)
            if routes.shape[1] != shape.top_k:
                raise InteropError(
                    f"layer {number}: tokens with {routes.shape[1]} experts, expected {shape.top_k}, "
                    f"the top_k of {model_id}"
                )
            recorder.record(number, routes)
    recorder.add_tokens(min(tokens, _MAX_COUNT))
    window = recorder.cut(end_at)
    if window is None:
        raise InteropError("files: nothing was activated in any of them")
    layers = tuple(
        LayerWindow(seen.layer, counted[seen.layer], seen.routes, seen.weights)
        for seen in window.layers
        if seen.layer in counted
    )
    return Window(model_id, start_at, end_at, window.tokens, layers)


def _counts(number: int, experts: int, seen: Counts) -> npt.NDArray[np.uint32]:
    active = np.flatnonzero(seen)
    if active[-1] >= experts:
        raise InteropError(
            f"layer {number}: names expert {active[-1]}, expected 0..{experts - 1} ({advice(experts)})"
        )
    if seen.max() > _MAX_COUNT:
        raise InteropError(
            f"layer {number}: counts {seen.max():.0f} of one expert, expected at most {_MAX_COUNT}"
        )
    counts = np.zeros(experts, np.uint32)
    counts[active] = seen[active].astype(np.uint32)
    return counts
