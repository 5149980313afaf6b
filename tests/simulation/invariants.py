"""What must be true at every event, whatever goes wrong."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import orjson

from app.storage.keys import ClusterKeys
from migrations.states import PLAN_TRANSITIONS, MoveState, PlanState
from moeplace_agent.holdings import ExpertKey
from moeplace_agent.messages import MoveOrder, TargetKind
from moeplace_agent.routing import Local, RoutingTable
from tests.simulation.clock import BEGINS_AT

if TYPE_CHECKING:
    from tests.simulation.node import Node

GRACE_SECONDS = 60.0
"""After a node was lost the service needs this long to know of it, and to end what was under way."""

_RANK = {
    MoveState.PENDING: 0,
    MoveState.RELEASED: 1,
    MoveState.IN_PROGRESS: 2,
    MoveState.CANCELLED: 3,
    MoveState.FAILED: 3,
    MoveState.SUCCEEDED: 3,
}


class Violation(AssertionError):
    """An invariant is broken."""


class Watch:
    """Sees everything that happens, from outside; keeps a diary for whoever has to understand a failure."""

    def __init__(self, keys: ClusterKeys, *, min_replicas: int, origin: bool, lease_seconds: float) -> None:
        self._keys = keys
        self._min_replicas = 0 if origin else min_replicas
        self._loop = asyncio.get_running_loop()
        self.nodes: dict[str, Node] = {}
        self.diary: list[str] = []
        self.floor: dict[ExpertKey, int] = {}
        """Serving copies that each expert keeps at least."""
        self._shaken: dict[ExpertKey, float] = {}
        self._dropped: set[tuple[str, ExpertKey]] = set()
        self._lease_ends: dict[str, float] = {}
        self._lease_milliseconds = lease_seconds * 1000.0
        self._lapsed_now: set[str] = set()
        self._unleased: set[str] = set()
        self._executed: set[tuple[str, int, str, str, int]] = set()
        self._progress: dict[tuple[str, str], tuple[int, int, int, str]] = {}
        self._plans: dict[str, tuple[PlanState, int]] = {}
        self.newest: Callable[[str], str | None] = lambda _: None
        """Version of a node's newest routing table."""
        self.seen: Counter[str] = Counter()
        """How often what happened: that faults were met, and that the invariants had something to judge."""

    def note(self, words: str) -> None:
        self.diary.append(f"{self._loop.time():9.3f} {words}")

    def _violated(self, words: str) -> None:
        self.note(f"VIOLATED: {words}")
        raise Violation(words)

    # --- copies
    def generation(self, copies: Mapping[ExpertKey, int]) -> None:
        """What nodes hold at first, or what comes into force, gives each expert so many copies."""
        for key, count in copies.items():
            self.floor[key] = min(self.floor.get(key, self._min_replicas), count)

    def copies(self, key: ExpertKey) -> int:
        return sum(node.serves(key) for node in self.nodes.values())

    def crashed(self, node: Node) -> None:
        self.note(f"{node.node_id} dies, with {len(node.memory)} experts left in its memory")
        self.seen["crashes"] += 1
        self._dropped = {(name, key) for name, key in self._dropped if name != node.node_id}
        self._shake(self.floor)

    def _shake(self, experts: Iterable[ExpertKey]) -> None:
        """Copies were lost, or taken for lost: what the service had begun by then may cost more."""
        for key in experts:
            self._shaken[key] = self._loop.time() + GRACE_SECONDS
            self.floor[key] = min(self.floor[key], self.copies(key))

    def copied(self, node: Node, key: ExpertKey) -> None:
        self.seen["copies"] += 1
        self._dropped.discard((node.node_id, key))
        self.note(f"{node.node_id} has {key}")

    def dropped(self, node: Node, key: ExpertKey) -> None:
        self.seen["drops"] += 1
        self._dropped.add((node.node_id, key))
        left = self.copies(key)
        self.note(f"{node.node_id} drops {key}, {left} copies left")
        if left < self.floor[key]:
            if self._shaken.get(key, -1.0) < self._loop.time():
                self._violated(f"{key} has {left} copies left, expected {self.floor[key]}")
            self.floor[key] = left
        self.look_at_leases()
        for other in self.nodes.values():
            table = other.routes
            if table is not None and other is not node and _names(table, other, node.node_id, key):
                if self._excused(other.node_id):
                    continue
                self._violated(f"{other.node_id} routes to {key} at {node.node_id}, which dropped it")

    # --- routes
    def routes(self, node: Node, table: RoutingTable) -> None:
        """The node uses another table from now on."""
        self.seen["tables"] += 1
        self.note(f"{node.node_id} routes by {table.version}")
        if table.version == self.newest(node.node_id):
            self._unleased.discard(node.node_id)
        elif self._excused(node.node_id):
            return
        for name, key in sorted(self._dropped):
            if name != node.node_id and _names(table, node, name, key):
                self._violated(f"{node.node_id} begins to route to {key} at {name}, which dropped it")

    def lease(self, node_id: str, ends: float | None) -> None:
        """A node's lease now lasts until `ends`, in milliseconds of the calendar; None: it is removed."""
        if ends is None:
            self.note(f"{node_id} is removed")
            self.seen["removals"] += 1
            self._unleased.add(node_id)
            self._shake(self.floor)
            del self._lease_ends[node_id]
            return
        self.look_at_leases()
        self._lapsed_now.discard(node_id)
        self._lease_ends[node_id] = ends

    def look_at_leases(self) -> None:
        now = (BEGINS_AT.timestamp() + self._loop.time()) * 1000.0
        for node_id, ends in self._lease_ends.items():
            if ends <= now and node_id not in self._lapsed_now:
                self.note(f"the lease of {node_id} has run out")
                self.seen["lapses"] += 1
                self._lapsed_now.add(node_id)
                self._shake(self.floor)
            if ends + self._lease_milliseconds <= now:
                self._unleased.add(node_id)

    def _excused(self, node_id: str) -> bool:
        """Its lease ran out a lease ago, and it has not switched to the newest table since: nobody waits for
        it any more."""
        return node_id in self._unleased

    # --- moves
    def begins(self, node: Node, order: MoveOrder) -> None:
        attempt = (node.node_id, node.starts, order.plan_id, order.move_id, order.attempt)
        self.note(f"{node.node_id} begins {order.kind} {order.move_id} of {order.plan_id}, {order.attempt}")
        if attempt in self._executed:
            self._violated(f"attempt {attempt} is executed again")
        self._executed.add(attempt)

    def memory(self, node: Node, arriving: ExpertKey | None = None) -> None:
        used = (len(node.memory) + (arriving is not None)) * node.shape.expert_bytes
        if used > node.shape.memory_bytes:
            self._violated(f"{node.node_id} has {used} bytes in {node.shape.memory_bytes}")

    # --- what the service writes down
    def written(self, key: str, value: Mapping[bytes, bytes] | bytes) -> None:
        if isinstance(value, bytes):
            prefix = self._keys.plan("")
            if key.startswith(prefix):
                self._plan(key.removeprefix(prefix), orjson.loads(value))
            return
        prefix = self._keys.plan_progress("")
        if key.startswith(prefix):
            for move_id, entry in value.items():
                self._move(key.removeprefix(prefix), move_id.decode(), orjson.loads(entry))

    def _plan(self, plan_id: str, record: dict[str, object]) -> None:
        state = PlanState(str(record["state"]))
        progress = record["progress"]
        assert isinstance(progress, dict)
        before, succeeded = self._plans.get(plan_id, (PlanState.PENDING, 0))
        if before is not state:
            self.note(f"plan {plan_id} is {state}: {record['reason']}")
            self.seen[f"plans {state}"] += 1
            if plan_id in self._plans and state not in _reachable(before):
                self._violated(f"plan {plan_id} was {before} and is {state}")
        if progress["moves_succeeded"] < succeeded:
            self._violated(f"plan {plan_id} goes back to {progress['moves_succeeded']} of {succeeded} moves")
        self._plans[plan_id] = (state, progress["moves_succeeded"])

    def _move(self, plan_id: str, move_id: str, entry: dict[str, object]) -> None:
        state = MoveState(str(entry["state"]))
        attempts, done = int(str(entry["attempts"])), int(str(entry["bytes_done"]))
        now = (attempts, _RANK[state], done, state.value)
        before = self._progress.get((plan_id, move_id), (0, 0, 0, "PENDING"))
        ended_otherwise = before[1] == now[1] == 3 and before[3] != now[3]
        failed_then_cancelled = (before[3], now[3]) == ("FAILED", "CANCELLED")
        if before[0] == now[0] and (now[:3] < before[:3] or (ended_otherwise and not failed_then_cancelled)):
            self._violated(f"move {move_id} of {plan_id} goes back from {before} to {now}")
        if now[0] < before[0] or (before[3] == "SUCCEEDED" and now != before):
            self._violated(f"move {move_id} of {plan_id} goes back from {before} to {now}")
        if now[0] > 1:
            self.seen["retries"] += 1
        self.seen[f"moves {state}"] += 1
        self._progress[plan_id, move_id] = now


def _names(table: RoutingTable, node: Node, target: str, key: ExpertKey) -> bool:
    """Whether calls of the node for the expert may go to `target`."""
    assert node.agent is not None
    return any(
        not isinstance(place, Local) and place.kind is TargetKind.NODE and place.node_id == target
        for place in table.where(node.agent.holdings, *key)
    )


def _reachable(state: PlanState) -> set[PlanState]:
    """States after `state`, however many events later."""
    found: set[PlanState] = set()
    new = {state}
    while new:
        found |= new
        new = {after for (before, _), after in PLAN_TRANSITIONS.items() if before in new} - found
    return found - {state} | ({state} if state in (PlanState.RUNNING, PlanState.PAUSED) else set())
