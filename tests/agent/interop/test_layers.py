"""Layer numbers, as text and between the two conventions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.layers import LayerIndex, MoeLayers, read_numbers


@given(st.sets(st.integers(0, 300), min_size=1))
def test_text_and_conventions_are_inverse(numbers: set[int]) -> None:
    """What is shown can be read, and the place of every MoE layer is found under both conventions."""
    moe = MoeLayers.of(sorted(numbers), 400)
    assert read_numbers(str(moe)) == moe.numbers
    for ordinal, layer in enumerate(moe.numbers):
        assert moe.ordinal(layer, LayerIndex.MODEL) == moe.ordinal(ordinal, LayerIndex.MOE) == ordinal
    for layer in set(range(400)) - numbers:
        assert moe.ordinal(layer, LayerIndex.MODEL) is None
    assert moe.ordinal(len(numbers), LayerIndex.MOE) is None


@pytest.mark.parametrize("text", ["", "1-", "a", "3-1", "1,,2", "0-10000", "-1", "1-9999999"])
def test_other_text_is_refused(text: str) -> None:
    """Nothing but numbers and spans of them, within bounds."""
    with pytest.raises(InteropError, match="expected"):
        read_numbers(text)
