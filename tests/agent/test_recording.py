"""Whole tokens: phases apart, repetitions left out, any number of threads, bounded memory."""

from __future__ import annotations

import contextlib
import threading
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import moeplace_agent.telemetry.recorder as recording
from app.telemetry.decoding import Format, decode
from app.telemetry.faults import Faults
from moeplace_agent.telemetry import Activity, LayerShape, Phase, Recorder, Window, encode_window
from moeplace_agent.telemetry.windows import NO_EXPERT

START = datetime(2026, 11, 22, 10, tzinfo=UTC)
END = START + timedelta(seconds=10)
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

Ids = npt.NDArray[np.int64]


def cut(of: Recorder, end: datetime = END) -> Window:
    window = of.cut(end)
    assert window is not None
    return window


def random_tokens(tokens: int, layers: int, experts: int, top_k: int, seed: int = 0) -> Ids:
    keys = np.random.default_rng(seed).random((tokens, layers, experts))
    return np.argsort(keys, axis=2)[:, :, :top_k]


def model(layers: int, experts: int, top_k: int) -> dict[int, LayerShape]:
    return dict.fromkeys(range(layers), LayerShape(experts, top_k))


@st.composite
def traffic(draw: st.DrawFn) -> tuple[dict[int, LayerShape], list[tuple[Phase, Ids]]]:
    """Layers of different shapes, and passes int[tokens, layers, largest top_k] with -1 in any place."""
    numbers = sorted(draw(st.sets(st.integers(0, 60), min_size=1, max_size=4)))
    layers = {}
    for number in numbers:
        experts = draw(st.integers(1, 40))
        layers[number] = LayerShape(experts, draw(st.integers(1, min(experts, 5))))
    widest = max(shape.top_k for shape in layers.values())
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    passes = []
    for size in draw(st.lists(st.integers(0, 50), max_size=5)):
        ids = np.full((size, len(layers), widest), -1)
        for at, shape in enumerate(layers.values()):
            keys = generator.random((size, shape.experts))
            ids[:, at, : shape.top_k] = np.argsort(keys, axis=1)[:, : shape.top_k]
        ids[generator.random(ids.shape) < draw(st.sampled_from([0.0, 0.3]))] = -1
        passes.append((draw(st.sampled_from(list(Phase))), ids))
    return layers, passes


def _twin(layers: dict[int, LayerShape], passes: list[Ids]) -> dict[int, tuple[list[int], Counter[Any]]]:
    found: dict[int, tuple[list[int], Counter[Any]]] = {}
    for at, (number, shape) in enumerate(layers.items()):
        counts, routes = [0] * shape.experts, Counter[Any]()
        for row in (row for ids in passes for row in ids[:, at].tolist()):
            route = sorted(expert for expert in row if expert >= 0)
            for expert in route:
                counts[expert] += 1
            if route:
                routes[tuple(route)] += 1
        found[number] = counts, routes
    return found


def _found(activity: Activity) -> dict[int, tuple[list[int], Counter[Any]]]:
    found = {}
    for layer in activity.layers:
        routes = [tuple(i for i in row if i != NO_EXPERT) for row in layer.routes.tolist()]
        weights = dict(zip(routes, layer.weights.tolist(), strict=True))
        found[layer.layer] = layer.counts.tolist(), Counter({route: int(w) for route, w in weights.items()})
    return found


@given(traffic(), st.booleans(), st.booleans())
def test_whole_tokens_equal_a_naive_twin(
    drawn: tuple[dict[int, LayerShape], list[tuple[Phase, Ids]]], by_layer: bool, owned: bool
) -> None:
    """With room for every row, counts and routes of each phase and of all are those counted one by one,
    whether a pass comes whole or layer by layer; a token without any expert is none."""
    layers, passes = drawn
    recorder = Recorder("m", layers, routes_per_layer=10_000, repeat_share=None, now=START)
    for phase, ids in passes:
        if by_layer:
            with recorder.forward_pass(phase, owned=owned) as step:
                for at, (number, shape) in reversed(list(enumerate(layers.items()))):
                    step.record(number, ids[:, at, : shape.top_k])
        else:
            recorder.record_tokens(ids, phase=phase)
    counted = [(phase, ids[(ids >= 0).any(axis=(1, 2))]) for phase, ids in passes]
    tokens = sum(len(ids) for _, ids in counted)
    assert recorder.tokens == tokens
    window = recorder.cut(END)
    if window is None:
        assert tokens == 0
        return
    assert window.tokens == tokens
    assert _found(Activity(window.tokens, window.layers)) == _twin(layers, [ids for _, ids in counted])
    for phase, activity in window.phases.items():
        of_phase = [ids for p, ids in counted if p is phase]
        assert activity.tokens == sum(map(len, of_phase))
        assert _found(activity) == _twin(layers, of_phase)
    faults = Faults()
    assert decode(encode_window(window, "uid-1", 1), Format.MSGPACK, faults) is not None
    assert faults.count == 0


