"""Numbers packed all at once are those that a JSON parser finds one by one."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.telemetry.decoding import MAX_JSON_COUNTS_BYTES, Format, decode
from app.telemetry.faults import Faults
from app.telemetry.listed import pack_lists
from tests.app.telemetry.cluster import window

numbers = st.one_of(
    st.integers(0, 99), st.integers(0, 2**32 - 1), st.sampled_from([10**8 - 1, 10**8, 2**32 - 1])
)


@given(
    st.lists(st.lists(numbers, min_size=1, max_size=20), min_size=1, max_size=6),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n\t", ":")]),
)
@settings(max_examples=200)
def test_lists_are_packed_as_their_naive_twin(lists: list[list[int]], separators: tuple[str, str]) -> None:
    """Whatever the numbers' digits, the lists' lengths and the white space between."""
    encoded = [memoryview(json.dumps(it, separators=separators).encode()) for it in lists]
    assert pack_lists(encoded) == [np.asarray(it, "<u4").tobytes() for it in lists]


@pytest.mark.parametrize(
    "other",
    ["[]", "[-1]", "[1.0]", "[1e3]", "[1,true]", "[[1]]", '["1"]', "[4294967296]", "[12345678901234567]",
     "null", '"AAAA"', "{}", "7"],
)  # fmt: skip
def test_what_is_not_plain_is_left_to_others(other: str) -> None:
    """They know the fault's place and words; one such list among others is enough."""
    assert pack_lists([memoryview(b"[1,2]"), memoryview(other.encode())]) is None
    assert pack_lists([]) is None


def test_lists_may_be_as_long_as_the_largest_models_need() -> None:
    """61 layers of 384 experts with counts of six digits: beyond what other lists may have, and decoded."""
    layers = [{"layer": layer, "counts": [123_456 + layer] * 384} for layer in range(61)]
    body = json.dumps(window(layers=layers, routes=[])).encode()
    assert 96 << 10 < len(body) < MAX_JSON_COUNTS_BYTES
    faults = Faults()
    decoded = decode(body, Format.JSON, faults)
    assert decoded is not None
    assert faults.count == 0
    assert [layer.counts for layer in decoded.layers] == [
        np.full(384, 123_456 + layer, "<u4").tobytes() for layer in range(61)
    ]
