"""Simulated fleets: the runs of tests/simulation, many more of them than the test suite makes.

API, agents and workers are the service's own code on a simulated network, store and clock. Requests are lost,
late, repeated and out of order, nodes crash and are cut off, workers lose their lease without noticing, and
every process's clock is up to two leases ahead or behind.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tests.simulation.scenario import SKEW_LEASES, run

FIRST = 1016
"""The test suite makes those before it."""


@dataclass(frozen=True)
class Outcome:
    """`seen`: how often what happened, over all runs. `lost`: runs after which an expert had no copy left
    anywhere, so that nothing could converge; the invariants held in them, too."""

    first: int
    runs: int
    seconds: float
    skew_leases: float
    lost: int
    longest_converged_seconds: float
    seen: dict[str, int]
    failures: list[str]


def run_all(count: int, say: Callable[[str], None]) -> Outcome:
    """Seeds from `FIRST` on."""
    failures: list[str] = []
    seen: Counter[str] = Counter()
    lost, longest = 0, 0.0
    begun = time.monotonic()
    for number, seed in enumerate(range(FIRST, FIRST + count), 1):
        try:
            outcome = run(seed)
        except Exception as error:  # noqa: BLE001 - of whatever kind, the seed is named
            failures.append(f"seed {seed}: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
            say(failures[-1])
            continue
        seen.update(outcome.seen)
        lost += outcome.lost
        longest = max(longest, outcome.converged_seconds or 0.0)
        if number % 20 == 0:
            say(f"{number} runs in {time.monotonic() - begun:.0f} s, {len(failures)} failed")
    return Outcome(
        FIRST,
        count,
        time.monotonic() - begun,
        SKEW_LEASES,
        lost,
        longest,
        dict(sorted(seen.items())),
        failures,
    )
