"""Simulated fleets: the runs of tests/simulation, many more of them than the test suite makes.

API, agents and workers are the service's own code on a simulated network, store and clock. Requests are lost,
late, repeated and out of order, nodes crash and are cut off, workers lose their lease without noticing, and
every process's clock is up to two leases ahead or behind.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tests.simulation import scenario
from tests.simulation.scenario import SKEW_LEASES

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


def run_all(count: int, processes: int, say: Callable[[str], None]) -> Outcome:
    """Seeds from `FIRST` on, divided among processes. Ctrl-C ends it with the seeds that are done."""
    failures: list[str] = []
    seen: Counter[str] = Counter()
    lost, longest, runs = 0, 0.0, 0
    begun = time.monotonic()
    with multiprocessing.Pool(processes) as pool:
        try:
            for found in pool.imap(_run, range(FIRST, FIRST + count)):
                runs += 1
                if isinstance(found, str):
                    failures.append(found)
                    say(found)
                else:
                    seen.update(found.seen)
                    lost += found.lost
                    longest = max(longest, found.converged_seconds or 0.0)
                if runs % 20 == 0:
                    say(f"{runs} runs in {time.monotonic() - begun:.0f} s, {len(failures)} failed")
        except KeyboardInterrupt:
            failures.append(f"stopped by hand after {runs} of {count}")
    return Outcome(
        FIRST,
        runs,
        time.monotonic() - begun,
        SKEW_LEASES,
        lost,
        longest,
        dict(sorted(seen.items())),
        failures,
    )


def _run(seed: int) -> scenario.Outcome | str:
    """How it ended, or in words what failed."""
    try:
        return scenario.run(seed)
    except Exception as error:  # noqa: BLE001 - of whatever kind, the seed is named
        return f"seed {seed}: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
