"""The measurements as a table for people."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence

from benchmarks.migrations.measurement import RANDOM_ORDERS, Measurement


def markdown(measured: Sequence[Measurement], notes: Sequence[str], command: str) -> str:
    """A table with a line per plan, and medians and worst values at the foot."""
    lines = [
        "# How good plans are",
        "",
        f"Made by `{command}` with Python {platform.python_version()} on {os.cpu_count()} cores. Every plan "
        "was verified.",
        "",
        "* makespan: seconds of the plan over a lower bound on any schedule of the timing model; in brackets "
        "the same for random orders;",
        f"* area: latency beyond the target's while the plan runs, over the mean of {RANDOM_ORDERS} random "
        "orders of the same moves, which have the same scheduler, sources and ways to make room; empty where "
        "these cost less than 1 % of the target's latency, and for regions; negative where tokens wait less "
        "on the way than in the target, as copies come before drops;",
        "* full: memory in use before; extra: bytes copied beyond what the target misses.",
        "",
        "| migration | nodes | moves | full | makespan | area | extra | planned in | verified in |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(row(one) for one in measured),
        *_foot(measured),
        "",
        *(f"* {note}" for note in notes),
    ]
    return "\n".join(lines).rstrip() + "\n"


def row(one: Measurement) -> str:
    area = "" if one.area_ratio is None else f"{one.area_ratio:.2f}"
    other = "" if one.random_makespan_ratio is None else f" ({one.random_makespan_ratio:.3f})"
    wrong = f" **{one.violations} VIOLATIONS**" if one.violations else ""
    return (
        f"| {one.name}{wrong} | {one.nodes} | {one.moves:,} | {one.fill_ratio:.0%} "
        f"| {one.makespan_ratio:.3f}{other} | {area} | {one.extra_bytes_ratio:.1%} "
        f"| {one.plan_seconds:.2f} s | {one.verify_seconds:.2f} s |"
    )


def _foot(measured: Sequence[Measurement]) -> list[str]:
    columns = [
        [one.makespan_ratio for one in measured],
        [one.area_ratio for one in measured if one.area_ratio is not None],
        [one.extra_bytes_ratio for one in measured],
        [one.plan_seconds for one in measured],
        [one.verify_seconds for one in measured],
    ]
    shown = ("{:.3f}", "{:.2f}", "{:.1%}", "{:.2f} s", "{:.2f} s")
    return [
        f"| **{name}** | | | | "
        + " | ".join(
            f"**{form.format(of(column))}**" if column else ""
            for form, column in zip(shown, columns, strict=True)
        )
        + " |"
        for name, of in (("median", statistics.median), ("worst", max))
    ]
