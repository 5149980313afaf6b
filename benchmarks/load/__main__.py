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
from benchmarks.load.attacks import ATTACKS

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
    found = overload.measure(given.soak, given.flood)
    change = found.memory_last_bytes / found.memory_first_bytes - 1
    pace = "as fast as they are answered" if found.flood is None else f"{found.flood:.0f} windows/s together"
    used = found.processors
    return [
        f"{found.seconds:.0f} s of {overload.FAST} connections that post {pace}, {overload.SLOW} slow ones, "
        f"{overload.HALF_OPEN} half-open ones, {overload.MALICIOUS} with bombs, endless heads and garbage, "
        f"and {overload.ATTACKERS} that made {found.attacks} attacks in turn, of {len(ATTACKS)} "
        f"kinds. These clients ran at niceness {overload.NICENESS}. Of {os.cpu_count()} processors the API "
        f"process used {used.api:.2f}, Valkey {used.redis:.2f}, clients {used.clients:.2f}, and processes "
        f"that have nothing to do with this {used.others:.2f}. The API process waited for a processor "
        f"{used.waited:.0%} of the time.",
        "",
        f"* /healthz, every 0.2 s: {_latencies(found.probe)}",
        f"* resident memory of the API process: peak {found.memory_peak_bytes / 1e6:.0f} MB, "
        f"{found.memory_first_bytes / 1e6:.0f} MB after {overload.SETTLING_SECONDS:.0f} s, "
        f"{found.memory_last_bytes / 1e6:.0f} MB last ({change:+.0%})",
        f"* the flood: {found.accepted_rate:.0f} windows/s accepted, {found.refused_rate:.0f} refused with "
        f"503; p50 {found.p50_ms:.0f} ms, p99 {found.p99_ms:.0f} ms, with those that ask again at once and "
        f"are held off; {found.broken} connections broken or timed out",
        f"* a client that comes back when it is asked to: {_latencies(found.patient)}, after "
        f"{found.patient_refused} refusals",
        f"* {found.accepted} windows acknowledged to clients that were still there, {found.counted} counted, "
        f"{found.stored} in the stream",
        f"* right afterwards: {found.recovered_refused} refused, p99 {found.recovered_p99_ms:.1f} ms",
    ], asdict(found)


def _latencies(found: overload.Latencies) -> str:
    said = f"{found.answered} answers"
    if found.p50_ms is not None:
        said += f", p50 {found.p50_ms:.0f} ms, p99 {found.p99_ms:.0f} ms, longest {found.longest_ms:.0f} ms"
    return f"{said}, {found.unanswered} not answered within {overload.ANSWER_SECONDS:.0f} s"


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
    parser.add_argument(
        "--flood", type=float, help="windows/s that overload offers (default: as many as are answered)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of load.json and load.md")
    given = parser.parse_args()
    found = _load(given.out / "load.json")
    for part in given.parts or PARTS:
        title, measure = PARTS[part]
        load_before = os.getloadavg()[0]
        lines, values = measure(given)
        print(f"## {title}", "", *lines, "", sep="\n", flush=True)
        found[part] = {
            "command": shlex.join(["python", "-m", "benchmarks.load", *sys.argv[1:]]),
            "load_before": load_before,
            "lines": lines,
            "values": values,
        }
        _write(given.out, found)


if __name__ == "__main__":
    main()
