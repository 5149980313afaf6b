"""What the demo has found, as a table and a few sentences."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from app.demo.comparison import BASELINES
from app.demo.scenario import EXPERT_BYTES
from app.demo.story import Episode, Outcome

_NOTES = (
    "Nodes replay recorded routing and hold no weights; copying an expert takes the time the link would, "
    "and a call the latency configured for it.",
    "The other placements were computed in hindsight, from the very tokens measured; right after the swap, "
    "from those before it.",
)


def print_summary(console: Console, outcome: Outcome) -> None:
    table = Table(title="Mean expert latency per token, over all layers (ms)")
    table.add_column("placement")
    for name in ("before the swap", "right after the swap", "after re-convergence"):
        table.add_column(name, justify="right")
    episodes = (outcome.before, outcome.swapped, outcome.after)
    table.add_row(
        "served (measured)", *(f"{1e3 * e.served.mean_latency_seconds:.2f}" if e else "-" for e in episodes)
    )
    for name in BASELINES:
        table.add_row(name, *(_against(e, name) for e in episodes))
    table.add_row("tokens measured", *(f"{e.served.tokens:,}" if e else "-" for e in episodes))
    table.add_row("local hits (served)", *(f"{e.served.local_hit_ratio:.0%}" if e else "-" for e in episodes))
    table.add_row("generation", *(str(e.generation) if e else "-" for e in episodes))
    console.print(table)
    for line in _sentences(outcome):
        console.print(line, soft_wrap=True, highlight=False)


def _sentences(outcome: Outcome) -> list[str]:
    return [
        _convergence(
            "The first placement",
            "registration",
            outcome.first_convergence_seconds,
            outcome.first_moves,
            outcome.first_bytes,
        ),
        _convergence(
            "After the swap the fleet",
            "the swap",
            outcome.second_convergence_seconds,
            outcome.second_moves,
            outcome.second_bytes,
        ),
        *(
            []
            if outcome.gap_ratio is None
            else [f"Certified gap of the placement in force when it was computed: {outcome.gap_ratio:.1%}."]
        ),
        *(
            [f"{outcome.windows_dropped} windows of telemetry were dropped at the nodes."]
            if outcome.windows_dropped
            else []
        ),
        *_NOTES,
    ]


def _convergence(what: str, since: str, seconds: float | None, moves: int, copied: int) -> str:
    when = (
        "had not converged when its time was over"
        if seconds is None
        else f"converged {seconds:.1f} s after {since}"
    )
    return f"{what} {when}: {moves} moves, {copied / 1e6:.1f} MB ({copied // EXPERT_BYTES} copies)."


def _against(episode: Episode | None, name: str) -> str:
    """The baseline's latency, and how it compares with the served one on the same tokens."""
    if episode is None:
        return "-"
    latency = episode.baselines[name]
    return f"{1e3 * latency:.2f} ({latency / episode.served.mean_latency_seconds - 1:+.0%})"
