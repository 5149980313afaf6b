"""Buckets hold exact sums, and rates are read off them by age."""

from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.clusters.schemas import ClusterSettings
from app.statistics.bucket_encoding import VERSION as BUCKET_VERSION
from app.statistics.bucket_encoding import NewerBucket, decode_bucket, encode_bucket
from app.statistics.statistics import BUCKETS_PER_WINDOW, Bucket, Layout, bucket_us, combine
from app.telemetry.packed import VERSION, PackedRoutes, PackedWindow
from tests.app.telemetry.cluster import model, packed

MODEL = model("moe", {1: 3, 4: 2})
START = 1_800_000_000_000_000
SPAN = 150_000_000
ONE_SECOND = 1_000_000


def window(at: float, counts: dict[int, list[int]], *, tokens: int = 10, **routes: Any) -> PackedWindow:
    """Ends `at` seconds after START, 10 s long."""
    end = START + round(at * ONE_SECOND)
    return PackedWindow(
        VERSION, "n", "moe", "d1", 1, end - 10 * ONE_SECOND, end, tokens,
        tuple(counts), 4, memoryview(packed([it for c in counts.values() for it in c], "<u4")), None,
        [
            PackedRoutes(int(layer[1:]), len(rows[0]), packed([e for r in rows for e in r], "<u2"), None)
            for layer, rows in routes.items()
        ],
        None, None,
    )  # fmt: skip


def bucket(*windows: PackedWindow) -> Bucket:
    return Bucket.of([(w, seed) for seed, w in enumerate(windows)], Layout.of(MODEL), SPAN)[0].trimmed()


def union(times: list[tuple[int, int]]) -> int:
    """Time covered, edge by edge."""
    edges = sorted({edge for time in times for edge in time})
    return sum(
        end - start
        for start, end in pairwise(edges)
        if any(since <= start and end <= until for since, until in times)
    )


counts = st.fixed_dictionaries(
    {1: st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=3)},
    optional={4: st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2)},
)


@given(st.lists(st.tuples(st.floats(0, 149), counts, st.integers(0, 2**32 - 1)), min_size=1, max_size=8))
@settings(max_examples=50)
def test_a_bucket_is_the_exact_sum_of_its_windows(
    drawn: list[tuple[float, dict[int, list[int]], int]],
) -> None:
    """Counts, tokens and seconds are integers equal to a naive sum, in any order, and survive storage."""
    windows = [window(at, c, tokens=t) for at, c, t in drawn]
    found = bucket(*windows)
    assert found.tokens == sum(t for *_, t in drawn)
    assert found.windows == len(drawn)
    expected = [sum(c.get(1, [0] * 3)[e] for _, c, _ in drawn) for e in range(3)]
    expected += [sum(c.get(4, [0] * 2)[e] for _, c, _ in drawn) for e in range(2)]
    assert found.counts.tolist() == expected
    assert found.coverage.observed_us == [
        union(
            [
                (w.start_us, w.end_us)
                for w, (_, c, t) in zip(windows, drawn, strict=True)
                if layer in c or not t
            ]
        )
        for layer in (1, 4)
    ]
    again = decode_bucket(encode_bucket(bucket(*reversed(windows))))
    assert again.counts.tolist() == expected
    assert (again.tokens, again.newest_us, again.start_us) == (found.tokens, found.newest_us, found.start_us)


def test_routes_survive_storage() -> None:
    """What is decoded is what was encoded, thresholds included."""
    before = bucket(window(0, {1: [1, 1, 1]}, _1=[[0, 1], [1, 2]]), window(1, {1: [2, 2, 2]}, _1=[[0, 2]]))
    after = decode_bucket(encode_bucket(before))
    for name in ("block", "experts", "weight", "priority", "threshold"):
        assert getattr(after.routes, name).tolist() == getattr(before.routes, name).tolist()
    with pytest.raises(ValueError, match="not a bucket"):
        decode_bucket(b"\x93\x01\x02\x03")


def test_a_full_bucket_of_a_large_model_stays_small() -> None:
    """58 x 256, with as many routes as a bucket of a fleet of 1,000 keeps: below 70 kB, so that twelve of
    them for each of 1,000 nodes are below 1 GB."""
    large = model("v3", dict.fromkeys(range(58), 256))
    rng = np.random.default_rng(0)
    end = START + ONE_SECOND
    ids = np.argsort(rng.random((64, 256)), axis=1)[:, :8].astype("<u2").tobytes()
    weights = np.linspace(1, 2, 64, dtype="<f4").tobytes()
    counted = rng.integers(0, 60_000, 58 * 256, "<u4").tobytes()
    sampled = PackedWindow(
        VERSION, "n", "v3", "d1", 1, START, end, 1, None, 4, memoryview(counted), None,
        [PackedRoutes(layer, 8, ids, weights) for layer in range(58)], None, None,
    )  # fmt: skip
    found = Bucket.of([(sampled, 1)], Layout.of(large), SPAN)[0].trimmed(13 * 58 * 1000)
    assert len(encode_bucket(found)) < 70_000
    again = decode_bucket(encode_bucket(found))
    assert again.counts.tolist() == found.counts.tolist()
    assert again.routes.experts.tolist() == found.routes.experts.tolist()