def test_only_phases_to_be_posted_are_posted() -> None:
    """A recorder that posts decoding leaves prompts out of the totals and has them apart."""
    recorder = Recorder("m", model(3, 64, 4), posted=[Phase.DECODE], now=START)
    recorder.record_tokens(random_tokens(500, 3, 64, 4, 1), phase=Phase.PREFILL)
    recorder.record_tokens(random_tokens(40, 3, 64, 4, 2), phase=Phase.DECODE)
    window = cut(recorder)
    assert window.tokens == window.phases[Phase.DECODE].tokens == 40
    assert window.phases[Phase.PREFILL].tokens == 500
    assert [int(layer.counts.sum()) for layer in window.layers] == [160, 160, 160]


def test_routes_estimated_from_samples_are_unbiased() -> None:
    """40 sampled routes a layer stand for 6,000 tokens of two phases and single layers: the mean estimate of
    each of eight routes over 400 windows is what was recorded, within five standard deviations."""
    routes = np.repeat(np.arange(8), [50, 150, 200, 400, 600, 800, 1_800, 2_000])
    np.random.default_rng(1).shuffle(routes)
    ids = np.stack([routes, routes + 8], axis=1)
    layers = {0: LayerShape(16, 2), 1: LayerShape(16, 2)}
    estimates = []
    for seed in range(400):
        recorder = Recorder("m", layers, routes_per_layer=40, repeat_share=None, seed=seed, now=START)
        whole = np.stack([ids, ids], axis=1)
        recorder.record_tokens(whole[:2_900], phase=Phase.PREFILL)
        for begin in range(2_900, 3_100):
            recorder.record_tokens(whole[begin : begin + 1], phase=Phase.DECODE)
        for layer in layers:
            recorder.record(layer, ids[3_100:])
        (layer_window, _) = cut(recorder).layers
        assert len(layer_window.routes) <= 8
        assert layer_window.weights.sum() == pytest.approx(6_000)
        estimates.append(np.bincount(layer_window.routes[:, 0], weights=layer_window.weights, minlength=8))
    true = np.bincount(routes)
    deviation = np.std(estimates, axis=0) / 20
    assert (np.abs(np.mean(estimates, axis=0) - true) < 5 * deviation).all()


def test_warm_up_does_not_win() -> None:
    """Of 20,000 runs of one token before 4,000 real ones no more than 5 % of the real ones count; the same
    after them, and of a model that says too little of a token all count."""
    real = random_tokens(4_000, 6, 64, 4)
    dummy = np.repeat(random_tokens(1, 6, 64, 4, 9), 20_000, axis=0)
    for passes in ([dummy, real], [real, dummy], [real[:2_000], dummy, real[2_000:]]):
        recorder = Recorder("m", model(6, 64, 4), now=START)
        for ids in passes:
            recorder.record_tokens(ids)
        window = cut(recorder)
        extra = window.tokens - 4_000
        assert 64 <= extra <= max(64, 0.053 * 4_000)
        assert window.repeated == 20_000 - extra
        assert all(int(layer.counts.sum()) == 4 * window.tokens for layer in window.layers)
    small = Recorder("m", model(1, 8, 2), now=START)
    small.record_tokens(dummy[:, :1, :2] % 8)
    assert cut(small).tokens == 20_000


@pytest.mark.parametrize(
    ("path", "key", "experts"),
    [
        ("gpt-oss-20b-fingerprint/dev_traces.npz", "ids", 32),
        ("deepseek-v2-lite-esft/dev_traces.npz", "intent", 64),
        ("deepseek-v2-lite-esft/dev_traces.npz", "law", 64),
        ("flame-moe-290m/dev_traces.npz", None, 64),
        ("tiny-moe/traces.npz", "python", 32),
        ("tiny-moe/traces.npz", "man_ru", 32),
    ],
)
def test_real_traffic_is_not_taken_for_repetition(path: str, key: str | None, experts: int) -> None:
    """Of tokens recorded on real models, prompts from a template and runs of spaces among them, all count."""
    if not (SHARED / path).exists():
        pytest.skip(f"needs ../shared/data/{path}")
    with np.load(SHARED / path, allow_pickle=False) as traces:
        ids = traces[key or next(name for name in traces.files if traces[name].ndim == 3)]
    recorder = Recorder("m", model(ids.shape[1], experts, ids.shape[2]), now=START)
    for part in np.array_split(ids, 50):
        recorder.record_tokens(part, phase=Phase.DECODE)
    window = cut(recorder)
    assert (window.tokens, window.repeated) == (len(ids), 0)


