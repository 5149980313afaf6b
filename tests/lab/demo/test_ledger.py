"""Figures drawn from what nodes tell."""

import pytest

from lab.demo.ledger import Ledger, figures
from tests.lab.demo.tellings import told


def test_means_are_over_tokens() -> None:
    """A slice with three times the tokens weighs three times as much."""
    found = figures(
        [
            told("a", 0.0, requests=[1], latency_seconds=2.56, local=3072),
            told("b", 1.0, requests=[1, 2, 3], latency_seconds=0.0),
        ]
    )
    assert found.tokens == 1024
    assert found.seconds == 2.0
    assert found.mean_latency_seconds == pytest.approx(2.56 / 1024)
    assert found.local_hit_ratio == pytest.approx(0.25)


def test_only_slices_wholly_inside_are_measured() -> None:
    """A slice that began before the swap says nothing of the time after it."""
    ledger = Ledger()
    for begin in (0.0, 1.0, 2.0, 3.0):
        ledger.add_slice(told("a", begin))
    assert [s.begin for s in ledger.between(0.5, 3.5)] == [1.0, 2.0]


def test_first_change_is_the_service_reacting() -> None:
    """The first slice of any node that holds or routes otherwise than before; None while there is none."""
    ledger = Ledger()
    for begin in (0.0, 1.0, 2.0):
        ledger.add_slice(told("a", begin))
        ledger.add_slice(told("b", begin + 0.5, held=10))
    assert ledger.first_change(1.9) is None
    ledger.add_slice(told("b", 3.5, held=11))
    ledger.add_slice(told("a", 3.0, generation=2))
    assert ledger.first_change(1.9) == 3.0


def test_history_is_in_steps_of_time_over_all_nodes() -> None:
    """Oldest first; a step without tokens is left out."""
    ledger = Ledger()
    for begin, latency in ((0.0, 256.0), (1.0, 512.0), (3.0, 1024.0)):
        ledger.add_slice(told("a", begin, latency_seconds=latency))
    assert ledger.history(1.0, 10) == [1.0, 2.0, 4.0]
    assert ledger.history(1.0, 2) == [4.0]
    assert Ledger().history(1.0, 5) == []


def test_a_demo_left_running_does_not_grow() -> None:
    """Old slices go, the newest stay."""
    ledger = Ledger()
    for begin in range(40_000):
        ledger.add_slice(told("a", float(begin)))
    assert len(ledger.slices["a"]) <= 16_384
    assert ledger.last("a") == told("a", 39_999.0)
    assert len(ledger.recent("a", 10.0)) == 10
