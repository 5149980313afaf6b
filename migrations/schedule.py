"""The copies of a plan in time: the list scheduler's kernel, and the ledger that follows what it does."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from migrations.allocation import Allocation
from migrations.cluster import Cluster
from migrations.diff import Difference
from migrations.kernels import events, listing
from migrations.kernels.arrays import FINISH, LOG, START
from migrations.kernels.rules import Rules
from migrations.start import copy_layout, initial_state
from migrations.traffic import Traffic

_RECOUNTS: Final = 200  # times in a plan that the load of senders and the room of nodes are counted anew
_REFRESHES: Final = 20  # times that all savings are taken anew, besides those of experts that come or go


@dataclass(frozen=True, slots=True)
class Policy:
    """How a schedule weighs being done early against helping tokens early.

    urgency: a sender counts as scarce, and what it must send goes first, once the copies it is needed for
    take more than this share of the time left until the bound; above 1, only once it is already late.
    by_flow: the sender that an `Allocation` gives to a copy comes before others.
    room: a node counts as short of room while it could take in less than so many of the largest expert it
    waits for; what others must copy from it before it may drop anything then goes first. 0: never.
    bulk: the power of an expert's size by which large ones come earlier than their worth per byte says.
    by_loss: drops come by what they cost alone; otherwise what others still wait for is dropped last.
    patience: a node puts off a copy that saves less than the drop for it costs, as long as all it still
    receives takes less than this share of the time left until the bound. 0: never.
    seed: what copies save and drops cost is drawn at random, instead.
    """

    urgency: float = 0.97
    by_flow: bool = True
    room: float = 3.0
    bulk: float = 0.0
    by_loss: bool = False
    patience: float = 0.0
    seed: int | None = None


class Schedule:
    """Starts copies whenever a receiver and a sender are free; time moves from one end of a copy to the next.

    Receivers take their turn by the seconds of copies they still wait for, longest first. Each takes, of
    what it misses, first what makes room elsewhere and scarce senders' experts, then what saves most per
    byte at that moment, if it has or can make room; from the sender that `allocation` gives the copy before
    others. The kernel decides, and `cluster`, which derives the dependencies, follows its log.
    O(moves * (columns waited for + N)).
    """

    def __init__(
        self,
        change: Difference,
        cluster: Cluster,
        traffic: Traffic,
        allocation: Allocation,
        bound: float,
        policy: Policy,
    ) -> None:
        self.cluster = cluster
        self._state = initial_state(cluster, change, traffic, allocation)
        if policy.seed is not None:
            rng = np.random.default_rng(policy.seed)
            for value in ("gain", "loss"):
                self._state.pairs[value] = rng.random(change.missing.shape)
        every = 1 + int(change.missing.sum()) // _RECOUNTS
        counts = -(-int(change.missing.sum()) // every)
        self._rules = Rules(
            policy.urgency,
            policy.by_flow,
            policy.room,
            policy.bulk,
            policy.by_loss,
            policy.patience,
            bound,
            every,
            max(1, counts // _REFRESHES) if policy.seed is None else 0,
        )
        self._followed = 0
        self._steps: dict[int, int] = {}

    @property
    def _clock(self) -> Any:
        return self._state.clock[0]

    @property
    def idle(self) -> bool:
        return int(self._clock["running"]) == 0

    @property
    def done(self) -> bool:
        return self.idle and not self._state.nodes["waiting"].any()

    @property
    def latency_area(self) -> float:
        """The integral of the latency so far, seconds per second times seconds."""
        return float(self._clock["area"])

    @property
    def now(self) -> float:
        return float(self._clock["seconds"])

    def waiting(self, node: int) -> list[int]:
        """Columns the node still has to receive."""
        return sorted(self._state.pending[node, : self._state.nodes[node]["waiting"]].tolist())

    def run(self) -> None:
        """Go on until nothing runs and nothing can start: either `done`, or stuck for want of room."""
        while True:
            self._reserve()
            source, node, column = listing.run(self._state, self._rules)
            if node < 0:
                return
            if self._make_room_anew(node, column):
                self.start(source, node, column)
            else:
                self._state.failed[node, self._state.columns[column]["kind"]] = 1

    def step(self) -> None:
        """Move time to the next end of a copy and finish all that end then."""
        self._reserve()
        events.step(self._state)

    def drop(self, node: int, column: int) -> None:
        """Drop an expert now."""
        self._reserve()
        events.drop(self._state, node, column)

    def park(self, node: int, column: int) -> None:
        """What is about to be copied to the node stays there until nobody waits for the expert any more."""
        self.cluster.parked.add((node, column))
        self._state.pairs["parked"][node, column] = 1

    def start(self, source: int, node: int, column: int) -> None:
        """Start a copy that has room now."""
        self._reserve()
        events.start(self._state, source, node, column)

    def make_room(self, node: int, column: int) -> bool:
        """Drop what it takes for the expert to fit on the node; False, with nothing dropped, if it can't."""
        self.follow()
        cluster = self.cluster
        size, room = cluster.size[column], cluster.rooms[node]
        if room.device_for(size) is not None:
            return True
        drops = room.drops_for(size, cluster.droppable(node))
        if drops is not None:
            for other in drops:
                self.drop(node, other)
            return True
        return room.several_devices and self._make_room_anew(node, column)

    def lay_out_for(self, node: int, column: int) -> bool:
        """Let the expert fit without any drop, by laying the node's devices out anew where that is needed."""
        self.follow()
        room = self.cluster.rooms[node]
        if room.device_for(self.cluster.size[column]) is not None:
            return True
        return room.several_devices and self._lay_out(node, self.cluster.occupants(node), column)

    def follow(self) -> None:
        """Let the ledger carry out what the kernel has done since the last time."""
        upto = int(self._clock["entries"])
        entries = self._state.log[self._followed : upto].tolist()
        for entry, (kind, source, node, column, moment) in enumerate(entries, self._followed):
            if kind == START:
                self._steps[entry] = self.cluster.start_copy(source, node, column, moment)
            elif kind == FINISH:
                self.cluster.finish_copy(self._steps.pop(source))
            else:
                self.cluster.drop(node, column, moment)
        self._followed = upto

    def _make_room_anew(self, node: int, column: int) -> bool:
        """As `make_room`, with all experts of the node laid out anew over its devices."""
        self.follow()
        cluster = self.cluster
        room, occupants, candidates = cluster.rooms[node], cluster.occupants(node), cluster.droppable(node)

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
        self.follow()
        if not self._lay_out(node, kept, column):
            raise RuntimeError(f"node {node}: a layout that was found is gone")
        return True

    def _lay_out(self, node: int, columns: list[int], extra: int) -> bool:
        room = self.cluster.rooms[node]
        if not room.lay_out(columns, extra):
            return False
        copy_layout(self._state, room, node)
        return True

    def _reserve(self) -> None:
        """Room in the log for whatever can happen until the next call."""
        nodes, clock = self._state.nodes, self._clock
        most = 4 * int(nodes["waiting"].sum() + nodes["spares"].sum() + clock["running"]) + 16
        if int(clock["entries"]) + most > len(self._state.log):
            log = np.zeros(2 * (int(clock["entries"]) + most), LOG)
            log[: len(self._state.log)] = self._state.log
            self._state = self._state._replace(log=log)
