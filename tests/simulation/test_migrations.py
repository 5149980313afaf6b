"""The service and its nodes go through whatever may befall them, and end as the last generation says."""

import functools
import os
import time
from collections import Counter

import pytest

from tests.simulation.scenario import Outcome, run

SEEDS = int(os.environ.get("MOEPLACE_SIMULATION_SEEDS", "0"))
"""How many more runs than the suite's, from the first seed after those."""

CALM = range(4)
SEVERE = range(1000, 1016)


@pytest.mark.parametrize("seed", CALM)
def test_nodes_follow_every_generation_while_nothing_goes_wrong(seed: int) -> None:
    """Without faults every invariant holds, no lease runs out, and the fleet converges within two minutes."""
    outcome = run(seed, calm=True)
    assert outcome.converged_seconds is not None
    assert outcome.converged_seconds < 120.0
    assert outcome.seen["lapses"] == 0


@pytest.mark.parametrize("seed", SEVERE)
def test_no_fault_breaks_an_invariant_or_keeps_the_fleet_from_converging(seed: int) -> None:
    """With crashes, cut and slow links, requests lost, late, repeated and out of order, workers that die or
    lose the lease without noticing and a store that breaks, every invariant holds and the last generation is
    reached."""
    outcome = _severe(seed)
    assert outcome.lost or outcome.converged_seconds is not None


@functools.cache
def _severe(seed: int) -> Outcome:
    return run(seed)


def test_a_seed_gives_the_same_run_again() -> None:
    """Two runs of one seed write the same diary, so that a failure can be looked at again."""
    assert run(1002).diary == _severe(1002).diary


def test_the_runs_meet_what_they_are_to_survive() -> None:
    """The runs together have met every kind of trouble, so that surviving them says something."""
    met: Counter[str] = Counter()
    for seed in SEVERE:
        met.update(_severe(seed).seen)
    wanted = ("crashes", "lapses", "partitions", "failovers", "zombies", "retries", "drops", "commands")
    assert not [name for name in wanted if not met[name]]
    ends = ("SUCCEEDED", "SUPERSEDED", "FAILED", "CANCELLED")
    assert not [state for state in ends if not met[f"plans {state}"]]


@pytest.mark.skipif(not SEEDS, reason="MOEPLACE_SIMULATION_SEEDS says how many more runs to make")
@pytest.mark.timeout(0)
def test_more_seeds() -> None:
    """As many more runs as asked for; all failures are told together."""
    failures = []
    begun = time.perf_counter()
    for seed in range(SEVERE.stop, SEVERE.stop + SEEDS):
        try:
            run(seed)
        except Exception as error:  # noqa: BLE001 - of whatever kind, the seed is told
            failures.append(f"seed {seed}: {type(error).__name__}: {str(error).splitlines()[:1]}")
    assert not failures, f"{len(failures)} of {SEEDS} in {time.perf_counter() - begun:.0f} s: {failures}"
