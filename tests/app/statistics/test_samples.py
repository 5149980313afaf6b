"""How many tokens the routes were sampled from."""

import numpy as np
import pytest

from app.clusters.schemas import ClusterSettings
from app.statistics.samples import SampleSizes, sample_sizes
from app.statistics.statistics import Bucket, Layout, Statistics, combine
from app.telemetry.packed import VERSION, PackedRoutes, PackedWindow
from tests.app.statistics.test_batches import FLEET, traffic

SPAN_US = 150_000_000


def test_the_layer_and_node_with_the_fewest_samples_is_named() -> None:
    """Layer 5 of node b has one sample, node a has four and two; a layer that nobody calls misses none."""
    a = traffic([(0, [0, 1], 1.0)] * 4 + [(1, [0, 1], 1.0)] * 2)
    b = traffic([(1, [0, 1], 1.0)], (0.0, 0.0, 0.0, 1.0, 3.0))
    found = sample_sizes(FLEET, Statistics({("a", "m"): a, ("b", "m"): b}, None), np.ones(2, np.bool_))
    assert found == SampleSizes(7.0, 2.0, 1.0, "b", "m", 5)
    assert sample_sizes(FLEET, Statistics({}, None), np.ones(2, np.bool_)) is None


@pytest.mark.parametrize(
    ("weights", "samples"),
    [
        ([1.0, 1.0, 1.0], 3.0),
        ([3.0, 1.0, 2.0], 6.0),
        ([30.0, 10.0, 20.0], 6.0),
    ],
)
def test_a_route_that_several_sampled_tokens_took_counts_for_each(
    weights: list[float], samples: float
) -> None:
    """Routes are named once with the tokens they stand for: 3, 1 and 2 are six samples, and so are 30, 10 and
    20 where every sampled token stands for ten."""
    routes = PackedRoutes(
        0, 2, np.array([[0, 1], [0, 2], [1, 2]], "<u2").tobytes(), np.array(weights, "<f4").tobytes()
    )
    counts = memoryview(np.array([9, 9, 9, 1, 1], "<u4").tobytes())
    window = PackedWindow(
        VERSION, "a", "m", "d1", 1, SPAN_US, SPAN_US + 1, 60, None, 4, counts, None, [routes], None, None
    )
    model = FLEET.models[0]
    bucket = Bucket.of([(window, 1)], Layout.of(model), SPAN_US)[0].trimmed()
    made = combine({("a", "m"): [bucket]}, {"m": model}, ClusterSettings(), SPAN_US + 1)
    assert made.traffic["a", "m"].route_samples.tolist() == pytest.approx([samples, 0.0])
