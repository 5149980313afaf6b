"""What nodes should be seen to hold while a plan is carried out."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from app.migration_plans.schemas import PlannedMove
from app.observe.observation import Observation
from app.statistics.fleet import Fleet, UnknownExpert
from migrations.model import MoveKind
from moeplace_agent.wording import counted
from solvers.problem import UInt8


@dataclass(frozen=True, slots=True)
class Deviation:
    """In words; and whether copies that the plan counts on are missing."""

    words: str
    lacks: bool


class Expectation:
    """What nodes held when the plan began, changed by every move that succeeded."""

    def __init__(self, observation: Observation) -> None:
        self._fleet = observation.fleet
        self._holds = observation.held.copy()

    def count_on(self, target: UInt8, undone: Iterable[PlannedMove]) -> None:
        """Expect what a plan that another worker began counts on, whether it is still there or not: `target`
        uint8[N, E], over the nodes and experts of the observation, but for the plan's moves that are undone.
        A copy may have gone since, by an order of the plan before; then no other may go."""
        expected = target.copy()
        for move in undone:
            try:
                expected[self._cell(move)] = move.kind is MoveKind.DROP
            except UnknownExpert:
                continue
        self._holds |= expected

    def succeeded(self, move: PlannedMove) -> None:
        try:
            cell = self._cell(move)
        except UnknownExpert:
            return
        self._holds[cell] = move.kind is MoveKind.COPY

    def contradiction(self, observation: Observation, unfinished: Iterable[PlannedMove]) -> str | None:
        """In words, why the plan's remaining moves no longer fit the fleet; None when they do. O(moves)."""
        fleet = observation.fleet
        if [m.digest for m in fleet.models] != [m.digest for m in self._fleet.models] or (
            fleet.model_ids != self._fleet.model_ids
        ):
            return "models were registered or removed"
        involved = sorted({n for move in unfinished for n in (move.destination, move.source) if n})
        for node_id in involved:
            if node_id not in fleet.rows:
                return f"node {node_id} was removed"
            if node_id not in observation.live:
                return f"node {node_id} is lost"
        return None

    def deviation(self, observation: Observation, outstanding: Iterable[PlannedMove]) -> Deviation | None:
        """Where a live node holds something else than expected; moves that run do not count. A node whose
        agent has started anew deviates until it has said that it still holds what it did."""
        self._follow(observation.fleet)
        different = self._holds != observation.held
        different[~observation.live_mask] = False
        for move in outstanding:
            try:
                different[self._cell(move)] = False
            except UnknownExpert:
                continue
        rows = np.flatnonzero(different.any(axis=1))
        if not len(rows):
            return None
        row = int(rows[0])
        experts = counted(int(different[row].sum()), "expert")
        return Deviation(
            f"node {self._fleet.node_ids[row]} holds {experts} otherwise than the plan's moves left them",
            lacks=bool((different & (self._holds == 1)).any()),
        )

    def _cell(self, move: PlannedMove) -> tuple[int, int]:
        return self._fleet.row(move.destination), self._fleet.column(move.model_id, move.layer, move.expert)

    def _follow(self, fleet: Fleet) -> None:
        """Nodes may come and go while a plan runs; the models may not."""
        if fleet is self._fleet:
            return
        holds = np.zeros(fleet.shape, np.uint8)
        for row, node_id in enumerate(fleet.node_ids):
            known = self._fleet.rows.get(node_id)
            if known is not None:
                holds[row] = self._holds[known]
        self._fleet, self._holds = fleet, holds
