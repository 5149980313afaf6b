"""A layer as it is kept and as it is told."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.analysis.packed import PackedLayer

NOW = datetime(2026, 3, 1, 12, 0, 0, 123_000, UTC)


def packed(calls: "np.ndarray[tuple[int, int], np.dtype[np.float64]]", seed: int = 0) -> PackedLayer:
    generator = np.random.default_rng(seed)
    held, desired = ((generator.random(calls.shape) < 0.4).astype(np.uint8) for _ in range(2))
    return PackedLayer.of(
        cluster_uid="u",
        generation=3,
        created_at=NOW,
        telemetry_until=None,
        model_id="m",
        layer=4,
        node_ids=[f"n{row}" for row in range(len(calls))],
        live=[row % 2 == 0 for row in range(len(calls))],
        calls=calls,
        held=held,
        desired=desired,
    )


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 300))
def test_what_was_packed_is_told(seed: int, nodes: int, experts: int) -> None:
    """Holdings exactly, rates exactly, shares within float16's precision, whatever the shape; a share of 0
    is 0, and an idle node has no shares."""
    generator = np.random.default_rng(seed)
    calls = generator.gamma(0.3, 1000.0, (nodes, experts)) * (generator.random((nodes, experts)) < 0.8)
    calls[0] *= seed % 2
    before = packed(calls, seed)
    told = PackedLayer.decoded(before.encoded()).activations()
    assert (told.layer, told.experts, told.created_at, told.telemetry_until) == (4, experts, NOW, None)
    again = np.random.default_rng(seed)
    held, desired = (again.random(calls.shape) < 0.4 for _ in range(2))
    for row, node in enumerate(told.nodes):
        total = calls[row].sum()
        assert node.live == (row % 2 == 0)
        assert node.activations_per_second == pytest.approx(total, rel=1e-12)
        assert node.held == np.flatnonzero(held[row]).tolist()
        assert node.desired == np.flatnonzero(desired[row]).tolist()
        if total == 0:
            assert node.shares == []
            continue
        expected = calls[row] / total
        np.testing.assert_allclose(node.shares, expected, rtol=2e-3, atol=1e-7)
        assert all(node.shares[expert] == 0 for expert in np.flatnonzero(calls[row] == 0))
        # Four digits and an exponent: what makes the answer large says something.
        assert all(len(f"{share:.10g}") <= len("0.0001234") for share in node.shares)


def test_sixty_nodes_of_the_largest_layers_stay_small() -> None:
    """60 nodes x 256 experts: at most 2 bytes a cell and a bit each for held and desired, kept; at most 14
    a cell told, of which 10 are the share and the rest the numbers of those held and desired."""
    generator = np.random.default_rng(1)
    layer = packed(generator.gamma(0.5, 10.0, (60, 256)))
    assert len(layer.encoded()) <= 60 * 256 * 2.25 + 2000
    assert len(layer.activations().model_dump_json()) <= 60 * 256 * 14
