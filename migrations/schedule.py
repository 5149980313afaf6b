"""The copies of a plan in time: the list scheduler's kernel on the ledger, step by step where it is stuck."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from migrations.allocation import Allocation
from migrations.dependencies import Layout
from migrations.diff import Difference
from migrations.kernels import drops, events, listing
from migrations.kernels.arrays import LOG, Records, Words
from migrations.kernels.rules import LAY_OUT, STARTED, Rules
from migrations.model import Limits
from migrations.start import initial_state, lay_out
from migrations.traffic import Traffic
from solvers.feasible.packing import pack
from solvers.problem import Bools, Int64, PlacementProblem

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
    strict: a copy waits for the sender that an `Allocation` gives it, and a node keeps what it is to send, as
    long as anything else goes on.
    seed: what copies save and drops cost is drawn at random, instead.
    """

    urgency: float = 0.97
    by_flow: bool = True
    room: float = 3.0
    bulk: float = 0.0
    by_loss: bool = False
    patience: float = 0.0
    strict: bool = False
    seed: int | None = None


class Schedule:
    """Starts copies whenever a receiver and a sender are free; time moves from one end of a copy to the next.

    Receivers take their turn by the seconds of copies they still wait for, longest first. Each takes, of
    what it misses, first what makes room elsewhere and scarce senders' experts, then what saves most per
    byte at that moment, if it has or can make room; from the sender that `allocation` gives the copy before
    others. The kernel decides, and keeps the ledger; `layouts` says when a node's devices were laid out anew.
    O(moves * (columns waited for + holders)).
    """

    def __init__(
        self,
        problem: PlacementProblem,
        change: Difference,
        limits: Limits,
        traffic: Traffic,
        allocation: Allocation,
        bound: float,
        policy: Policy,
    ) -> None:
        self.state = initial_state(problem, change, limits, traffic, allocation)
        self.free = self.state.free.copy()
        """int64[D]: bytes of each device at the start; below 0 where the placement in force exceeds it."""
        self.layouts: list[Layout] = []
        self._problem = problem
        self._relays = change.missing & (change.target.holds == 0)
        self._relayed = self._relays.any(axis=0)
        if policy.seed is not None:
            rng = np.random.default_rng(policy.seed)
            for value in ("gain", "loss"):
                self.state.pairs[value] = rng.random(change.missing.shape)
        every = 1 + int(change.missing.sum()) // _RECOUNTS
        counts = -(-int(change.missing.sum()) // every)
        self._rules = Rules(
            policy.urgency,
            policy.by_flow,
            policy.room,
            policy.bulk,
            policy.by_loss,
            policy.patience,
            policy.strict,
            bound,
            every,
            max(1, counts // _REFRESHES) if policy.seed is None else 0,
        )

    @property
    def _clock(self) -> Any:
        return self.state.clock[0]

    @property
    def idle(self) -> bool:
        return int(self._clock["running"]) == 0

    @property
    def done(self) -> bool:
        return self.idle and not self.state.nodes["waiting"].any()

    @property
    def latency_area(self) -> float:
        """The integral of the latency so far, seconds per second times seconds."""
        return float(self._clock["area"])

    @property
    def now(self) -> float:
        return float(self._clock["seconds"])

    @property
    def log(self) -> Records:
        return self.state.log[: int(self._clock["entries"])]

    # --- what is
    def waiting(self, node: int) -> list[int]:
        """Columns the node still has to receive."""
        return sorted(self.state.pending[node, : self.state.nodes[node]["waiting"]].tolist())

    def serving(self) -> Bools:
        """bool[N, E]: who serves what now."""
        return _matrix(self.state.holders, len(self.state.nodes) - 1)

    def superfluous(self) -> Bools:
        """bool[N, E]: what nodes serve and the target does without."""
        return _matrix(self.state.superfluous, len(self.state.nodes) - 1)

    def missing(self) -> Bools:
        """bool[N, E]: copies that have to start."""
        return _matrix(self.state.missing, len(self.state.nodes) - 1)

    def droppable(self, node: int) -> Int64:
        """The columns the node may drop now on its way to the target, in the order they go."""
        chosen, key, _ = drops.candidates(self.state, self._rules, node, False)
        return np.asarray(chosen[np.lexsort((chosen, key))], np.int64)

    def free_bytes(self, node: int) -> int:
        """Over all devices of the node."""
        first, last = self.state.first_device[node : node + 2].tolist()
        return int(self.state.free[first:last].sum())

    # --- what is done
    def run(self) -> None:
        """Go on until nothing runs and nothing can start: either `done`, or stuck for want of room."""
        while True:
            self._reserve()
            source, node, column = listing.run(self.state, self._rules)
            if node < 0:
                return
            if self._make_room_anew(node, column):
                self.start(source, node, column)
            else:
                self.state.failed[node, self.state.columns[column]["kind"]] = 1

    def step(self) -> None:
        """Move time to the next end of a copy and finish all that end then."""
        self._reserve()
        events.step(self.state)

    def drop(self, node: int, column: int) -> None:
        """Drop an expert now."""
        self._reserve()
        events.drop(self.state, node, column)

    def cancel_relays(self) -> bool:
        """Give up what is only to be passed on, whether it has come or not; whether there was any."""
        found = False
        for column in np.flatnonzero(self._relayed).tolist():
            found = events.cancel_relays(self.state, column) or found
        held = self._relays & self.superfluous() & (self.state.pairs["parked"] == 1)
        self.state.pairs["parked"][held] = 0
        if not found and not held.any():
            return False
        self.state.failed[:] = 0
        return True

    def park(self, node: int, column: int) -> None:
        """What is about to be copied to the node stays there until nobody waits for the expert any more."""
        self.state.pairs["parked"][node, column] = 1

    def start(self, source: int, node: int, column: int) -> None:
        """Start a copy that has room now."""
        self._reserve()
        events.start(self.state, source, node, column)

    def make_room(self, node: int, column: int) -> bool:
        """Drop what it takes for the expert to fit on the node; False, with nothing dropped, if it can't."""
        self._reserve()
        outcome = drops.make_room(self.state, self._rules, node, column, False)
        return outcome == STARTED or (outcome == LAY_OUT and self._make_room_anew(node, column))

    def lay_out_for(self, node: int, column: int) -> bool:
        """Let the expert fit without any drop, by laying the node's devices out anew where that is needed."""
        size = int(self.state.columns[column]["size"])
        if self.state.free[events.roomiest(self.state, node)] >= size:
            return True
        return self._several_devices(node) and self._lay_out(node, self._occupants(node), column)

    def _several_devices(self, node: int) -> bool:
        return bool(self.state.first_device[node + 1] - self.state.first_device[node] > 1)

    def _occupants(self, node: int) -> list[int]:
        """Columns that occupy memory of the node: served or arriving. O(E)."""
        served = self.state.holders[:, node // 64] >> np.uint64(node % 64) & np.uint64(1)
        runs = self.state.runs[: int(self._clock["running"])]
        return sorted({*np.flatnonzero(served).tolist(), *runs["column"][runs["node"] == node].tolist()})

    def _make_room_anew(self, node: int, column: int) -> bool:
        """As `make_room`, with all experts of the node laid out anew over its devices."""
        occupants, candidates = self._occupants(node), self.droppable(node).tolist()

        def left(gone: int) -> list[int]:
            away = set(candidates[:gone])
            return [c for c in occupants if c not in away]

        def fits(gone: int) -> bool:
            return pack(self._problem, node, np.array([*left(gone), column], np.int64)) is not None

        # A set that packs still does without some of its experts, so the fewest drops are found by bisection.
        if not fits(len(candidates)):
            return False
        fewest = bisect.bisect_left(range(len(candidates)), True, key=fits)
        for other in candidates[:fewest]:
            self.drop(node, other)
        if not self._lay_out(node, left(fewest), column):
            raise RuntimeError(f"node {node}: a layout that was found is gone")
        return True

    def _lay_out(self, node: int, columns: list[int], extra: int) -> bool:
        """Place these experts, all the node holds or receives, so that `extra` fits as well."""
        everything = np.array([*columns, extra], np.int64)
        if not lay_out(self._problem, self.state, node, everything):
            return False
        first, last = self.state.first_device[node : node + 2].tolist()
        self.state.free[self.state.pairs["place"][node, extra]] += self.state.columns[extra]["size"]
        free = self.state.free[first:last].tolist()
        self.layouts.append(Layout(int(self._clock["entries"]), node, first, free))
        return True

    def _reserve(self) -> None:
        """Room in the log for whatever can happen until the next call."""
        nodes, clock = self.state.nodes, self._clock
        most = 4 * int(nodes["waiting"].sum() + nodes["spares"].sum() + clock["running"]) + 16
        if int(clock["entries"]) + most > len(self.state.log):
            log = np.zeros(2 * (int(clock["entries"]) + most), LOG)
            log[: len(self.state.log)] = self.state.log
            self.state = self.state._replace(log=log)


def _matrix(sets: Words, nodes: int) -> Bools:
    bits = np.unpackbits(sets.view(np.uint8), axis=1, count=nodes, bitorder="little")
    return bits.T.astype(bool)
