"""Which moves nodes are told to do next: copies as their sources allow, drops once nobody routes to them."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from app.migrate.execution import Execution, Source
from app.migrate.planning import planning_limits, release_limits
from app.migrate.sources import choose_source
from app.migration_plans.schemas import PlannedMove
from app.observe.holdup import Holdup
from app.observe.observation import Observation
from app.observe.remedies import listed
from app.placements.schemas import Outlook
from app.publish.routing import RoutingTables, without
from app.publish.withdrawal import HeldCopy, Withdrawal
from app.statistics.fleet import UnknownExpert
from migrations.model import Limits, MoveKind
from migrations.states import PlanState
from moeplace_agent.wording import agreeing, counted
from solvers.problem import PlacementProblem, UInt8


class Releasing:
    """One cluster's, for as long as one lease lasts."""

    def __init__(self, withdrawal: Withdrawal, routing: RoutingTables) -> None:
        self._withdrawal = withdrawal
        self._routing = routing
        self.waiting_for: Holdup | None = None
        """What the plan waits for; None at the beginning of each look."""

    def release(
        self,
        execution: Execution,
        observation: Observation,
        problem: PlacementProblem,
        now: datetime,
        *,
        hold_drops: bool = False,
    ) -> None:
        """Tell nodes what may begin. hold_drops: copies that the plan counts on are missing, so that no other
        copy may go until they are seen again or the plan has ended."""
        if execution.state is not PlanState.RUNNING:
            return
        fleet = observation.fleet
        serving = without(fleet, observation.held, self._withdrawal.copies)
        in_use = self._routing.in_use(observation)
        reading: dict[str, set[tuple[str, int, int]]] = {}

        def source_of(move: PlannedMove, tried: frozenset[str | None]) -> Source | None:
            return choose_source(fleet, problem, serving, planning_limits(1), move, tried)

        def may_drop(move: PlannedMove) -> bool:
            if hold_drops:
                self.waiting_for = Holdup(
                    Outlook.WAITING, "a node has yet to say that it still holds what it did"
                )
                return False
            copy = copy_of(move)
            if move.destination not in reading:
                reading[move.destination] = execution.reading_from(move.destination)
            if (move.model_id, move.layer, move.expert) in reading[move.destination]:
                self.waiting_for = Holdup(
                    Outlook.WAITING, f"{move.destination} is being read before it drops"
                )
                return False
            if copy not in self._withdrawal.copies:
                return False
            behind = self._withdrawal.behind(copy, in_use)
            if behind:
                self.waiting_for = still_routing(behind, observation.lately_lost)
            return not behind

        execution.release(execution.ready(limits_of(observation)), source_of, may_drop, now)

    def withdraw(
        self, execution: Execution | None, observation: Observation, problem: PlacementProblem
    ) -> None:
        """Leave out of routing tables what nodes were told to drop, and what they may be told next, unless it
        is all that serves an expert."""
        if execution is None or execution.ended:
            self._withdrawal.restrict(frozenset())
            return
        told = _copies(execution.moves[move_id] for move_id in execution.outstanding)
        next_ones = _copies([*execution.ready(limits_of(observation)), *execution.failed()]) - told
        kept = next_ones & self._withdrawal.copies
        self._withdrawal.restrict(told | kept)
        # Whatever else serves the expert, which may be nothing by now: they go at any moment.
        self._withdrawal.withdraw(sorted(told))
        serving = without(observation.fleet, observation.held, self._withdrawal.copies)
        left: UInt8 = serving.sum(axis=0)
        origin = bool((problem.origin_latency_seconds[observation.live_mask] < float("inf")).all())
        for copy in sorted(next_ones - kept):
            try:
                row = observation.fleet.row(copy.node_id)
                column = observation.fleet.column(copy.model_id, copy.layer, copy.expert)
            except UnknownExpert:
                continue
            if serving[row, column]:
                if left[column] <= 1 and not origin:
                    self.waiting_for = Holdup(
                        Outlook.WAITING,
                        f"{copy.node_id} alone serves {copy.model_id}/{copy.layer}/{copy.expert}, "
                        "which it is to drop",
                    )
                    continue
                left[column] -= 1
            self._withdrawal.withdraw([copy])


def limits_of(observation: Observation) -> Limits:
    """How many moves nodes may have at once."""
    settings = observation.cluster.settings
    return release_limits(settings.max_copies_per_node, settings.max_copies_per_cluster)


def still_routing(behind: Sequence[str], lately_lost: frozenset[str]) -> Holdup:
    """behind: nodes, one at least, that use routes with a copy that is to be dropped."""
    alive = [node_id for node_id in behind if node_id not in lately_lost]
    if alive:
        who, first = counted(len(alive), "node"), alive[0]
        return Holdup(
            Outlook.WAITING,
            f"{who}, first {first}, still {agreeing(len(alive), 'routes', 'route')} to a copy that is to be "
            "dropped",
            f"if it lasts, check the agent of {first}, which is to use the newest routes",
        )
    return Holdup(
        Outlook.UNDER_WAY,
        f"{listed(behind)}, lost recently, may still route to a copy that is to be dropped: the drop waits "
        "until the silence has lasted for two leases",
    )


def copy_of(move: PlannedMove) -> HeldCopy:
    return HeldCopy(move.destination, move.model_id, move.layer, move.expert)


def _copies(moves: Iterable[PlannedMove]) -> frozenset[HeldCopy]:
    """Those that are dropped."""
    return frozenset(copy_of(move) for move in moves if move.kind is MoveKind.DROP)
