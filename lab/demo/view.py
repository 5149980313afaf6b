"""What the demo shows while it runs: a live screen on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lab.demo.ledger import Ledger, figures
from lab.demo.scenario import NODES
from lab.harness.words import print_words, service_words, sparkline

_RECENT_SECONDS = 1.5
_PLAIN_INTERVAL_SECONDS = 3.0
_STEPS = 60
_STEP_SECONDS = 1.0


class View(Protocol):
    def say(self, words: str) -> None:
        """Something has happened."""
        ...

    def refresh(self) -> None:
        """Called a few times a second."""
        ...


class PlainView:
    """One line for each event, and one for the state every few seconds."""

    def __init__(self, console: Console, ledger: Ledger, begun: float) -> None:
        self._console = console
        self._ledger = ledger
        self._begun = begun
        self._last = time.monotonic()

    def say(self, words: str) -> None:
        self._line(words)

    def refresh(self) -> None:
        now = time.monotonic()
        if now - self._last < _PLAIN_INTERVAL_SECONDS:
            return
        self._last = now
        nodes = []
        for node in NODES:
            recent = self._ledger.recent(node.node_id, _RECENT_SECONDS)
            if recent:
                mean = figures(recent)
                nodes.append(
                    f"{node.node_id} {recent[-1].domain} {1e3 * mean.mean_latency_seconds:.1f} ms "
                    f"{mean.local_hit_ratio:.0%} local"
                )
        self._line(f"{service_words(self._ledger.latest)} | {', '.join(nodes) or 'no traffic yet'}")

    def _line(self, words: str) -> None:
        print_words(self._console, f"{time.monotonic() - self._begun:5.1f} s  {words}")


class LiveView:
    """A table of the nodes, the service's state, and the latency of the last minute."""

    def __init__(self, live: Live, ledger: Ledger, begun: float) -> None:
        self._live = live
        self._ledger = ledger
        self._begun = begun
        self._events: list[str] = []

    def say(self, words: str) -> None:
        self._events.append(f"{time.monotonic() - self._begun:5.1f} s  {words}")
        self.refresh()

    def refresh(self) -> None:
        self._live.update(self._screen(), refresh=True)

    def _screen(self) -> RenderableType:
        recent = [s for node in NODES for s in self._ledger.recent(node.node_id, _RECENT_SECONDS)]
        latency = Text.assemble(
            ("mean latency  ", "dim"),
            (f"{1e3 * figures(recent).mean_latency_seconds:6.2f} ms  ", "bold"),
            (sparkline(self._ledger.history(_STEP_SECONDS, _STEPS)), "cyan"),
        )
        return Panel(
            Group(
                nodes_table(self._ledger),
                Text(service_words(self._ledger.latest)),
                latency,
                Text("\n".join(self._events[-4:]), style="dim"),
            ),
            title="moeplace demo: four nodes replay recorded routing of tiny-moe",
        )


def nodes_table(ledger: Ledger) -> Table:
    table = Table(box=None, expand=True)
    for name in ("node", "domain"):
        table.add_column(name)
    table.add_column("memory", ratio=1)
    for name in ("experts", "local hits", "mean latency", "generation"):
        table.add_column(name, justify="right")
    for node in NODES:
        last = ledger.last(node.node_id)
        if last is None:
            table.add_row(node.node_id, node.domain, "starting")
            continue
        mean = figures(ledger.recent(node.node_id, _RECENT_SECONDS))
        table.add_row(
            node.node_id,
            last.domain,
            ProgressBar(total=node.memory_bytes, completed=last.used_bytes),
            f"{last.held}/{node.experts}",
            f"{mean.local_hit_ratio:.0%}",
            f"{1e3 * mean.mean_latency_seconds:.2f} ms",
            "-" if last.generation is None else str(last.generation),
        )
    return table


@contextlib.contextmanager
def shown(console: Console, ledger: Ledger, *, plain: bool, begun: float) -> Iterator[View]:
    """The view for this console; times are shown since `begun` (monotonic)."""
    if plain or not console.is_terminal:
        yield PlainView(console, ledger, begun)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield LiveView(live, ledger, begun)