@pytest.mark.parametrize(
    "wrong",
    [window(0, {9: [1]}), window(0, {1: [1, 2]}), window(0, {1: [1, 2, 3]}, _1=[[0, 3]])],
)
def test_a_window_that_does_not_fit_the_model_is_refused(wrong: PackedWindow) -> None:
    """Layers, lengths and ids are looked at once more: the model may have changed since."""
    with pytest.raises((ValueError, IndexError)):
        bucket(wrong)


def read(buckets: list[Bucket], until: float, **changes: Any) -> Any:
    settings = ClusterSettings(statistics_window_seconds=1800.0, **changes)
    name = ("n", "moe")
    return combine({name: buckets}, {"moe": MODEL}, settings, START + round(until * ONE_SECOND)).traffic.get(
        name
    )


def test_rates_without_decay_are_sums_over_seconds() -> None:
    """Half-life null: all windows weigh the same; an idle window counts as time."""
    idle = window(200, {}, tokens=0)
    found = read(
        [bucket(window(0, {1: [10, 20, 30], 4: [5, 0]})), bucket(idle)],
        200,
        statistics_half_life_seconds=None,
    )
    assert found.activations_per_second.tolist() == [0.5, 1.0, 1.5, 0.25, 0.0]
    assert found.tokens_per_second == 0.5


def test_a_layer_that_was_left_out_is_not_taken_for_idle() -> None:
    """Counts of a layer are divided by the time that layer was observed."""
    found = read([bucket(window(0, {1: [10, 0, 0], 4: [8, 0]}), window(10, {1: [30, 0, 0]}))], 10)
    assert found.activations_per_second.tolist() == [2.0, 0.0, 0.0, 0.8, 0.0]


def test_old_buckets_weigh_less() -> None:
    """One half-life older: half the weight, in counts, seconds and routes."""
    old, new = (
        bucket(window(0, {1: [90, 0, 0]}, tokens=90, _1=[[0, 1]])),
        bucket(window(600, {1: [0, 30, 0]}, tokens=30, _1=[[2, 1]])),
    )
    found = read([new, old], 600, statistics_half_life_seconds=600.0)
    assert found.activations_per_second[:3] == pytest.approx([45 / 15, 30 / 15, 0])
    assert found.tokens_per_second == pytest.approx((45 + 30) / 15)
    assert found.route_experts.tolist() == [[0, 1], [1, 2]]
    assert found.route_weight.tolist() == [0.5, 1.0]


def test_a_silent_node_keeps_its_rates_until_the_window_ends() -> None:
    """Age against others does not change a node's own rates; beyond the window it has none."""
    only = [bucket(window(0, {1: [10, 0, 0]}))]
    assert read(only, 1799, statistics_half_life_seconds=1e-3).activations_per_second[0] == 1.0
    assert read(only, 1800) is None


def test_equal_routes_are_one_route_whatever_their_order() -> None:
    """A route is a set: permutations are summed."""
    found = read([bucket(window(0, {1: [1, 1, 1]}, _1=[[0, 1], [1, 0], [2, 0], [0, 1]]))], 0)
    assert found.route_experts.tolist() == [[0, 1], [0, 2]]
    assert found.route_weight.tolist() == [3.0, 1.0]


def test_other_models_are_left_out() -> None:
    """A bucket of other blocks, or of a model that is gone, gives no traffic."""
    name = ("n", "moe")
    buckets = {name: [bucket(window(0, {1: [1, 1, 1]}))]}
    settings = ClusterSettings()
    assert combine(buckets, {}, settings, START).traffic == {}
    other = model("moe", {1: 3, 4: 2}, digest="d2")
    assert combine(buckets, {"moe": other}, settings, START).traffic == {}
    assert combine({}, {}, settings, None).until is None


@given(st.floats(1, 604_800))
def test_buckets_divide_the_window(seconds: float) -> None:
    """Twelve buckets cover the statistics window, give or take their rounding."""
    span = bucket_us(ClusterSettings(statistics_window_seconds=seconds))
    assert span * BUCKETS_PER_WINDOW == pytest.approx(seconds * 1e6, abs=BUCKETS_PER_WINDOW + 1)


def test_sums_stay_exact_at_the_largest_counts() -> None:
    """Many windows of the largest counts do not overflow."""
    one = window(0, {1: [2**32 - 1] * 3}, tokens=2**32 - 1)
    found = bucket(*[one] * 100)
    assert found.counts[:3].tolist() == [100 * (2**32 - 1)] * 3
    assert found.counts.dtype == np.uint64