def test_nothing_is_recorded_while_paused() -> None:
    """Inside `paused`, nested or not, every way of recording is deaf, in other threads too."""
    recorder = Recorder("m", model(2, 8, 2), now=START)
    ids = random_tokens(10, 2, 8, 2)

    def everything() -> None:
        recorder.record_tokens(ids)
        recorder.record(0, ids[:, 0])
        recorder.add_tokens(10)
        with recorder.forward_pass() as step:
            step.record(1, ids[:, 1])

    with recorder.paused():
        with recorder.paused():
            everything()
        thread = threading.Thread(target=everything)
        thread.start()
        thread.join()
    assert recorder.cut(END) is None
    everything()
    assert cut(recorder, END + timedelta(seconds=1)).tokens == 30


def test_threads_lose_and_double_nothing() -> None:
    """Three threads record while a fourth cuts windows: over all windows every activation is there once."""
    recorder = Recorder("m", model(4, 32, 3), repeat_share=None)
    ids = random_tokens(64, 4, 32, 3)
    windows: list[Window] = []
    done = threading.Event()

    def record() -> None:
        for at in range(2_000):
            recorder.record_tokens(ids[at % 60 : at % 60 + 4], phase=Phase.DECODE)
            recorder.record(at % 4, ids[:2, at % 4])

    def collect() -> None:
        while not done.is_set():
            window = recorder.cut()
            if window is not None:
                windows.append(window)

    threads = [threading.Thread(target=record) for _ in range(3)]
    collector = threading.Thread(target=collect)
    for thread in (*threads, collector):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    collector.join()
    last = recorder.cut()
    windows += [] if last is None else [last]
    assert len(windows) > 1
    assert sum(window.tokens for window in windows) == 3 * 2_000 * 4
    counted = sum(int(layer.counts.sum()) for window in windows for layer in window.layers)
    assert counted == 3 * 2_000 * (4 * 4 * 3 + 2 * 3)
    assert all(one.end_at == other.start_at for one, other in pairwise(windows))


def test_memory_does_not_grow_with_traffic() -> None:
    """Ten times the tokens, most of their routings different, take no more memory."""
    recorder = Recorder("m", model(8, 64, 8), seed=0, now=START)
    parts = [random_tokens(1_000, 8, 64, 8, seed) for seed in range(10)]
    tracemalloc.start()
    try:
        used = []
        for _ in range(11):
            for part in parts:
                recorder.record_tokens(part)
            used.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # At most four times 512 sampled tokens of 64 ids, the buffer of half a MiB, counts.
    assert max(used) < 1.5 * 2**20
    assert max(used[1:]) < used[0] + 2**18


def test_buffers_may_be_used_again() -> None:
    """What was handed in is copied: an engine writes the next pass into the same memory."""
    recorder = Recorder("m", model(2, 8, 2), now=START)
    buffer = np.zeros((1, 2, 2), np.int32)
    for token in ([[0, 1], [2, 3]], [[4, 5], [6, 7]]):
        buffer[0] = token
        recorder.record_tokens(buffer)
    first, other = cut(recorder).layers
    assert first.routes.tolist() == [[0, 1], [4, 5]]
    assert other.counts.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", ">i4"])
def test_every_integer_type_is_taken(dtype: str) -> None:
    """All integer types, transposed and sliced memory too, count alike."""
    ids = random_tokens(30, 3, 100, 4)
    recorder = Recorder("m", model(3, 100, 4), repeat_share=None, now=START)
    recorder.record_tokens(np.asfortranarray(ids.astype(dtype)))
    recorder.record_tokens(ids.astype(dtype)[::-1])
    window = cut(recorder)
    for at, layer in enumerate(window.layers):
        assert layer.counts.tolist() == (2 * np.bincount(ids[:, at].reshape(-1), minlength=100)).tolist()


