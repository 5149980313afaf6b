"""What a run of the fleet has found, as a table and in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lab.fleet.report import Episode, Report, Row, TimeLine
from lab.harness.words import print_words

AGREE_RATIO = 0.2
"""A prediction is called close where it is off by no more than this."""


def rows_table(rows: Sequence[Row]) -> Table:
    """The placements measured so far."""
    table = Table(
        title="Measured per generated token, means over the same requests",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("placement", no_wrap=True)
    for name in ("latency", "95 % below", "for experts", "predicted", "elsewhere", "bytes"):
        table.add_column(name, justify="right")
    best = min(rows, key=lambda row: row.figures.token_seconds, default=None)
    for row in rows:
        found = row.figures
        table.add_row(
            row.algorithm,
            f"{1e3 * found.token_seconds:.1f} ms",
            f"{1e3 * found.p95_seconds:.0f} ms",
            f"{1e3 * found.expert_seconds:.1f} ms",
            f"{1e3 * row.predicted_seconds:.1f} ms",
            f"{found.remote_ratio:.0%}",
            f"{found.bytes_per_token:,.0f}",
            style="bold" if row is best else None,
        )
    return table


def off_by(row: Row) -> float:
    """The prediction against what was measured, relative to that."""
    return row.predicted_seconds / row.figures.expert_seconds - 1.0


def print_summary(console: Console, report: Report) -> None:
    console.print(rows_table(report.rows))
    for line in sentences(report):
        print_words(console, line)


def sentences(report: Report) -> list[str]:
    """In words, for people."""
    rows, best = report.rows, report.best
    lines = [
        f"Least latency: {best.algorithm}, {1e3 * best.figures.token_seconds:.1f} ms per token"
        + "".join(
            f"; {row.algorithm} takes {row.figures.token_seconds / best.figures.token_seconds - 1:.0%} more"
            for row in rows
            if row is not best
        )
        + "."
    ]
    if len(rows) > 1:
        predicted = [row.algorithm for row in sorted(rows, key=lambda row: row.predicted_seconds)]
        measured = [row.algorithm for row in sorted(rows, key=lambda row: row.figures.expert_seconds)]
        same = "the same as" if predicted == measured else "other than"
        worst = max(rows, key=lambda row: abs(off_by(row)))
        lines.append(
            f"Predicted order, best first: {', '.join(predicted)}; {same} the measured one"
            + ("" if predicted == measured else f" ({', '.join(measured)})")
            + f". Predictions of the wait for experts are off by at most {abs(off_by(worst)):.0%} "
            f"({worst.algorithm})."
        )
    if report.time_line is not None:
        lines += _time_line(report.time_line)
    lines.append(_agreement(report))
    if report.failed_requests:
        lines.append(f"{report.failed_requests} requests could not be answered.")
    lines += [f"Imposed: {line}" for line in report.imposed]
    lines.append(
        "Real: the processes, the bytes between them, the model's weights and routing, what nodes compute."
    )
    return lines


def _time_line(line: TimeLine) -> list[str]:
    def told(episode: Episode) -> str:
        return (
            f"{1e3 * episode.before.token_seconds:.0f} ms per token before, "
            f"{1e3 * episode.after.token_seconds:.0f} ms from {line.after_seconds:.0f} s on"
        )

    return [
        f"{' and '.join(line.swapped)} swapped domains after {line.swap_seconds:.0f} s. "
        f"Without migration: {told(line.staying)}. With: {told(line.following)}, by "
        f"{line.following.generations} new placements and {line.following.bytes_copied / 1e6:.1f} MB copied."
    ]


def _agreement(report: Report) -> str:
    same = report.agreement
    if same.requests == same.same_bits == same.same_tokens:
        return (
            f"All {same.requests} answers, also those given while experts moved, are bit for bit those "
            "of the whole model in one process."
        )
    return (
        f"Of {same.requests} answers {same.same_tokens} have the tokens of the whole model in one process, "
        f"{same.same_bits} the same logits to the bit; they differ by at most {same.largest_difference:.2g}."
    )
