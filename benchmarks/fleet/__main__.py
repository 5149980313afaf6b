"""`python -m benchmarks.fleet`: the fleet in a box, every algorithm's placement on the same requests."""

from __future__ import annotations

import argparse
import asyncio
import platform
import shlex
import sys
from pathlib import Path

import msgspec
from rich.console import Console

from lab.fleet.picture import picture
from lab.fleet.report import Report
from lab.fleet.run import ALGORITHMS, Course
from lab.fleet.running import run_fleet
from lab.fleet.scenario import scenario
from lab.fleet.summary import off_by, print_summary, sentences
from lab.harness.signals import until_signalled


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS), choices=ALGORITHMS)
    parser.add_argument("--learn-seconds", type=float, default=Course.learning_seconds)
    parser.add_argument("--seconds", type=float, default=Course.measuring_seconds)
    parser.add_argument("--swap-seconds", type=float, default=Course.time_line_seconds)
    parser.add_argument("--rate", type=float, default=0.6, help="requests per second at each node")
    parser.add_argument("--delay", type=float, default=40.0, help="round trip between neighbours, ms")
    parser.add_argument("--origin-delay", type=float, default=160.0, help="round trip to the origin, ms")
    parser.add_argument("--bandwidth", type=float, default=1.5, help="MB/s of every link, each way")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "fleet")
    given = parser.parse_args()
    described = scenario(
        given.nodes,
        delay_seconds=given.delay / 1e3,
        origin_delay_seconds=given.origin_delay / 1e3,
        bytes_per_second=given.bandwidth * 1e6,
        requests_per_second=given.rate,
        seed=given.seed,
    )
    course = Course(tuple(given.algorithms), given.learn_seconds, given.seconds, given.swap_seconds)
    console = Console(width=120)
    report, status = asyncio.run(until_signalled(console, run_fleet(console, described, course, plain=True)))
    if report is None:
        sys.exit(status)
    print_summary(console, report)
    command = shlex.join(["python", "-m", "benchmarks.fleet", *sys.argv[1:]])
    given.out.with_suffix(".json").write_bytes(
        msgspec.json.format(msgspec.json.encode({"command": command, "report": report}), indent=1)
    )
    given.out.with_suffix(".md").write_text(markdown(report, command), encoding="utf-8")
    given.out.with_suffix(".svg").write_text(picture(report), encoding="utf-8")


def markdown(report: Report, command: str) -> str:
    """The whole table and the summary's sentences."""
    best = report.best
    lines = [
        "# The fleet in a box: what placements are worth, measured",
        "",
        f"Made by `{command}` on {platform.machine()}, Python {platform.python_version()}, two cores that "
        f"other work was using. Placements were computed from {report.learned_tokens:,} generated tokens and "
        f"measured on {best.figures.tokens:,} others, the same for each. Times are per generated token; the "
        "parts computed elsewhere are of its 12 expert calls.",
        "",
        "| placement | latency | 95 % below | waiting for experts | predicted | off by | elsewhere "
        "| at the origin | bytes | prompt of 24 | migration |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in report.rows:
        found = row.figures
        lines.append(
            f"| `{row.algorithm}` | {1e3 * found.token_seconds:.1f} ms | {1e3 * found.p95_seconds:.0f} ms "
            f"| {1e3 * found.expert_seconds:.1f} ms | {1e3 * row.predicted_seconds:.1f} ms "
            f"| {off_by(row):+.1%} | {found.remote_ratio:.1%} | {found.origin_ratio:.1%} "
            f"| {found.bytes_per_token:,.0f} | {1e3 * found.prompt_seconds:.0f} ms "
            f"| {row.bytes_copied / 1e6:.1f} MB in {row.settled_seconds:.1f} s |"
        )
    lines += ["", *(f"* {line}" for line in sentences(report)), "", "![The same as a picture](fleet.svg)", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
