"""`python -m benchmarks.soak`: what the service survives, at length. Ends with status 1 where it did not.

Kills of every kind of process under traffic, simulated fleets with wrong clocks, and requests that nobody
should send. `make soak` runs all of it. It takes two hours on two processors.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.soak import fuzz, kills, seeds

RESULTS = Path(__file__).resolve().parents[1] / "results"

Given = argparse.Namespace
Lines = list[str]


def _say(text: str) -> None:
    print(text, flush=True)


def _kills(given: Given) -> tuple[Lines, Any, Lines]:
    found = kills.run(given.kills, given.seed, _say)
    converged = (
        "have not converged"
        if found.converged_seconds is None
        else (f"converged {found.converged_seconds:.0f} s after the last kill")
    )
    return (
        [
            f"{sum(found.kills.values())} kills (SIGKILL) in {found.seconds:.0f} s: "
            + ", ".join(f"{kind} {number}" for kind, number in found.kills.items())
            + f". {found.acknowledged} windows acknowledged to three senders, {found.repeats} of them sent "
            f"again because the first acknowledgement was lost; {found.folded} folded, {found.left} left in "
            f"the stream, {found.activations} activations. The longest wait for an acknowledgement was "
            f"{found.longest_seconds:.1f} s. Engines gave {found.given} windows to real agents, which died "
            f"with what they had not sent yet; {found.counted} were counted. The agents {converged}.",
        ],
        asdict(found),
        found.failures,
    )


def _seeds(given: Given) -> tuple[Lines, Any, Lines]:
    found = seeds.run_all(given.seeds, given.processes, _say)
    return _seeds_lines(found), asdict(found), found.failures


def _seeds_lines(found: seeds.Outcome) -> Lines:
    named = ("crashes", "partitions", "lapses", "failovers", "zombies", "copies", "drops", "generations")
    return [
        f"{found.runs} simulated fleets, seeds {found.first} to {found.first + found.runs - 1}, clocks up to "
        f"{found.skew_leases:g} leases wrong, in {found.seconds:.0f} s: "
        + ", ".join(f"{found.seen.get(name, 0)} {name}" for name in named)
        + f". {len(found.failures)} failed. {found.lost} lost the last copy of an expert to crashes that "
        "wipe memory; every other one converged, the slowest "
        f"{found.longest_converged_seconds:.0f} s after the last fault.",
    ]


def _fuzz(given: Given) -> tuple[Lines, Any, Lines]:
    found = fuzz.run(given.requests, given.seed, given.out, _say)
    statuses = ", ".join(f"{number} x {status}" for status, number in found.statuses.items())
    return (
        [
            f"{found.requests} requests in {found.seconds:.0f} s to {found.operations} operations, of them "
            f"{found.by_token['operator']} with an operator's token, {found.by_token['node']} with a node's, "
            f"{found.by_token['other']} with none or a wrong one: {statuses}. {found.refused} of the 503 "
            f"are back-pressure, with `Retry-After`. {found.unanswered} were not answered. "
            f"{found.errors} other 5xx. {found.succeeded} operations answered 2xx at least once. "
            f"{'No' if found.same_processes else 'A'} process of the service ended.",
        ],
        asdict(found),
        found.failures,
    )


PARTS: dict[str, tuple[str, Callable[[Given], tuple[Lines, Any, Lines]]]] = {
    "kills": ("Random kills", _kills),
    "seeds": ("Simulated fleets", _seeds),
    "fuzz": ("Fuzzed requests", _fuzz),
}


def write(out: Path, found: dict[str, Any]) -> None:
    """soak.json, and soak.md from what it holds."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "soak.json").write_text(json.dumps(found, indent=1) + "\n")
    text = [
        "# Soak",
        "",
        f"{os.cpu_count()} processors ({platform.machine()}), Python {platform.python_version()}; fleet, "
        "senders and service share the processors.",
    ]
    for part, (title, _) in PARTS.items():
        if part in found:
            load = found[part]["load_before"]
            measured = "not measured" if load is None else f"{load:.1f}"
            how = f"`{found[part]['command']}`, load of the machine before: {measured}"
            text += ["", f"## {title}", "", how, "", *found[part]["lines"]]
            text += ["", *(f"* FAILED: {line.splitlines()[0]}" for line in found[part]["failures"])]
    (out / "soak.md").write_text("\n".join(text).rstrip() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", choices=[*PARTS, []], help=f"of {', '.join(PARTS)}; all by default"
    )
    parser.add_argument("--kills", type=int, default=300, help="(default 300)")
    parser.add_argument("--seeds", type=int, default=1000, help="simulated fleets (default 1000)")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="of seeds (default: one a processor)"
    )
    parser.add_argument("--requests", type=int, default=50_000, help="fuzzed (default 50000)")
    parser.add_argument("--seed", type=int, default=1, help="of kills and requests (default 1)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of soak.json and soak.md")
    given = parser.parse_args()
    results = given.out / "soak.json"
    found = json.loads(results.read_text()) if results.exists() else {}
    failed = False
    for part in given.parts or PARTS:
        title, measure = PARTS[part]
        load_before = os.getloadavg()[0]
        lines, values, failures = measure(given)
        print(f"## {title}", "", *lines, "", *failures, sep="\n", flush=True)
        failed = failed or bool(failures)
        found[part] = {
            "command": shlex.join(["python", "-m", "benchmarks.soak", *sys.argv[1:]]),
            "load_before": load_before,
            "lines": lines,
            "values": values,
            "failures": failures,
        }
        write(given.out, found)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
