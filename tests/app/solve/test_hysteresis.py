"""Noise moves nothing, and traffic that alternates is not run after: on real traces, through the service's
own functions."""

import numpy as np
import pytest

from app.solve.adoption import decide
from solvers.response.partial import Budget
from tests.app.worker.replayed import OWN, SWAPPED, Replayed, settings

LOOK_EVERY = 2
"""Time buckets of 150 s between two looks: the default interval of 300 s."""


@pytest.mark.parametrize(("window_seconds", "requests"), [(1800.0, 2), (1800.0, 10), (300.0, 2)])
def test_new_samples_of_the_same_traffic_move_nothing(window_seconds: float, requests: int) -> None:
    """A placement solved on one sample stands when another sample of the same traffic is solved on, for
    statistics of 24 to 120 requests a node; requests are sampled whole, as they come."""
    moved = []
    for seed in range(8):
        fleet = Replayed(settings(statistics_window_seconds=window_seconds), seed, requests=requests)
        fleet.pass_time(OWN, 12)
        fleet.look()
        assert fleet.generations == 1
        fleet.pass_time(OWN, 12)
        if fleet.look().adopt:
            moved.append((seed, fleet.decisions[-1].detail))
    assert not moved


def test_what_is_held_out_tells_noise_from_improvement() -> None:
    """With min_improvement 0 the sample solved on promises gains again and again, by far more often than
    there are any on traffic held out; and after a real change the held-out half agrees."""
    promised = kept = 0
    for seed in range(8):
        fleet = Replayed(settings(min_improvement=0.0), seed, requests=2)
        fleet.pass_time(OWN, 12)
        fleet.look()
        fleet.pass_time(OWN, 12)
        outcome = fleet.solve(fleet.built())
        if outcome.trial is None:
            continue
        promised += 1
        kept += decide(outcome, 600.0, 0.0).adopt
    assert promised >= 4
    assert kept <= promised / 2
    fleet = Replayed(settings(), 0)
    fleet.pass_time(OWN, 12)
    fleet.look()
    fleet.pass_time(SWAPPED, 12)
    decision = fleet.look()
    assert decision.adopt
    assert "held out" in decision.detail


@pytest.mark.parametrize("period_seconds", [300, 600, 1200])
def test_traffic_that_alternates_within_the_horizon_moves_nothing(period_seconds: int) -> None:
    """Two nodes that exchange their domains with a period shorter than the horizon of 600 s, about as long,
    and twice as long: once both domains have been seen the placement stays."""
    fleet = Replayed(settings(), 1)
    _alternate(fleet, period_seconds, warm_up=12, buckets=24)
    assert fleet.generations == 0  # since the warm-up


def test_traffic_that_stays_longer_than_the_horizon_is_followed_without_loss() -> None:
    """With a period of eight horizons the fleet follows in a few generations a swap, and pays no more than a
    hundredth more, moves included, than the one placement that knows both domains beforehand."""
    period = 4800
    fleet, staying = Replayed(settings(), 1), Replayed(settings(), 1)
    for name in (OWN, SWAPPED):  # equally old
        staying.pass_time(name, 1)
    staying.settings = staying.settings.model_copy(update={"statistics_half_life_seconds": None})
    staying.look()
    buckets = period // 150
    _alternate(fleet, period, warm_up=2, buckets=buckets)
    _alternate(staying, period, warm_up=2, buckets=buckets, look=False)
    assert 1 <= fleet.generations <= 8
    assert fleet.latency_seconds + fleet.moving_seconds < 1.01 * staying.latency_seconds


def test_limits_spread_a_change_over_intervals() -> None:
    """With ten copies an interval a swap of domains is followed ten at a time, each generation better than
    the one before."""
    fleet = Replayed(settings(), 2)
    fleet.pass_time(OWN, 12)
    fleet.look()
    fleet.pass_time(SWAPPED, 24)
    assert fleet.in_force is not None
    built = fleet.built()
    costs = []
    for _ in range(3):
        before = fleet.in_force
        outcome = fleet.solve(built, Budget(copies=10))
        assert outcome.found is not None
        assert outcome.holds is not None
        assert outcome.copies == int(((outcome.holds == 1) & (before == 0)).sum()) <= 10
        assert outcome.withheld_copies > 0
        assert decide(outcome, 600.0, 0.02).adopt
        costs.append(outcome.found.latency_cost)
        fleet.in_force = outcome.holds
        built = fleet.built()
    assert costs == sorted(costs, reverse=True)
    assert np.diff(costs).max() < 0


def _alternate(
    fleet: Replayed, period_seconds: int, *, warm_up: int, buckets: int, look: bool = True
) -> None:
    """Half a period each; counts begin after `warm_up` buckets."""
    half = max(1, round(period_seconds / 2 / fleet.bucket_seconds))
    for number in range(warm_up + buckets):
        if number == warm_up:
            fleet.generations, fleet.latency_seconds, fleet.moving_seconds = 0, 0.0, 0.0
        fleet.pass_time(OWN if number // half % 2 == 0 else SWAPPED, 1)
        if look and (number == 0 or number % LOOK_EVERY == 1):
            fleet.look()
