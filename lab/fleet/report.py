"""What a run of the fleet has found."""

from __future__ import annotations

import msgspec

from lab.fleet.measurement import Agreement, Figures, Step
from lab.fleet.scenario import Scenario


class Row(msgspec.Struct, frozen=True):
    """One algorithm's placement. `predicted_seconds`: waiting for experts per token, by the solver's
    objective on the routes it was computed from; `expected_seconds`: the same on those of the measured
    tokens; what was measured is `figures.expert_seconds`. `settled_seconds`: until the nodes had carried the
    placement out, copying `bytes_copied`."""

    algorithm: str
    predicted_seconds: float
    expected_seconds: float
    figures: Figures
    settled_seconds: float
    moves: int
    bytes_copied: int


class Episode(msgspec.Struct, frozen=True):
    """Traffic in which two nodes swap their domains: per step of time while requests arrive, and before and
    after the swap.

    `after` begins at `after_seconds`, when the fleet has had time to follow. `generations` and
    `bytes_copied`: placements that came into force meanwhile, and what nodes received for them.
    """

    steps: list[Step]
    before: Figures
    after: Figures
    generations: int
    bytes_copied: int


class TimeLine(msgspec.Struct, frozen=True):
    """The same traffic twice: the placement staying as it was, and the service following."""

    seconds: float
    swap_seconds: float
    step_seconds: float
    after_seconds: float
    swapped: dict[str, str]
    staying: Episode
    following: Episode


class Report(msgspec.Struct, frozen=True):
    """`learned_tokens`: those the placements were computed from. `imposed` says in words what is emulated."""

    scenario: Scenario
    imposed: list[str]
    learned_tokens: int
    rows: list[Row]
    time_line: TimeLine | None
    agreement: Agreement
    failed_requests: int

    @property
    def best(self) -> Row:
        """With the least measured latency per token."""
        return min(self.rows, key=lambda row: row.figures.token_seconds)
