"""Routes of a problem call the experts as often as was counted, and together as was sampled."""

import numpy as np
import numpy.typing as npt
import pytest

from app.statistics.routes import Sample, matched

Float64 = npt.NDArray[np.float64]


def routes_of(
    routes: list[list[int]], weights: list[float], calls: list[float], *, k: int = 2, most: int = 1000
) -> list[tuple[list[int], float]]:
    """One block of as many experts as there are `calls`."""
    width = max((len(route) for route in routes), default=1)
    experts = np.array([[*route, *[-1] * (width - len(route))] for route in routes], np.int32)
    sample = Sample(
        np.zeros(len(routes), np.int32), experts.reshape(-1, width), np.array(weights, float), np.array(calls)
    )
    found = matched(
        sample,
        np.array([0, len(calls)]),
        np.array([k]),
        np.array([bool(routes)]),
        most=most,
        seed=1,
    )
    named = [[e for e in row if e >= 0] for row in found.experts.tolist()]
    return list(zip(named, found.rate.tolist(), strict=True))


def calls_of(routes: list[tuple[list[int], float]], experts: int) -> list[float]:
    calls = [0.0] * experts
    for route, rate in routes:
        assert len(set(route)) == len(route)
        for expert in route:
            calls[expert] += rate
    return calls


def test_counts_are_not_ignored_where_any_routes_are() -> None:
    """A small sample beside large counts explains its own calls, and no others."""
    found = routes_of([[0, 1]], [10.0], [10.0, 10.0, 1000.0, 1000.0])
    assert found[0][0] == [0, 1]
    assert found[0][1] == pytest.approx(10.0)
    assert calls_of(found, 4) == pytest.approx([10.0, 10.0, 1000.0, 1000.0])
    assert all(sorted(route) == [2, 3] for route, _ in found[1:])


def test_routes_that_make_the_counts_stay_as_they_were_sampled() -> None:
    """Nothing is added to a sample that says all, in whatever unit its weights are."""
    found = routes_of([[0, 1], [0, 2], [1]], [3.0, 1.0, 2.0], [8.0, 10.0, 2.0])
    assert [route for route, _ in found] == [[0, 1], [0, 2], [1]]
    assert [rate for _, rate in found] == pytest.approx([6.0, 2.0, 4.0])


def test_a_route_that_contradicts_the_counts_is_left_out() -> None:
    """An expert that was never counted is never called; the calls of its companions stay."""
    found = routes_of([[0, 1], [0, 2]], [5.0, 5.0], [6.0, 0.0, 4.0])
    assert calls_of(found, 3) == pytest.approx([6.0, 0.0, 4.0])
    assert all(1 not in route for route, _ in found)


def test_no_route_weighs_more_than_its_rarest_expert_was_counted() -> None:
    """However odd a sample is, its weights do not blow up."""
    found = routes_of([[0, 1], [1, 2], [0, 3]], [1e9, 1.0, 1e-9], [1.0, 50.0, 7.0, 1000.0])
    assert calls_of(found, 4) == pytest.approx([1.0, 50.0, 7.0, 1000.0])
    assert all(rate <= 1000.0 for _, rate in found)


def test_calls_without_a_sample_count_each_by_itself() -> None:
    """A layer of counts alone has routes of one expert."""
    assert routes_of([], [], [3.0, 0.0, 2.0]) == [([0], 3.0), ([2], 2.0)]


def test_routes_of_k_experts_complete_the_counts_of_any_sample() -> None:
    """From random samples and counts, every expert is called as often as counted, and K experts at once."""
    rng = np.random.default_rng(3)
    for samples in (1, 4, 16, 64):
        calls = rng.gamma(0.5, 1.0, 32) * (rng.random(32) < 0.9)
        calls[5] = 0.0
        routes = [sorted(rng.choice(32, 4, replace=False).tolist()) for _ in range(samples)]
        found = routes_of(routes, rng.random(samples).tolist(), calls.tolist(), k=4)
        assert calls_of(found, 32) == pytest.approx(calls.tolist(), rel=1e-6, abs=1e-9)
        assert all(len(route) <= 4 for route, _ in found)
        tokens = sum(rate for _, rate in found)
        assert tokens == pytest.approx(max(calls.sum() / 4, tokens), rel=1e-6)
        assert tokens <= max(calls.sum() / 4, calls.max()) * 1.5


def test_an_expert_in_more_tokens_than_others_can_fill_up_is_not_called_twice_by_one() -> None:
    """One expert with nearly all calls makes routes of fewer than K experts."""
    found = routes_of([[0, 1]], [1.0], [100.0, 1.0, 1.0, 0.0], k=3)
    assert calls_of(found, 4) == pytest.approx([100.0, 1.0, 1.0, 0.0])


def test_in_very_large_fleets_counts_hold_to_within_one_route() -> None:
    """With room for few completing routes, the layer's calls are exact and each expert's off by less than a
    route's rate."""
    calls = np.random.default_rng(4).gamma(0.5, 1.0, 64)
    found = routes_of([[0, 1, 2, 3]], [1e-6], calls.tolist(), k=4, most=20)
    assert len(found) <= 21
    made = np.array(calls_of(found, 64))
    assert made.sum() == pytest.approx(calls.sum(), rel=1e-3)
    assert np.abs(made - calls).max() <= 1.001 * max(rate for _, rate in found)
