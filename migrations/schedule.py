"""Event-driven list scheduling of the copies of a plan."""

from __future__ import annotations

import bisect
import heapq
from dataclasses import dataclass
from typing import Final

import numpy as np

from migrations.allocation import Allocation
from migrations.cluster import Cluster, members
from migrations.sources import BusySenders, Wait, choose_source
from solvers.problem import Float64

_RECOUNTS: Final = 200  # times in a plan that the load of senders and the room of nodes are counted anew


@dataclass(frozen=True, slots=True)
class Policy:
    """How a schedule weighs being done early against helping tokens early.

    urgency: a sender counts as scarce, and what it must send goes first, once the copies it is needed for
    take more than this share of the time left until the bound; above 1, only once it is already late.
    by_flow: senders that an `Allocation` gives to a node come before others.
    room: a node counts as short of room while it could take in less than so many of the largest expert it
    waits for; what others must copy from it before it may drop anything then goes first. 0: never.
    bulk: the power of an expert's size by which large ones come earlier than their worth per byte says.
    """

    urgency: float = 0.97
    by_flow: bool = True
    room: float = 3.0
    bulk: float = 0.0


class Schedule:
    """Starts copies whenever a receiver and a sender are free; time moves from one end of a copy to the next.

    Receivers take their turn by the seconds of copies they still wait for, longest first. Each takes, of
    what it misses, first what makes room elsewhere and scarce senders' experts, then the largest `gain`
    (float64[N, E]) per byte, if it has or can make room; from senders whose bytes into it, of `allocation`,
    are not yet used up before others. O((moves + N) log + moves * (N + candidates looked at)).
    """

    def __init__(
        self,
        cluster: Cluster,
        gain: Float64,
        loss: Float64,
        allocation: Allocation,
        bound: float,
        policy: Policy,
    ) -> None:
        self.cluster = cluster
        self.now = 0.0
        self._bound = bound
        self._policy = policy
        self._gain = gain
        nodes = cluster.nodes
        size = np.array(cluster.size, dtype=np.float64)
        self._worth = gain / size ** (1.0 - policy.bulk) if cluster.experts else gain
        rates = np.array(cluster.rate)
        with np.errstate(divide="ignore"):
            self._pace: list[float] = (1.0 / rates.max(axis=0)).tolist()
            self._out_pace = np.where(rates.max(axis=1) > 0, 1.0 / rates.max(axis=1), 0.0)
        self._pending: list[dict[int, None]] = [{} for _ in range(nodes)]
        self._pending_columns = [0] * nodes
        self._remaining = [0.0] * nodes
        wanted: list[list[int]] = [[] for _ in range(nodes)]
        for column, mask in enumerate(cluster.missing):
            for n in members(mask):
                wanted[n].append(column)
        for n in range(nodes):
            worth = self._worth[n]
            for column in sorted(wanted[n], key=lambda c: (-worth[c], c)):
                self.want(n, column)
            least = loss[n] / size if cluster.experts else loss[n]
            ordered = sorted(cluster.superfluous[n], key=lambda c: (least[c], c))
            cluster.superfluous[n] = dict.fromkeys(ordered)
        # Sizes for which a node has no room, until something that may make room has happened.
        self._failed: list[set[int]] = [set() for _ in range(nodes)]
        self._flow: list[list[float]] = allocation.flow.tolist()  # bytes left of it
        self._running: list[tuple[float, int]] = []
        self._load = [0.0] * (nodes + 1)
        self._scarce = 0
        self._making_room = 0
        self._recount_in = 0
        self._recount_every = 1 + sum(map(len, self._pending)) // _RECOUNTS

    @property
    def idle(self) -> bool:
        return not self._running

    @property
    def done(self) -> bool:
        return not self._running and not any(self._pending)

    def waiting(self, node: int) -> list[int]:
        """Columns the node still has to receive, the most valuable first."""
        return list(self._pending[node])

    def want(self, node: int, column: int) -> None:
        """The node has to receive the expert."""
        self._pending[node][column] = None
        self._pending_columns[node] |= 1 << column
        self._remaining[node] += self.cluster.size[column] * self._pace[node]

    def run(self) -> None:
        """Go on until nothing runs and nothing can start: either `done`, or stuck for want of room."""
        self._start_copies()
        while self._running:
            self.step()
            self._start_copies()

    def step(self) -> None:
        """Move time to the next end of a copy and finish all that end then."""
        cluster = self.cluster
        self.now = self._running[0][0]
        while self._running and self._running[0][0] <= self.now:
            index = heapq.heappop(self._running)[1]
            cluster.finish_copy(index)
            self._recount_in -= 1
            step = cluster.steps[index]
            for n in members(cluster.serving[step.column]):
                self._failed[n].clear()

    def drop(self, node: int, column: int) -> None:
        """Drop an expert now."""
        cluster = self.cluster
        cluster.drop(node, column, self.now)
        if cluster.target[column] >> node & 1:
            self.want(node, column)
        self._failed[node].clear()

    def start(self, source: int, node: int, column: int) -> None:
        """Start a copy that has room now."""
        if self._pending[node].pop(column, 0) is None:
            self._pending_columns[node] &= ~(1 << column)
            self._remaining[node] -= self.cluster.size[column] * self._pace[node]
        self._flow[source][node] -= self.cluster.size[column]
        index = self.cluster.start_copy(source, node, column, self.now)
        heapq.heappush(self._running, (self.cluster.steps[index].end, index))

    def make_room(self, node: int, column: int) -> bool:
        """Drop what it takes for the expert to fit on the node; False, with nothing dropped, if it can't."""
        cluster = self.cluster
        size, room = cluster.size[column], cluster.rooms[node]
        if room.device_for(size) is not None:
            return True
        candidates = cluster.droppable(node)
        drops = room.drops_for(size, candidates)
        if drops is not None:
            for other in drops:
                self.drop(node, other)
            return True
        if not room.several_devices:
            return False
        return self._make_room_anew(node, column, candidates)

    def lay_out_for(self, node: int, column: int) -> bool:
        """Let the expert fit without any drop, by laying the node's devices out anew where that is needed."""
        room = self.cluster.rooms[node]
        if room.device_for(self.cluster.size[column]) is not None:
            return True
        return room.several_devices and room.lay_out(self.cluster.occupants(node), column)

    def _make_room_anew(self, node: int, column: int, candidates: list[int]) -> bool:
        """As `make_room`, with all experts of the node laid out anew over its devices."""
        cluster = self.cluster
        room, occupants = cluster.rooms[node], cluster.occupants(node)

        def left(drops: int) -> list[int]:
            gone = set(candidates[:drops])
            return [c for c in occupants if c not in gone]

        # A set that packs still does without some of its experts, so the fewest drops are found by bisection.
        if not room.can_hold([*left(len(candidates)), column]):
            return False
        fewest = bisect.bisect_left(
            range(len(candidates)), True, key=lambda drops: room.can_hold([*left(drops), column])
        )
        kept = left(fewest)
        for other in candidates[:fewest]:
            self.drop(node, other)
        if not room.lay_out(kept, column):
            raise RuntimeError(f"node {node}: a layout that was found is gone")
        return True

    def _start_copies(self) -> None:
        cluster, limits = self.cluster, self.cluster.limits
        receivers = [
            n for n in range(cluster.nodes) if self._pending[n] and cluster.receiving[n] < limits.max_receives
        ]
        if not receivers:
            return
        if self._recount_in <= 0:
            self._recount()
        receivers.sort(key=lambda n: (-self._remaining[n], n))
        idle, columns = self._idle_senders()
        claims: dict[int, float] = {}
        for n in receivers:
            while self._pending[n] and cluster.receiving[n] < limits.max_receives:
                if limits.max_copies is not None and len(self._running) >= limits.max_copies:
                    return
                origin = idle & cluster.reach[n] >> cluster.origin << cluster.origin
                if not origin and not self._pending_columns[n] & columns:
                    break
                if not self._start_best(n, idle, claims):
                    break
                idle, columns = self._idle_senders()

    def _start_best(self, node: int, idle: int, claims: dict[int, float]) -> bool:
        """Start the most urgent or most valuable copy into the node that can start now."""
        cluster = self.cluster
        able = idle & cluster.reach[node]
        scarce = able & self._scarce
        busy = cluster.reach[node] & ~idle
        masks = [scarce, able]
        if self._policy.by_flow:
            given = sum(1 << m for m in members(able) if self._flow[m][node] > 0)
            masks = [scarce & given, given, *masks]
        first = self._pending_columns[node] & self._making_room
        tiers = [(mask, first) for mask in masks[:2]] if first else []
        senders = BusySenders(cluster, node, self.now, busy, claims)
        serving, size, failed = cluster.serving, cluster.size, self._failed[node]
        first_wait: Wait | None = None
        for mask, only in [*tiers, *((mask, -1) for mask in masks)]:
            if not mask:
                continue
            from_origin = bool(mask >> cluster.origin)
            for column in self._pending[node]:
                if not (from_origin or serving[column] & mask) or not only >> column & 1:
                    continue
                if size[column] in failed:
                    continue
                # Only the first wait counts, and of most columns no more need be known than that they wait.
                if first_wait is not None and senders.worth_waiting_for(column, mask):
                    continue
                chosen = choose_source(cluster, node, column, self.now, mask, busy, self._load, claims)
                if isinstance(chosen, Wait):
                    first_wait = first_wait or chosen
                    continue
                if chosen is None:
                    continue
                if not self.make_room(node, column):
                    failed.add(size[column])
                    continue
                self.start(chosen, node, column)
                return True
        if first_wait is not None:
            claims[first_wait.sender] = claims.get(first_wait.sender, 0.0) + first_wait.seconds
        return False

    def _idle_senders(self) -> tuple[int, int]:
        """The senders with a free slot, and the columns that the nodes among them serve."""
        idle = columns = 0
        for m, sender in enumerate(self.cluster.senders):
            if sender.idle:
                idle |= 1 << m
                if m < self.cluster.nodes:
                    columns |= self.cluster.held[m]
        return idle, columns

    def _recount(self) -> None:
        """Seconds of copies each sender is needed for, an expert's being shared among its holders."""
        cluster = self.cluster
        self._recount_in = self._recount_every
        self._making_room = self._columns_making_room() if self._policy.room > 0 else 0
        load = [0.0] * (cluster.nodes + 1)
        for column, mask in enumerate(cluster.missing):
            if not mask:
                continue
            holders = cluster.serving[column] | cluster.arriving[column]
            count = holders.bit_count()
            if not count:
                load[cluster.origin] += cluster.size[column]
                continue
            share = cluster.size[column] / count
            for m in members(holders):
                load[m] += share
        self._load = [
            amount * pace / sender.slots
            for amount, pace, sender in zip(load, self._out_pace.tolist(), cluster.senders, strict=True)
        ]
        left = max(self._bound - self.now, 0.0) * self._policy.urgency
        self._scarce = sum(1 << m for m, seconds in enumerate(self._load) if seconds > left and seconds > 0)

    def _columns_making_room(self) -> int:
        """The experts that nodes short of room could drop once one more copy of them is in place."""
        cluster, columns = self.cluster, 0
        for n in range(cluster.nodes):
            if not self._pending[n]:
                continue
            enough = self._policy.room * max(cluster.size[c] for c in self._pending[n])
            room = sum(cluster.rooms[n].free.values())
            if room < enough and room + sum(cluster.size[c] for c in cluster.droppable(n)) < enough:
                for c in cluster.superfluous[n]:
                    if not cluster.can_spare(c) and not cluster.arriving[c]:
                        columns |= 1 << c
        return columns
