"""What the recorder counts and samples, and the bytes it makes of it."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from app.telemetry.decoding import Format, decode
from app.telemetry.faults import Faults
from moeplace_agent.telemetry import LayerShape, Recorder, Window, compress, encode_window

START = datetime(2026, 11, 22, 10, tzinfo=UTC)
END = START + timedelta(seconds=10)

Ids = npt.NDArray[np.int64]


def recorder(layers: dict[int, LayerShape], routes_per_layer: int = 512) -> Recorder:
    return Recorder("m", layers, seed=1, now=START, routes_per_layer=routes_per_layer)


def cut(of: Recorder) -> Window:
    window = of.cut(END)
    assert window is not None
    return window


@st.composite
def calls(draw: st.DrawFn) -> tuple[int, int, list[Ids]]:
    """experts, top_k, and the ids of some forward passes, rows without repeats."""
    experts = draw(st.integers(1, 40))
    top_k = draw(st.integers(1, min(experts, 6)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = draw(st.lists(st.integers(0, 60), max_size=6))
    keys = [generator.random((size, experts)) for size in sizes]
    return experts, top_k, [np.argsort(key, axis=1)[:, :top_k] for key in keys]


@given(calls())
def test_counts_and_routes_equal_a_naive_twin(drawn: tuple[int, int, list[Ids]]) -> None:
    """Counting tokens one by one in Python gives the same; with room for all rows the sample is exact."""
    experts, top_k, passes = drawn
    fast = recorder({3: LayerShape(experts, top_k)}, routes_per_layer=10_000)
    counts: Counter[int] = Counter()
    routes: Counter[tuple[int, ...]] = Counter()
    for ids in passes:
        fast.add_tokens(len(ids))
        fast.record(3, ids)
        for row in ids.tolist():
            counts.update(row)
            routes[tuple(sorted(row))] += 1
    window = fast.cut(END)
    if not counts:
        assert window is None
        return
    assert window is not None
    assert window.tokens == sum(len(ids) for ids in passes)
    (layer,) = window.layers
    assert layer.counts.tolist() == [counts[expert] for expert in range(experts)]
    found = dict(zip(map(tuple, layer.routes.tolist()), layer.weights.tolist(), strict=True))
    assert found == routes


def test_sample_is_bounded_and_unbiased() -> None:
    """Of 40,000 rows in unequal passes 400 are kept, and early, late, small and large passes count alike."""
    rows = np.arange(40_000)
    ids = np.stack([rows // 200, 200 + rows // 200], axis=1)  # 200 different routes, in order of time
    shares = np.zeros(4)
    for seed in range(20):
        fast = Recorder("m", {0: LayerShape(400, 2)}, routes_per_layer=400, seed=seed, now=START)
        for part in np.split(ids, [100, 3_000, 3_001, 17_000]):
            fast.record(0, part)
        (layer,) = cut(fast).layers
        assert layer.weights.sum() == pytest.approx(40_000)
        shares += np.bincount(layer.routes[:, 0] // 50, weights=layer.weights, minlength=4)
    # Each of 8,000 sampled rows stands for 100; 2,000 a quarter, five standard deviations are 194.
    assert np.abs(shares - 200_000).max() < 19_400


def test_windows_follow_each_other_and_count_anew() -> None:
    """The next window begins where the last ended, with nothing in it."""
    fast = recorder({0: LayerShape(4, 1)})
    fast.add_tokens(2)
    fast.record(0, np.array([[1], [3]]))
    first = cut(fast)
    assert (first.start_at, first.end_at, first.tokens) == (START, END, 2)
    assert fast.cut(END + timedelta(seconds=1)) is None
    fast.record(0, np.array([[0]], np.uint8))
    second = fast.cut(END + timedelta(seconds=2))
    assert second is not None
    assert second.start_at == END
    assert second.layers[0].counts.tolist() == [1, 0, 0, 0]
    assert second.layers[0].routes.tolist() == [[0]]


def test_idle_time_counts_but_not_for_ever() -> None:
    """A pause of minutes belongs to the next window; after hours the window begins ten minutes back, so that
    the service still takes it."""
    fast = recorder({0: LayerShape(4, 1)})
    for hours in (0.1, 5):
        now = START + timedelta(hours=hours)
        assert fast.cut(now) is None
        fast.record(0, np.array([[1]]))
        window = fast.cut(now + timedelta(seconds=1))
        assert window is not None
        expected = START if hours == 0.1 else now - timedelta(minutes=10)
        assert window.start_at == expected


def test_a_row_that_repeats_an_id_is_counted_but_no_route() -> None:
    """The service would refuse such a route; the activations happened all the same."""
    fast = recorder({0: LayerShape(4, 2)})
    fast.record(0, np.array([[1, 1], [2, 0]]))
    (layer,) = cut(fast).layers
    assert layer.counts.tolist() == [1, 2, 1, 0]
    assert layer.routes.tolist() == [[0, 2]]


def test_faults_of_the_engine_are_named() -> None:
    """Unknown layers, other shapes, other types and ids out of range are refused in words and not counted."""
    fast = recorder({5: LayerShape(4, 2)})
    with pytest.raises(KeyError, match="layer 1"):
        fast.record(1, np.array([[0, 1]]))
    with pytest.raises(ValueError, match=r"layer 5: ids have shape \(1, 3\), expected \(tokens, 2\)"):
        fast.record(5, np.array([[0, 1, 2]]))
    with pytest.raises(ValueError, match="layer 5: ids have type float64"):
        fast.record(5, np.array([[0.0, 1.0]]))
    for wrong in (-2, 4):
        with pytest.raises(ValueError, match=r"layer 5: ids are in .*expected 0\.\.3"):
            fast.record(5, np.array([[0, wrong]]))
    with pytest.raises(ValueError, match="tokens: is -1"):
        fast.add_tokens(-1)
    assert fast.cut(END) is None


def test_bytes_are_what_the_contract_says() -> None:
    """Decoded as plain MessagePack, every field has its place and its packing."""
    fast = recorder({0: LayerShape(3, 2), 7: LayerShape(3, 2)})
    fast.add_tokens(3)
    fast.record(0, np.array([[0, 2], [2, 0], [1, 2]]))
    body = zstandard.ZstdDecompressor().decompress(compress(encode_window(cut(fast), "uid-1", 9)))
    assert msgspec.msgpack.decode(body) == {
        "model_id": "m",
        "instance_uid": "uid-1",
        "sequence_number": 9,
        "window": {"start_at": "2026-11-22T10:00:00.000000Z", "end_at": "2026-11-22T10:00:10.000000Z"},
        "tokens": 3,
        "layers": [
            {"layer": 0, "counts": bytes.fromhex("02000000 01000000 03000000")},
            {"layer": 7, "counts": bytes(12)},
        ],
        "routes": [
            {
                "layer": 0,
                "k": 2,
                "experts": bytes.fromhex("0000 0200 0100 0200"),
                "weights": np.array([2, 1], "<f4").tobytes(),
            }
        ],
    }


def test_the_service_decodes_what_the_agent_encodes() -> None:
    """The service's own decoder takes the window without a fault."""
    fast = recorder({0: LayerShape(8, 2)})
    fast.add_tokens(50)
    fast.record(0, np.argsort(np.random.default_rng(0).random((50, 8)), axis=1)[:, :2])
    faults = Faults()
    decoded = decode(encode_window(cut(fast), "uid-1", 1), Format.MSGPACK, faults)
    assert decoded is not None
    assert faults.count == 0
    assert decoded.window.window.end_at == END
    assert len(decoded.layers) == len(decoded.routes) == 1
