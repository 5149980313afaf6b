"""`python -m benchmarks.migrations`: plans between real and random placements, judged by bounds and by random
orders."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from benchmarks.migrations.instances import (
    Migration,
    random_migrations,
    real_migrations,
    region_migrations,
    unlike_migrations,
)
from benchmarks.migrations.measurement import Measurement, measure
from benchmarks.migrations.table import markdown, row
from benchmarks.quality.traces import load_traces
from migrations.warm import warm as warm_planner
from solvers.precompile import warm


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.migrations", description=__doc__)
    parser.add_argument("--traces", nargs="*", help="names of traces; all by default, none without a name")
    parser.add_argument("--real-only", action="store_true", help="leave the random fleets out")
    parser.add_argument("--regions-only", action="store_true", help="regions of up to 1,000 nodes alone")
    parser.add_argument("--unlike-only", action="store_true", help="fleets with unlike links alone")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "migrations")
    given = parser.parse_args()
    traces, absent = load_traces()
    for line in absent:
        print(line, file=sys.stderr)
    if given.traces is not None:
        traces = [trace for trace in traces if trace.name in given.traces]
    migrations: Iterable[Migration] = region_migrations(traces)
    if not given.regions_only:
        migrations = chain(real_migrations(traces), migrations)
        if not given.real_only:
            migrations = chain(random_migrations(), unlike_migrations(), migrations)
    if given.unlike_only:
        migrations = unlike_migrations()
    warm()
    warm_planner()
    command = shlex.join(["python", "-m", "benchmarks.migrations", *sys.argv[1:]])
    measured: list[Measurement] = []
    notes: list[str] = []
    for migration in migrations:
        found = measure(migration)
        if isinstance(found, str):
            notes.append(found)
            print(found, flush=True)
            continue
        measured.append(found)
        print(row(found), flush=True)
        # each time, so that a run that is cut short leaves what it has
        given.out.with_suffix(".md").write_text(markdown(measured, notes, command))
        document = {"command": command, "measured": [asdict(one) for one in measured], "notes": notes}
        given.out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
