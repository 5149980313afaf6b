"""What the demo has found, as a table and a few sentences."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from lab.demo.comparison import BASELINES
from lab.demo.story import Episode, Outcome
from lab.harness.words import print_words
from lab.tiny_moe.shape import EXPERT_BYTES

_NOTES = (
    "Nodes replay recorded routing and hold no weights; copying an expert takes the time the link would, "
    "and a call the latency configured for it.",
    "The other placements were computed in hindsight, from the very tokens measured; right after the swap, "
    "from those before it.",
)


def print_summary(console: Console, outcome: Outcome) -> None:
    table = Table(title="Mean expert latency per token, over all layers (ms)")
    table.add_column("placement", no_wrap=True)
    for name in ("before the swap", "right after the swap", "after re-convergence"):
        table.add_column(name, justify="right")
    episodes = (outcome.before, outcome.swapped, outcome.after)
    table.add_row(
        "served (measured)", *(f"{1e3 * e.served.mean_latency_seconds:.2f}" if e else "-" for e in episodes)
    )
    for name in BASELINES:
        table.add_row(name, *(_against(e, name) for e in episodes))
    table.add_row("tokens measured", *(f"{e.served.tokens:,}" if e else "-" for e in episodes))
    table.add_row("local hits, served", *(f"{e.served.local_hit_ratio:.0%}" if e else "-" for e in episodes))
    table.add_row("generation", *(str(e.generation) if e else "-" for e in episodes))
    console.print(table)
    for line in _sentences(outcome):
        print_words(console, line)


def _sentences(outcome: Outcome) -> list[str]:
    lines = [
        "First placement: "
        + _convergence(outcome.first_convergence_seconds, "the nodes' start")
        + _moved(outcome.first_moves, outcome.first_bytes),
        "New placement:   "
        + _convergence(outcome.second_convergence_seconds, "the swap")
        + _moved(outcome.second_moves, outcome.second_bytes),
    ]
    if outcome.gap_ratio is not None:
        lines.append(
            f"Certified gap of the placement in force, when it was computed: {outcome.gap_ratio:.1%}."
        )
    if outcome.windows_dropped:
        lines.append(f"{outcome.windows_dropped} windows of telemetry were dropped at the nodes.")
    return [*lines, *_NOTES]


def _convergence(seconds: float | None, cause: str) -> str:
    if seconds is None:
        return "the fleet had not converged when its time was over"
    return f"the fleet converged {seconds:.1f} s after {cause}"


def _moved(moves: int, copied: int) -> str:
    return f"; {moves} moves, {copied / 1e6:.1f} MB in {copied // EXPERT_BYTES} copies."


def _against(episode: Episode | None, name: str) -> str:
    """The baseline's latency, and how it compares with the served one on the same tokens."""
    if episode is None:
        return "-"
    latency = episode.baselines[name]
    return f"{1e3 * latency:.2f} ({latency / episode.served.mean_latency_seconds - 1:+.0%})"