def test_padding_is_kept_out() -> None:
    """Tokens for which `keep` is false are not there, given whole or by layer."""
    ids = random_tokens(6, 2, 64, 8)
    keep = np.array([False, True, True, False, True, True])
    recorder = Recorder("m", model(2, 64, 8), now=START)
    recorder.record_tokens(ids, keep=keep)
    with recorder.forward_pass(keep=keep) as step:
        for number in (0, 1):
            step.record(number, ids[:, number])
    window = cut(recorder)
    assert window.tokens == 8
    for at, layer in enumerate(window.layers):
        assert layer.counts.tolist() == (2 * np.bincount(ids[keep, at].reshape(-1), minlength=64)).tolist()


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("way", ["whole", "pass", "owned", "layer"])
def test_ids_of_fused_shared_experts_are_left_out_and_counted(way: str, place: int) -> None:
    """With `fused_shared_experts` a token's id beyond the experts, at any place of its row, changes neither
    counts nor routes, and the window says how many there were."""
    layers, chosen = model(3, 16, 2), random_tokens(200, 3, 16, 2)
    fused = np.insert(chosen, place, 16, axis=2)
    plain = Recorder("m", layers, routes_per_layer=1000, now=START)
    recorder = Recorder("m", layers, routes_per_layer=1000, fused_shared_experts=1, now=START)
    for target, ids in ((plain, chosen), (recorder, fused)):
        if way == "whole":
            target.record_tokens(ids)
        elif way == "layer":
            for layer in layers:
                target.record(layer, ids[:, layer])
            target.add_tokens(len(ids))
        else:
            with target.forward_pass(owned=way == "owned") as step:
                for layer in layers:
                    step.record(layer, ids[:, layer])
    expected, found = cut(plain), cut(recorder)
    assert (found.tokens, found.beyond_experts, expected.beyond_experts) == (200, 600, 0)
    for one, other in zip(expected.layers, found.layers, strict=True):
        assert one.counts.tolist() == other.counts.tolist()
        assert one.routes.tolist() == other.routes.tolist()


def test_fused_shared_experts_are_named_where_nobody_expects_them() -> None:
    """A row that is too long, or an id beyond the experts, says which option is meant for it."""
    recorder = Recorder("m", model(1, 8, 2), now=START)
    ways: list[Callable[[Any], object]] = [
        lambda ids: recorder.record(0, ids),
        lambda ids: recorder.record_tokens(np.array(ids)[:, None]),
        lambda ids: recorder.forward_pass().record(0, ids),
    ]
    for record in ways:
        with pytest.raises(ValueError, match=r"expected .*see Recorder's fused_shared_experts"):
            record([[0, 3, 8]])
    with pytest.raises(ValueError, match=r"expected 0\.\.7.*see Recorder's fused_shared_experts"):
        recorder.record(0, [[3, 8]])
    with pytest.raises(ValueError, match="fused_shared_experts: is -1, expected at least 0"):
        Recorder("m", model(1, 8, 2), fused_shared_experts=-1)
    fused = Recorder("m", model(1, 8, 2), fused_shared_experts=1, now=START)
    with pytest.raises(ValueError, match="layer 0: a token has 3 experts, expected at most 2"):
        fused.record(0, [[1, 2, 3]])
    assert recorder.cut(END) is None
    assert fused.cut(END) is None


def test_passes_that_break_off_are_not_recorded() -> None:
    """An exception inside a pass costs its telemetry; a layer left out counts as not observed."""
    recorder = Recorder("m", model(3, 8, 2), now=START)
    ids = random_tokens(5, 3, 8, 2)
    with contextlib.suppress(MemoryError), recorder.forward_pass() as step:
        step.record(0, ids[:, 0])
        raise MemoryError
    assert recorder.tokens == 0
    with recorder.forward_pass() as step:
        step.record(2, ids[:, 2])
    window = cut(recorder)
    assert window.tokens == 5
    assert [int(layer.counts.sum()) for layer in window.layers] == [0, 0, 10]
    assert [len(layer.routes) for layer in window.layers[:2]] == [0, 0]


def test_passes_looked_at_later_are_bounded_and_complete(caplog: pytest.LogCaptureFixture) -> None:
    """Owned ids are kept for 32 passes or 512 tokens at most, count although a pause has begun since, and
    what is wrong with them costs their pass and one line in the log of each window."""
    recorder = Recorder("m", model(2, 64, 4), now=START)
    kept: list[weakref.ref[Ids]] = []

    def run(ids: Ids) -> None:
        kept.append(weakref.ref(ids))
        with recorder.forward_pass(Phase.DECODE, owned=True) as step:
            step.record(0, ids)
            step.record(1, ids)

    for seed in range(200):
        run(random_tokens(1, 1, 64, 4, seed)[:, 0].copy())
        assert sum(ids() is not None for ids in kept) < 32
    for seed in range(6):
        run(random_tokens(200, 1, 64, 4, seed)[:, 0].copy())
        assert sum(ids() is not None for ids in kept) < 32 + 3
    for _ in range(3):
        run(np.zeros((1, 3), int))
    with recorder.paused():
        run(np.zeros((1, 4), int))
        window = cut(recorder)
    assert window.tokens == 200 + 1_200
    assert recorder.rejected == 3
    assert [record.getMessage() for record in caplog.records] == [
        "m: a pass is not counted: layer 0: ids have shape (1, 3), expected (tokens, 4)"
    ]


