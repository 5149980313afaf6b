"""`python -m benchmarks.migrations`: plan, measure, write migrations.md and migrations.json here."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import numpy as np

from benchmarks.migrations.instances import random_migrations, real_migrations
from benchmarks.migrations.measurement import Measurement, measure
from benchmarks.quality.traces import load_traces

_FOLDER = Path(__file__).parent


def main() -> None:
    traces, notes = load_traces()
    measured: list[Measurement] = []
    for note in notes:
        print(note, flush=True)
    for migration in chain(real_migrations(traces), random_migrations()):
        found = measure(migration)
        if isinstance(found, str):
            notes.append(found)
            print(found, flush=True)
        else:
            measured.append(found)
            print(_row(found), flush=True)
            _write(measured, notes)  # each time, so that a run that is cut short leaves what it has


def _write(measured: list[Measurement], notes: list[str]) -> None:
    (_FOLDER / "migrations.md").write_text(_table(measured, notes))
    document = {"machine": _machine(), "measured": [asdict(one) for one in measured], "notes": notes}
    (_FOLDER / "migrations.json").write_text(json.dumps(document, indent=1) + "\n")


def _table(measured: list[Measurement], notes: list[str]) -> str:
    makespans = [one.makespan_ratio for one in measured]
    areas = [one.area_ratio for one in measured if one.area_ratio is not None]
    lines = [
        "# How good plans are",
        "",
        "Made by `python -m benchmarks.migrations`. Makespan: seconds of the plan over the lower bound. "
        "Area: latency beyond the target's while the plan runs, over the mean of random orders of the same "
        "moves, planned as carefully; absent where the target is hardly better than the start. Every "
        "plan was verified.",
        "",
        f"* makespan: median {np.median(makespans):.3f}, worst {max(makespans):.3f}",
        f"* area: median {np.median(areas):.2f}, worst {max(areas):.2f}",
        f"* planned with {_machine()}, other programs running: times are upper ends",
        "",
        "| migration | nodes | moves | full | seconds | makespan | area | extra bytes | planned in |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(one) for one in measured),
        "",
        *(f"* {note}" for note in notes),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _row(one: Measurement) -> str:
    area = "" if one.area_ratio is None else f"{one.area_ratio:.2f}"
    wrong = "" if not one.violations else f" ({one.violations} VIOLATIONS)"
    return (
        f"| {one.name}{wrong} | {one.nodes} | {one.moves} | {one.fill_ratio:.0%} | {one.seconds:.1f} "
        f"| {one.makespan_ratio:.3f} | {area} | {one.extra_bytes_ratio:.1%} | {one.plan_seconds:.2f} s |"
    )


def _machine() -> str:
    return f"Python {platform.python_version()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
