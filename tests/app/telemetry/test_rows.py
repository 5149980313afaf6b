"""Layers taken as one table are what decoding them one by one gives."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.telemetry.rows import rows
from app.telemetry.schemas import LayerCounts

ONE_BY_ONE = msgspec.msgpack.Decoder(list[LayerCounts])


def encoded(numbers: list[int], experts: int) -> bytes:
    """As agents do it."""
    rng = np.random.default_rng(experts)
    return msgspec.msgpack.encode(
        [{"layer": n, "counts": rng.integers(0, 2**32, experts, np.uint32).tobytes()} for n in numbers]
    )


@pytest.mark.parametrize("experts", [1, 8, 63, 64, 256, 16_384])
@pytest.mark.parametrize("numbers", [[0], [3, 1, 2], list(range(3, 61)), [127] * 15])
def test_what_agents_send_is_a_table(numbers: list[int], experts: int) -> None:
    """All three widths of a length, both heads of an array."""
    body = encoded(numbers, experts)
    table = rows(memoryview(body))
    assert table is not None
    assert list(table) == ONE_BY_ONE.decode(body)
    assert table.numbers == tuple(numbers)
    assert table.count_bytes == (4 * experts,) * len(numbers)
    assert list(table[1:]) == list(table)[1:]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x90",
        b"\xdc",
        b"\xdc\x00",
        b"\xdc\x00\x00",
        b"\xdd\x00\x00\x00\x01" + encoded([1], 4)[1:],
        encoded([1, 200], 4),
        encoded([1, 2], 4)[:-1],
        encoded([1, 2], 4)[:20],
        msgspec.msgpack.encode([{"counts": b"\0" * 16, "layer": 1}]),
        msgspec.msgpack.encode([{"layer": 1, "counts": b"\0" * 15}]),
        msgspec.msgpack.encode([{"layer": 1, "counts": b""}]),
        msgspec.msgpack.encode([{"layer": 1, "counts": [1, 2, 3, 4]}]),
        msgspec.msgpack.encode([{"layer": 1, "counts": b"\0" * 16, "expert_ids": None}]),
        msgspec.msgpack.encode([{"layer": n, "counts": b"\0" * (16 + n)} for n in (0, 4)]),
    ],
)
def test_anything_else_is_none(body: bytes) -> None:
    assert rows(memoryview(body)) is None


@given(
    numbers=st.lists(st.integers(0, 127), min_size=1, max_size=20),
    experts=st.sampled_from([1, 4, 64, 100]),
    data=st.data(),
)
def test_changed_bytes_are_never_misread(numbers: list[int], experts: int, data: st.DataObject) -> None:
    """With any bytes replaced: the same layers as one by one, or None."""
    body = bytearray(encoded(numbers, experts))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, min(len(body), 60) - 1))] = data.draw(st.integers(0, 255))
    table = rows(memoryview(bytes(body)))
    if table is not None:
        assert list(table) == ONE_BY_ONE.decode(body)
