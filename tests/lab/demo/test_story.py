"""The course of the demo, told to it by a scripted fleet."""

import asyncio
import time

import pytest

from lab.demo.ledger import Ledger
from lab.demo.scenario import NODES, SWAPPED
from lab.demo.story import Outcome, Story
from lab.harness.failures import RunFailed
from tests.lab.demo.tellings import seen, told

pytestmark = pytest.mark.anyio


class Fleet:
    """Tells slices of all nodes and observations of the service as time passes. It converges 0.3 s after its
    start, and reacts to a swap after `reaction` with a new generation that converges 0.3 s later."""

    def __init__(self, *, reaction: float = 0.6, silent: str | None = None, converges: bool = True) -> None:
        self.ledger = Ledger()
        self.domains = {node.node_id: node.domain for node in NODES}
        self.words: list[str] = []
        self._reaction = reaction
        self._silent = silent
        self._converges = converges
        self._begun = time.time()
        self._swapped: float | None = None

    async def switch(self, node_id: str, domain: str) -> None:
        self.domains[node_id] = domain
        self._swapped = time.time()

    async def live(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            now = time.time()
            reacted = self._swapped is not None and now >= self._swapped + self._reaction
            generation = 2 if reacted else 1
            start = self._begun if not reacted or self._swapped is None else self._swapped + self._reaction
            converged = start + 0.3 if self._converges and now > start + 0.3 else None
            self.ledger.add_observation(seen(now, generation, converged_at=converged))
            for node in NODES:
                if node.node_id != self._silent:
                    self.ledger.add_slice(
                        told(
                            node.node_id,
                            now - 0.05,
                            seconds=0.05,
                            domain=self.domains[node.node_id],
                            generation=generation,
                            latency_seconds=2.56,
                        )
                    )


async def run(fleet: Fleet, seconds: float = 12.0, quiet_seconds: float = 0.4) -> Outcome:
    story = Story(
        fleet.ledger, fleet.switch, fleet.words.append, seconds=seconds, quiet_seconds=quiet_seconds
    )
    living = asyncio.create_task(fleet.live())
    try:
        return await story.run()
    finally:
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)


async def test_the_course_of_a_fleet_that_converges() -> None:
    """Both convergences are timed from their causes, three episodes are measured, and domains are swapped."""
    fleet = Fleet()
    outcome = await run(fleet)
    assert outcome.first_convergence_seconds == pytest.approx(0.3, abs=0.15)
    assert outcome.second_convergence_seconds == pytest.approx(0.9, abs=0.2)
    assert outcome.swapped is not None
    assert [outcome.before.generation, outcome.swapped.generation, outcome.after.generation] == [1, 1, 2]
    one, other = (next(n for n in NODES if n.node_id == s) for s in SWAPPED)
    assert fleet.domains[one.node_id] == other.domain
    assert fleet.domains[other.node_id] == one.domain
    for episode in (outcome.before, outcome.swapped, outcome.after):
        assert episode.served.mean_latency_seconds == pytest.approx(0.01)
        assert set(episode.baselines) == {"uniform", "local_popularity", "eplb"}


async def test_a_fleet_that_does_not_converge_is_measured_as_it_is() -> None:
    """The waiting ends with its time, the outcome says so, and so do the words."""
    fleet = Fleet(converges=False)
    outcome = await run(fleet, seconds=5.0)
    assert outcome.first_convergence_seconds is None
    assert outcome.second_convergence_seconds is None
    assert any("has not converged" in words for words in fleet.words)


async def test_converged_at_the_deadline_is_converged() -> None:
    """A fleet that never is quiet for long enough, but is converged when the waiting ends, has converged."""
    outcome = await run(Fleet(), seconds=8.0, quiet_seconds=1000.0)
    assert outcome.first_convergence_seconds == pytest.approx(0.3, abs=0.15)
    assert outcome.second_convergence_seconds == pytest.approx(0.9, abs=0.2)


async def test_a_silent_node_ends_the_demo_in_words() -> None:
    """No slices of one node in a whole measurement: the failure names it."""
    with pytest.raises(RunFailed, match="nothing was heard of edge-c"):
        await run(Fleet(silent="edge-c"))
