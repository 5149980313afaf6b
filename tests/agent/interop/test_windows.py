"""Recorded activations as windows of telemetry."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest

from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.layers import LayerIndex
from moeplace_agent.interop.observations import Activations, Observation
from moeplace_agent.interop.windows import window_of
from moeplace_agent.telemetry import LayerShape, encode_window
from tests.agent.interop.truth import EXPERTS, MOE, TOKENS, K, counts, tokens

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
SHAPES = {layer: LayerShape(EXPERTS, K) for layer in MOE.numbers}
TRUTH = tokens()


def _seen(by_token: bool, index: LayerIndex) -> Activations:
    seen = Activations()
    for at, layer in enumerate(MOE.numbers):
        number = layer if index is LayerIndex.MODEL else at
        observed = (
            Observation("a", number, routes=TRUTH[:, at])
            if by_token
            else Observation("a", number, counts=counts(TRUTH)[at].astype(np.float64))
        )
        seen.add(observed, number)
    return seen


@pytest.mark.parametrize("index", list(LayerIndex))
@pytest.mark.parametrize("by_token", [True, False])
def test_windows_say_what_was_seen(by_token: bool, index: LayerIndex) -> None:
    """Counts complete under true layer numbers; routes where tokens are known, as often as they occur."""
    window = window_of("moe", SHAPES, _seen(by_token, index), index, 60.0, NOW)
    assert (window.end_at - window.start_at).total_seconds() == 60
    assert window.tokens == TOKENS
    assert [layer.layer for layer in window.layers] == list(MOE.numbers)
    for at, layer in enumerate(window.layers):
        assert layer.counts.tolist() == counts(TRUTH)[at].tolist()
        assert layer.weights.sum() == (TOKENS if by_token else 0)
    assert msgspec.msgpack.decode(encode_window(window, "uid", 7))["tokens"] == TOKENS


def test_what_is_not_the_models_is_refused() -> None:
    """Layers, experts and k of another model, weights, and counts beyond 32 bits."""
    cases = [
        (Observation("a", 2, counts=np.ones(EXPERTS)), "layer 2: is not a MoE layer of moe, expected 1,3"),
        (Observation("a", 1, counts=np.ones(EXPERTS + 1)), "layer 1: names expert 6, expected 0..5"),
        (
            Observation("a", 1, routes=TRUTH[:, 0, :1]),
            "layer 1: tokens with 1 experts, expected 2, the top_k",
        ),
        (Observation("a", 1, counts=np.full(2, 0.5)), "weights: are not counts"),
        (Observation("a", 1, counts=np.full(2, 2.0**40)), "layer 1: counts 1099511627776 of one expert"),
        (Observation("a", 1, counts=np.zeros(2)), "nothing was activated"),
    ]
    for observed, words in cases:
        seen = Activations()
        seen.add(observed, observed.layer)
        with pytest.raises(InteropError, match=words.split(":")[0]) as error:
            window_of("moe", SHAPES, seen, LayerIndex.MODEL, 60.0, NOW)
        assert words in str(error.value)
