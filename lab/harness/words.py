"""Lines for people: what a service does, and how a figure has gone."""

from __future__ import annotations

from statistics import median

from rich.console import Console

from lab.harness.observation import Observation

_BARS = "▁▂▃▄▅▆▇█"


def service_words(seen: Observation | None) -> str:
    """The service's state in a line."""
    if seen is None or seen.generation is None:
        return "no placement yet"
    gap = "no bound" if seen.gap_ratio is None else f"gap {seen.gap_ratio:.1%}"
    state = "converged" if seen.converged_at is not None else "migrating"
    plan = "no plan"
    if seen.plan_state is not None:
        plan = f"plan {seen.plan_state}, {seen.plan_moves_succeeded}/{seen.plan_moves_total} moves"
    return f"generation {seen.generation} ({seen.algorithm}, {gap}), {state}, {plan}"


def print_words(console: Console, line: str) -> None:
    """A terminal gets it broken between words, a pipe or a file in one line."""
    console.print(line, soft_wrap=not console.is_terminal, markup=False, highlight=False)


def sparkline(values: list[float]) -> str:
    """One character per value, from nothing to twice the median: the start, before anything is placed, must
    not flatten all that follows."""
    top = min(max(values, default=0.0), 2 * median(values)) if values else 0.0
    if top <= 0:
        return ""
    return "".join(_BARS[min(len(_BARS) - 1, int(value / top * len(_BARS)))] for value in values)
