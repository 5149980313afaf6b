"""What happens in the demo and when: settle, measure, swap, measure, settle, measure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from lab.demo.comparison import baseline_placements, mean_latencies, traffic_of
from lab.demo.ledger import Figures, Ledger, figures
from lab.demo.scenario import NODES, SWAPPED
from lab.demo.slices import Slice
from lab.harness.failures import RunFailed
from solvers.placement import Placement

_LOOK_SECONDS = 0.1
_SWITCH_SECONDS = 5.0

# Parts of the time that is left once the service is ready. Settling takes less when the fleet is quick.
_FIRST_SETTLING = 0.45
_MEASURING = 0.11


@dataclass(frozen=True, slots=True)
class Episode:
    """A stretch of time that was measured: what the nodes told of it, and what it says of the baselines."""

    served: Figures
    baselines: Mapping[str, float]
    generation: int | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """`swapped` is None where the service reacted before a single slice was told. Seconds to converge count
    from the registration and from the swap; None: it had not converged when its time was over."""

    before: Episode
    swapped: Episode | None
    after: Episode
    first_convergence_seconds: float | None
    second_convergence_seconds: float | None
    first_moves: int
    second_moves: int
    first_bytes: int
    second_bytes: int
    gap_ratio: float | None
    windows_dropped: int


class Story:
    def __init__(
        self,
        ledger: Ledger,
        switch: Callable[[str, str], Awaitable[None]],
        say: Callable[[str], None],
        *,
        seconds: float,
        quiet_seconds: float,
    ) -> None:
        """`switch(node_id, domain)` has a node go on with another domain; `seconds` are left for everything;
        `quiet_seconds` without a newer generation make a converged fleet a settled one."""
        self._ledger = ledger
        self._switch = switch
        self._say = say
        self._seconds = seconds
        self._quiet = quiet_seconds
        self.domains = {node.node_id: node.domain for node in NODES}
        self.swapped_at: float | None = None

    async def run(self) -> Outcome:
        """From the nodes' start to the last measurement. Raises `RunFailed` when nothing was placed."""
        begun = time.time()
        self._say("nodes replay their domains; the service learns what they activate and places the experts")
        first = await self._settled(0, begun + _FIRST_SETTLING * self._seconds)
        self._say(_settling_words("the fleet", first, begun))
        before_slices = await self._measured()
        before_traffic = traffic_of(before_slices)
        seen = self._ledger.latest
        if seen is None or seen.generation is None:
            raise RunFailed("the service has published no placement")
        placing = asyncio.create_task(asyncio.to_thread(baseline_placements, before_traffic))
        try:
            swapped_slices = await self._swap()
            assert self.swapped_at is not None
            second = await self._settled(seen.generation, begun + (1 - _MEASURING) * self._seconds)
            self._say(_settling_words("after the swap the fleet", second, self.swapped_at))
            after_slices = await self._measured()
            self._say("computing what the other placements would have made of the same tokens")
            known = await placing
        finally:
            placing.cancel()
        last = self._ledger.latest
        assert last is not None
        after_traffic = traffic_of(after_slices)
        known_after = await asyncio.to_thread(baseline_placements, after_traffic)
        return Outcome(
            before=_episode(before_slices, known),
            swapped=_episode(swapped_slices, known) if swapped_slices else None,
            after=_episode(after_slices, known_after),
            first_convergence_seconds=None if first is None else first - begun,
            second_convergence_seconds=None if second is None else second - self.swapped_at,
            first_moves=seen.moves_succeeded,
            second_moves=last.moves_succeeded - seen.moves_succeeded,
            first_bytes=seen.bytes_done,
            second_bytes=last.bytes_done - seen.bytes_done,
            gap_ratio=last.gap_ratio,
            windows_dropped=self._ledger.windows_dropped(),
        )

    async def _settled(self, after_generation: int, deadline: float) -> float | None:
        """Since when the fleet has been converged on a generation newer than the one given, drawn from
        telemetry. Waits until no newer one has come for a while, or for the deadline; None when the fleet is
        not converged then."""
        while True:
            since = self._converged_since(after_generation)
            now = time.time()
            if now >= deadline or (since is not None and now - since >= self._quiet):
                return since
            await asyncio.sleep(_LOOK_SECONDS)

    def _converged_since(self, after_generation: int) -> float | None:
        seen = self._ledger.latest
        if (
            seen is None
            or seen.generation is None
            or seen.generation <= after_generation
            or not seen.from_traffic
            or seen.converged_at is None
        ):
            return None
        # Converged already when the generation came, if it moved nothing: it counts from its own beginning.
        came = next(o.at for o in self._ledger.observations if o.generation == seen.generation)
        return max(seen.converged_at, came)

    async def _measured(self) -> list[Slice]:
        begin = time.time()
        await asyncio.sleep(max(1.0, _MEASURING * self._seconds))
        slices = self._ledger.between(begin, time.time())
        silent = [node.node_id for node in NODES if all(s.node_id != node.node_id for s in slices)]
        if silent:
            raise RunFailed(f"nothing was heard of {', '.join(silent)} for {time.time() - begin:.0f} s")
        return slices

    async def _swap(self) -> list[Slice]:
        """Exchange two nodes' domains; what the fleet told until the service had reacted."""
        one, other = SWAPPED
        self.domains[one], self.domains[other] = self.domains[other], self.domains[one]
        self._say(f"{one} and {other} swap domains: {one} has {self.domains[one]} from now on")
        self.swapped_at = time.time()
        for node_id in SWAPPED:
            await self._switch(node_id, self.domains[node_id])
        begin, heard = await self._switched()
        latest = time.time() + max(1.0, _MEASURING * self._seconds)
        reaction: float | None = None
        while reaction is None and time.time() < latest:
            await asyncio.sleep(_LOOK_SECONDS)
            # what changed before the new domain was heard of was no reaction to it
            reaction = self._ledger.first_change(heard)
        return self._ledger.between(begin, reaction or time.time())

    async def _switched(self) -> tuple[float, float]:
        """When the last of the swapped nodes began with its new domain, and when both had told of it."""
        deadline = time.time() + _SWITCH_SECONDS
        while time.time() < deadline:
            firsts = [
                next((s for s in self._ledger.slices[n] if s.domain == self.domains[n]), None)
                for n in SWAPPED
            ]
            begun = [first for first in firsts if first is not None]
            if len(begun) == len(SWAPPED):
                return max(s.begin for s in begun), max(s.end for s in begun)
            await asyncio.sleep(_LOOK_SECONDS)
        raise RunFailed(f"{' and '.join(SWAPPED)} did not switch within {_SWITCH_SECONDS:.0f} s")


def _episode(slices: list[Slice], placements: Mapping[str, Placement]) -> Episode:
    generations = [s.generation for s in slices if s.generation is not None]
    return Episode(
        figures(slices), mean_latencies(placements, traffic_of(slices)), max(generations, default=None)
    )


def _settling_words(what: str, settled: float | None, begun: float) -> str:
    if settled is None:
        return f"{what} has not converged in its time; measuring as it is"
    return f"{what} converged after {settled - begun:.1f} s; measuring"
