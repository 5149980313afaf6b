"""What the fleet shows while it runs: a live screen on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lab.fleet.lines import Pulse
from lab.fleet.members import Members
from lab.fleet.report import Row
from lab.fleet.summary import rows_table
from lab.harness.observation import Observation
from lab.harness.words import print_words, service_words, sparkline

_PLAIN_INTERVAL_SECONDS = 4.0
_HISTORY = 80


class View(Protocol):
    def say(self, words: str) -> None:
        """Something has happened."""
        ...

    def refresh(self, members: Members, seen: Observation | None, rows: Sequence[Row]) -> None:
        """Called a few times a second."""
        ...


class PlainView:
    """One line for each event, and one for the state every few seconds."""

    def __init__(self, console: Console, begun: float) -> None:
        self._console = console
        self._begun = begun
        self._last = begun

    def say(self, words: str) -> None:
        print_words(self._console, f"{time.monotonic() - self._begun:6.1f} s  {words}")

    def refresh(self, members: Members, seen: Observation | None, rows: Sequence[Row]) -> None:
        if time.monotonic() - self._last < _PLAIN_INTERVAL_SECONDS:
            return
        self._last = time.monotonic()
        nodes = []
        for node_id, member in members.nodes.items():
            if member.pulses:
                recent = Recent.of(member.pulses)
                took = recent.token_seconds
                words = "idle" if took is None else f"{1e3 * took:.0f} ms a token"
                nodes.append(f"{node_id} {member.pulses[-1].held} experts, {words}")
        self.say(f"{service_words(seen)} | {'; '.join(nodes)}")


class LiveView:
    """A table of the nodes, the service's state, the latency so far, and the placements measured."""

    def __init__(self, live: Live, begun: float) -> None:
        self._live = live
        self._begun = begun
        self._events: list[str] = []
        self._history: deque[float] = deque(maxlen=_HISTORY)
        self._noted = 0.0

    def say(self, words: str) -> None:
        self._events.append(f"{time.monotonic() - self._begun:6.1f} s  {words}")

    def refresh(self, members: Members, seen: Observation | None, rows: Sequence[Row]) -> None:
        self._live.update(self._screen(members, seen, rows), refresh=True)

    def _screen(self, members: Members, seen: Observation | None, rows: Sequence[Row]) -> RenderableType:
        recents = [Recent.of(m.pulses) for m in members.nodes.values() if m.pulses]
        tokens = sum(r.tokens for r in recents)
        mean = sum((r.token_seconds or 0.0) * r.tokens for r in recents) / tokens if tokens else None
        if mean is not None and time.monotonic() - self._noted >= 1.0:
            self._history.append(mean)
            self._noted = time.monotonic()
        latency = Text.assemble(
            ("per token  ", "dim"),
            ("   idle   " if mean is None else f"{1e3 * mean:6.0f} ms  ", "bold"),
            (sparkline(list(self._history)), "cyan"),
        )
        parts: list[RenderableType] = [nodes_table(members), Text(service_words(seen)), latency]
        if rows:
            parts.append(rows_table(rows))
        parts.append(Text("\n".join(self._events[-5:]), style="dim"))
        return Panel(
            Group(*parts),
            title=f"moeplace fleet: {len(members.nodes)} nodes run tiny-moe together",
        )


class Recent:
    """What has happened between the oldest pulse that is kept and the newest."""

    def __init__(self, tokens: int, token_seconds: float | None, local_ratio: float | None) -> None:
        self.tokens = tokens
        self.token_seconds = token_seconds
        self.local_ratio = local_ratio

    @classmethod
    def of(cls, pulses: Sequence[Pulse]) -> Recent:
        """`pulses` must not be empty."""
        first, last = pulses[0], pulses[-1]
        tokens, activations = last.tokens - first.tokens, last.activations - first.activations
        return cls(
            tokens,
            (last.token_seconds - first.token_seconds) / tokens if tokens else None,
            (last.local - first.local) / activations if activations else None,
        )


def nodes_table(members: Members) -> Table:
    table = Table(box=None, expand=True)
    for name in ("node", "domain"):
        table.add_column(name)
    table.add_column("memory", ratio=1)
    for name in ("experts", "requests", "computed here", "per token", "generation"):
        table.add_column(name, justify="right")
    for node in members.scenario.nodes:
        member = members.nodes.get(node.node_id)
        if member is None or not member.pulses:
            table.add_row(node.node_id, node.domain, "starting")
            continue
        last, recent = member.pulses[-1], Recent.of(member.pulses)
        table.add_row(
            node.node_id,
            node.domain,
            ProgressBar(total=node.memory_bytes, completed=last.used_bytes),
            f"{last.held}/{node.experts}",
            str(last.in_progress),
            "-" if recent.local_ratio is None else f"{recent.local_ratio:.0%}",
            "idle" if recent.token_seconds is None else f"{1e3 * recent.token_seconds:.0f} ms",
            "-" if last.generation is None else str(last.generation),
        )
    return table


@contextlib.contextmanager
def shown(console: Console, *, plain: bool, begun: float) -> Iterator[View]:
    """The view for this console; times are shown since `begun` (monotonic)."""
    if plain or not console.is_terminal:
        yield PlainView(console, begun)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield LiveView(live, begun)