TOKENS = 12


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_rates_are_those_of_one_process_however_the_work_is_divided(data: st.DataObject) -> None:
    """Ranks with a part of the tokens each, stages with a part of the layers, windows of any length."""
    ends = [10.0 * i for i in range(1, data.draw(st.integers(2, 40)))]
    whole = [window(end, {1: [4, 5, 3], 4: [7, 5]}, tokens=TOKENS) for end in ends]
    divided: list[PackedWindow] = []
    for end in ends:
        ranks = data.draw(st.integers(1, 4))
        cut = sorted(data.draw(st.lists(st.integers(0, TOKENS), min_size=ranks - 1, max_size=ranks - 1)))
        shares = [high - low for low, high in zip([0, *cut], [*cut, TOKENS], strict=True)]
        stages: list[tuple[int, ...]] = data.draw(st.sampled_from([[(1, 4)], [(1,), (4,)], [(4,), (1,)]]))
        for stage in stages:
            for share, rank in zip(shares, range(ranks), strict=True):
                if not share:
                    divided.append(window(end, {}, tokens=0))
                    continue
                given = (
                    {1: [4, 5, 3], 4: [7, 5]}
                    if rank == shares.index(max(shares))
                    else {1: [0] * 3, 4: [0] * 2}
                )
                divided.append(window(end, {layer: given[layer] for layer in stage}, tokens=share))
    # A rank of which all is in the largest share gets all counts, so counts add up exactly.
    found, right = (read(bucketed(some), ends[-1]) for some in (data.draw(st.permutations(divided)), whole))
    assert found.activations_per_second == pytest.approx(right.activations_per_second)
    assert found.tokens_per_second == pytest.approx(right.tokens_per_second)


def bucketed(windows: list[PackedWindow]) -> list[Bucket]:
    """As folding does: by when they ended, each stored and read again in between."""
    found: dict[int, Bucket] = {}
    for seed, one in enumerate(windows):
        span = one.end_us // SPAN
        known = decode_bucket(encode_bucket(found[span])) if span in found else None
        found[span] = Bucket.of([(one, seed)], Layout.of(MODEL), SPAN, known)[0]
    return list(found.values())


def test_windows_that_straddle_two_buckets_cover_their_time_once() -> None:
    """A rank that cuts its windows a little later than another does not make the node slower."""
    one = [window(at, {1: [5, 0, 0]}, tokens=5) for at in range(10, 400, 10)]
    other = [window(at + 3, {1: [0, 5, 0]}, tokens=5) for at in range(10, 400, 10)]
    found = read(bucketed(one + other), 400, statistics_half_life_seconds=None)
    assert found.tokens_per_second == pytest.approx(1.0, rel=0.01)


def test_buckets_of_the_format_before_are_read() -> None:
    """Without stretches, the sums of durations that they have are what was observed."""
    fields = msgspec.msgpack.decode(encode_bucket(bucket(window(0, {1: [10, 0, 0], 4: [8, 0]}, tokens=20))))
    before = decode_bucket(msgspec.msgpack.encode(fields[:-2]))
    assert before.coverage.observed_us == [10 * ONE_SECOND] * 2
    later = Bucket.of([(window(10, {1: [30, 0, 0]}, tokens=40), 1)], Layout.of(MODEL), SPAN, before)[0]
    found = read([decode_bucket(encode_bucket(later))], 10)
    assert found.activations_per_second.tolist() == [2.0, 0.0, 0.0, 0.8, 0.0]
    assert found.tokens_per_second == pytest.approx((20 + 40 + 20) / 30)


def test_scattered_windows_stay_few_pieces() -> None:
    """However many gaps there are, a bucket keeps a bounded number of pieces and misses no covered time."""
    from app.statistics.coverage import MAX_PIECES, Stretch

    stretch = Stretch()
    for at in np.random.default_rng(1).permutation(2000).tolist():
        stretch.add(START + at * 70_000, START + at * 70_000 + 30_000, 1)
    assert len(stretch.edges) <= 2 * MAX_PIECES
    assert 2000 * 30_000 <= stretch.covered_us <= 2000 * 70_000 + 2 * MAX_PIECES * stretch.grid_us


def test_a_bucket_of_a_newer_format_is_not_taken_for_a_damaged_one() -> None:
    """A damaged bucket is left out and written anew; that must not happen to one of a newer worker."""
    with pytest.raises(NewerBucket, match=f"version {BUCKET_VERSION + 1}"):
        decode_bucket(msgspec.msgpack.encode([BUCKET_VERSION + 1, {"all": "different"}]))
    with pytest.raises(ValueError, match="not a bucket"):
        decode_bucket(msgspec.msgpack.encode([BUCKET_VERSION, {"all": "different"}]))