def test_faults_are_named_and_nothing_of_them_counts() -> None:
    """Shapes, types, ids, layers, `keep` and settings that cannot be are refused in words."""
    recorder = Recorder("m", {2: LayerShape(8, 2), 5: LayerShape(16, 2)}, now=START)
    with pytest.raises(ValueError, match=r"experts: have shape \(3, 1, 2\), expected \(tokens, 2, 2\)"):
        recorder.record_tokens(np.zeros((3, 1, 2), int))
    with pytest.raises(ValueError, match="experts: ids have type float64"):
        recorder.record_tokens(np.zeros((3, 2, 2)))
    with pytest.raises(ValueError, match=r"layer 2: ids are in 0\.\.8, expected 0\.\.7, or -1 for none"):
        recorder.record_tokens([[[0, 8], [0, 1]]])
    with pytest.raises(ValueError, match=r"layer 5: ids are in -2\.\.1, expected 0\.\.15, or -1 for none"):
        recorder.record_tokens([[[0, 1], [-2, 1]]])
    with pytest.raises(ValueError, match=r"keep: has shape \(2,\), expected \(1,\)"):
        recorder.record_tokens([[[0, 1], [0, 1]]], keep=np.array([True, False]))
    with pytest.raises(KeyError, match="layer 3: is not a MoE layer"):
        recorder.forward_pass().record(3, [[0, 1]])
    broken = recorder.forward_pass()
    broken.record(2, [[0, 1]])
    with pytest.raises(ValueError, match="layer 2: was recorded in this pass already"):
        broken.record(2, [[0, 1]])
    with pytest.raises(ValueError, match=r"layer 5: ids have shape \(2, 2\), expected \(1, 2\)"):
        broken.record(5, [[0, 1], [2, 3]])
    with pytest.raises(ValueError, match=r"layer 5: ids have shape \(2,\), expected \(tokens, 2\)"):
        recorder.forward_pass().record(5, [0, 1])
    assert recorder.cut(END) is None
    with pytest.raises(ValueError, match="repeat_share: is 0, expected more than 0"):
        Recorder("m", {0: LayerShape(8, 2)}, repeat_share=0)


class Late:
    """Stands for a copy on its way from a GPU, which no test machine has: it arrives when told."""

    def __init__(self, ids: Ids) -> None:
        self.ids = ids
        self.shape = ids.shape
        self.arrived = False
        self.waited = 0

    def wait(self) -> Ids:
        self.waited += not self.arrived
        self.arrived = True
        return self.ids


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> list[Late]:
    """Everything recorded is on its way from a device."""
    copies: list[Late] = []

    def arrive(ids: Any) -> Late:
        copies.append(Late(np.asarray(ids)))
        return copies[-1]

    monkeypatch.setattr(recording, "arrive", arrive)
    monkeypatch.setattr(recording, "DeviceCopy", Late)
    return copies


def test_copies_from_a_device_are_waited_for_by_the_cut_only(
    on_device: list[Late], caplog: pytest.LogCaptureFixture
) -> None:
    """Recording goes on while copies are on their way; they count once they are there, the cut waits for the
    rest, and ids that turn out wrong are logged."""
    recorder = Recorder("m", model(2, 64, 4), now=START)
    ids = random_tokens(3, 2, 64, 4)
    for _ in range(4):
        recorder.record_tokens(ids)
    assert recorder.tokens == 0
    on_device[0].arrived = on_device[1].arrived = True
    recorder.record_tokens(ids)
    assert recorder.tokens == 6
    assert not any(copy.waited for copy in on_device)
    on_device[3].ids = np.full_like(ids, 99)
    assert cut(recorder).tokens == 12
    assert [copy.waited for copy in on_device] == [0, 0, 1, 1, 1]
    assert recorder.rejected == 1
    assert "m: a pass is not counted: layer 0: ids are in 99..99, expected 0..63" in caplog.text


def test_copies_on_their_way_are_bounded(on_device: list[Late]) -> None:
    """A device that is behind by hundreds of passes is waited for rather than given more memory."""
    recorder = Recorder("m", model(2, 64, 4), now=START)
    for _ in range(300):
        recorder.record_tokens(random_tokens(1, 2, 64, 4))
    assert sum(copy.waited for copy in on_device) == 300 - 256
