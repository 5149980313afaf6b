"""`python -m benchmarks.load`: what one API process and one worker do a second, beside the least that could.

Service and references run in turn on the same machine, so read the ratios. Needs the load generator wrk, in
Debian the package `wrk`: apt-get install wrk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.load import folding, ingest, overload, serving

RESULTS = Path(__file__).resolve().parents[1] / "results"
POLLS = 5000
NODES = 1000

Given = argparse.Namespace


def _ingest(given: Given) -> tuple[list[str], Any]:
    rows = ingest.measure(given.seconds, given.rounds)
    lines = [
        f"{ingest.CONNECTIONS} connections that post again as soon as they are answered; p99 is the worst of "
        f"{given.rounds} rounds. With {ingest.FEW_CONNECTIONS}: "
        + "; ".join(f"{row.form} {row.few_rate:.0f}/s, p99 {row.few_p99_ms:.1f} ms" for row in rows)
        + ".",
        "",
        "| window | bytes | requests/s | CPU, us | p99, ms | reference | requests/s | CPU, us | p99, ms "
        "| ratio of rates | of CPU |",
        "|---|---:|---:|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.form} | {row.bytes} | {row.rate:.0f} | {row.cpu_us:.0f} | {row.p99_ms:.1f} "
        f"| {row.reference} | {row.reference_rate:.0f} | {row.reference_cpu_us:.0f} "
        f"| {row.reference_p99_ms:.1f} | {row.ratio:.2f} | {row.reference_cpu_us / row.cpu_us:.2f} |"
        for row in rows
    ]
    return lines, [asdict(row) for row in rows]


def _fold(given: Given) -> tuple[list[str], Any]:
    folds = folding.rates(NODES)
    lines = [
        "| nodes | routes of a layer in a window | windows/s | CPU of the worker, us | of Redis, us |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.nodes} | {row.sampled} | {row.rate:.0f} | {row.cpu_us:.0f} | {row.redis_cpu_us:.0f} |"
        for row in folds
    ]
    return lines, [asdict(row) for row in folds]


def _state(given: Given) -> tuple[list[str], Any]:
    states = folding.states(NODES)
    lines = [
        "| nodes | routes of a layer in a window | time buckets | Redis memory | of one node |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.nodes} | {row.sampled} | {row.buckets} | {row.bytes / 1e6:.0f} MB "
        f"| {row.node_bytes / 1e3:.0f} kB |"
        for row in states
    ]
    return lines, [asdict(row) for row in states]


def _serve(given: Given) -> tuple[list[str], Any]:
    rows = serving.measure(given.seconds, given.rounds)
    lines = [
        "| answer | bytes | requests/s | CPU, us | bare Starlette | CPU, us | ratio of rates | of CPU |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.answer} | {row.bytes} | {row.rate:.0f} | {row.cpu_us:.0f} | {row.reference_rate:.0f} "
        f"| {row.reference_cpu_us:.0f} | {row.ratio:.2f} | {row.reference_cpu_us / row.cpu_us:.2f} |"
        for row in rows
    ]
    return lines, [asdict(row) for row in rows]


def _poll(given: Given) -> tuple[list[str], Any]:
    found = asyncio.run(serving.long_polls(POLLS))
    return [
        f"{found.polls} long polls on one API process take {found.bytes_each / 1e3:.0f} kB each and are "
        f"answered {found.woken_p50_ms:.0f} ms (median), {found.woken_p99_ms:.0f} ms (99th percentile) and "
        f"{found.woken_last_ms:.0f} ms (last) after a placement is published."
    ], asdict(found)


def _overload(given: Given) -> tuple[list[str], Any]:
    found = overload.measure(given.soak)
    probe = "unanswered for 10 s" if found.probe_p99_ms is None else f"p99 {found.probe_p99_ms:.0f} ms"
    change = found.memory_last_bytes / found.memory_first_bytes - 1
    return [
        f"{found.seconds:.0f} s of {overload.FAST} connections that post as fast as they are answered, "
        f"{overload.SLOW} slow ones, {overload.HALF_OPEN} half-open ones, {overload.MALICIOUS} with bombs, "
        f"endless heads and garbage, {overload.ATTACKERS} that make one attack after another: "
        f"{found.accepted_rate:.0f} windows/s accepted, {found.refused_rate:.0f} refused with 503; "
        f"p50 {found.p50_ms:.0f} ms, p99 {found.p99_ms:.0f} ms, those included who ask "
        f"again at once and are held off; /healthz {probe}. A client that comes back when it is told to: "
        f"{found.patient_accepted} windows accepted, p99 {found.patient_p99_ms:.0f} ms, after "
        f"{found.patient_refused} refusals. Resident memory {found.memory_first_bytes / 1e6:.0f} MB after "
        f"{overload.SETTLING_SECONDS:.0f} s, {found.memory_last_bytes / 1e6:.0f} MB last ({change:+.0%}), "
        f"peak {found.memory_peak_bytes / 1e6:.0f} MB. {found.accepted} windows acknowledged to clients that "
        f"were still there, {found.counted} counted, {found.stored} in the stream. Right afterwards: "
        f"{found.recovered_refused} refused, p99 {found.recovered_p99_ms:.1f} ms."
    ], asdict(found)


PARTS: dict[str, tuple[str, Callable[[Given], tuple[list[str], Any]]]] = {
    "ingest": ("Telemetry taken by one API process", _ingest),
    "fold": ("Telemetry folded by one worker, from a backlog", _fold),
    "state": ("What a fleet's statistics take", _state),
    "serve": ("Placements served by one API process", _serve),
    "poll": ("Long polls", _poll),
    "overload": ("More than it can do", _overload),
}


def _load(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {}


def _write(out: Path, found: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "load.json").write_text(json.dumps(found, indent=1) + "\n")
    text = [
        "# Load",
        "",
        f"A model of 58 x 256, {os.cpu_count()} processors ({platform.machine()}), Python "
        f"{platform.python_version()}; load generator, Redis and service share the processors. Read the "
        "ratios: service and reference ran in turn. CPU is the server's processor time for one request. "
        "Valkey without an append-only file.",
    ]
    for part, (title, _) in PARTS.items():
        if part in found:
            how = f"`{found[part]['command']}`, load of the machine before: {found[part]['load_before']:.1f}"
            text += ["", f"## {title}", "", how, "", *found[part]["lines"]]
    (out / "load.md").write_text("\n".join(text) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", choices=[*PARTS, []], help=f"of {', '.join(PARTS)}; all by default"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load (default 4)")
    parser.add_argument("--rounds", type=int, default=3, help="service and reference in turn (default 3)")
    parser.add_argument("--soak", type=float, default=25.0, help="seconds of overload; 600 for the long one")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of load.json and load.md")
    given = parser.parse_args()
    found = _load(given.out / "load.json")
    for part in given.parts or PARTS:
        title, measure = PARTS[part]
        lines, values = measure(given)
        print(f"## {title}", "", *lines, "", sep="\n", flush=True)
        found[part] = {
            "command": shlex.join(["python", "-m", "benchmarks.load", *sys.argv[1:]]),
            "load_before": os.getloadavg()[0],
            "lines": lines,
            "values": values,
        }
        _write(given.out, found)


if __name__ == "__main__":
    main()
