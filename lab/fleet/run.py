"""A run of the fleet, from its first process to its last: learn, compare placements, follow a swap, check."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lab.fleet.lines import Expected, Finished
from lab.fleet.measurement import Agreement, Figures, agreement, figures, time_line
from lab.fleet.members import Members
from lab.fleet.placing import converged, place
from lab.fleet.prediction import Latencies, Traffic, measured_latencies, traffic_of
from lab.fleet.reference import answers_of_whole_model
from lab.fleet.report import Episode, Report, Row, TimeLine
from lab.fleet.scenario import Scenario, imposed_words
from lab.fleet.traffic import Request, Swap, arrivals
from lab.harness.failures import RunFailed
from lab.harness.observation import observe
from solvers.algorithms import solve
from solvers.cost.evaluate import mean_latency_seconds
from solvers.placement import Placement

ALGORITHMS = ("uniform", "local_popularity", "eplb", "prism", "sgd", "certified")

_LEARNING, _MEASURING_CALLS, _MEASURING, _SWAPPING = 1, 2, 3, 4
_SOLVE_SECONDS = 5.0
_STEPS = 20
_SWAP_AT = 1 / 3
"""Part of the time line before the swap, and the part from which on the fleet should have followed."""

_AFTER = 3 / 4
_LATENCY_WAIT_SECONDS = 30.0
_PLACING, _CALM = 2 / 3, 1 / 3
"""Parts of the learning: while the service places, and after that."""


@dataclass(frozen=True)
class Course:
    """What is done, and for how long requests arrive in each part; 0 seconds leave the part out."""

    algorithms: tuple[str, ...] = ALGORITHMS
    learning_seconds: float = 45.0
    measuring_seconds: float = 30.0
    time_line_seconds: float = 120.0


class Run:
    def __init__(self, members: Members, course: Course, say: Callable[[str], None]) -> None:
        self._members = members
        self._scenario: Scenario = members.scenario
        self._course = course
        self._say = say
        self._answered: list[tuple[list[Request], Mapping[int, Finished]]] = []
        self._failed = 0
        self.rows: list[Row] = []
        """Of the algorithms measured so far."""

    async def run(self, directory: Path) -> Report:
        """Raises `RunFailed`."""
        learned = await self._learn()
        placements = await self._solve(learned)
        for name, placement in placements.items():
            self.rows.append(await self._measure(name, placement, learned))
        followed = None
        if self._course.time_line_seconds > 0:
            followed = await self._follow_swap(placements[self._course.algorithms[-1]])
        same = await self._check(directory)
        return Report(
            scenario=self._scenario,
            imposed=imposed_words(self._scenario),
            learned_tokens=round(learned.token_rate * self._course.learning_seconds),
            rows=self.rows,
            time_line=followed,
            agreement=same,
            failed_requests=self._failed,
        )

    async def _learn(self) -> Traffic:
        """Traffic from nothing: all experts at the origin at first, then wherever the service places them.

        Solving and moving share the processors with the nodes here, as they would not elsewhere. So the last
        part of the traffic comes after the fleet has converged: nodes measure their calls while nothing else
        goes on, as it will be when placements are compared.
        """
        placing, calm = _PLACING * self._course.learning_seconds, _CALM * self._course.learning_seconds
        requests = self._requests(_LEARNING, placing)
        self._say(
            f"{len(requests)} requests arrive in {placing:.0f} s; nodes hold nothing yet, the service learns"
        )
        await self._members.configure(automatic=True)
        finished, _ = await self._play(requests)
        await self._members.configure(automatic=False)
        await converged(self._members)
        more = self._requests(_MEASURING_CALLS, calm)
        self._say(f"the placement stays; {len(more)} requests more, of which nodes learn what calls take")
        calmly, _ = await self._play(more)
        first = len(requests)
        together = [*requests, *(msgspec.structs.replace(r, number=r.number + first) for r in more)]
        answered = {**finished, **{number + first: told for number, told in calmly.items()}}
        latencies = await self._latencies()
        return traffic_of(self._scenario, together, answered, latencies, placing + calm)

    async def _latencies(self) -> Latencies:
        deadline = time.monotonic() + _LATENCY_WAIT_SECONDS
        while True:
            told = {node_id: m.pulses[-1].calls for node_id, m in self._members.nodes.items() if m.pulses}
            found = measured_latencies(self._scenario, told)
            if found is not None:
                return found
            if time.monotonic() > deadline:
                raise RunFailed("some node has not measured its latency to every other node")
            await asyncio.sleep(0.5)

    async def _solve(self, learned: Traffic) -> dict[str, Placement]:
        """Every algorithm on the same problem."""
        placements = {}
        for name in self._course.algorithms:
            self._say(
                f"{name} computes a placement from the {len(learned.problem.route_rate)} routes learned"
            )
            result = await asyncio.to_thread(
                solve,
                learned.problem,
                name,
                seed=self._scenario.seed,
                time_limit_seconds=_SOLVE_SECONDS,
            )
            if result.placement is None:
                raise RunFailed(f"{name} found no placement: {result.shortfall}")
            placements[name] = result.placement
        return placements

    async def _measure(self, name: str, placement: Placement, learned: Traffic) -> Row:
        """The same requests for every algorithm; others than those it learned from."""
        self._say(f"{name}: nodes fetch and drop experts")
        placed = await place(self._members, placement)
        requests = self._requests(_MEASURING, self._course.measuring_seconds)
        self._say(
            f"{name}: carried out in {placed.seconds:.1f} s, {placed.bytes_copied / 1e6:.1f} MB copied; "
            f"{len(requests)} requests"
        )
        finished, _ = await self._play(requests)
        latencies = Latencies(learned.problem.latency_seconds, learned.problem.origin_latency_seconds)
        measured = traffic_of(
            self._scenario,
            requests,
            finished,
            latencies,
            self._course.measuring_seconds,
        )
        row = Row(
            algorithm=name,
            predicted_seconds=mean_latency_seconds(learned.problem, placement.holds, learned.token_rate),
            expected_seconds=mean_latency_seconds(measured.problem, placement.holds, measured.token_rate),
            figures=figures(finished.values()),
            settled_seconds=placed.seconds,
            moves=placed.moves,
            bytes_copied=placed.bytes_copied,
        )
        self._say(
            f"{name}: {1e3 * row.figures.token_seconds:.0f} ms per token, of which waiting for experts "
            f"{1e3 * row.figures.expert_seconds:.0f} ms, predicted {1e3 * row.predicted_seconds:.0f} ms"
        )
        return row

    async def _follow_swap(self, placement: Placement) -> TimeLine:
        seconds = self._course.time_line_seconds
        swap = Swap(_SWAP_AT * seconds, self._scenario.swapped)
        requests = self._requests(_SWAPPING, seconds, swap)
        episodes = []
        # Following first: the service must not know the swap from the telemetry of the time before.
        for automatic in (True, False):
            await place(self._members, placement)
            self._say(
                f"{' and '.join(swap.domains)} swap domains after {swap.at_seconds:.0f} s; "
                f"{'the service follows' if automatic else 'the placement stays'}"
            )
            before = await observe(self._members.client)
            await self._members.configure(automatic=automatic)
            finished, begin = await self._play(requests)
            await self._members.configure(automatic=False)
            after = await observe(self._members.client)
            episodes.append(
                Episode(
                    steps=[
                        step
                        for step in time_line(finished.values(), begin, seconds / _STEPS)
                        if step.at_seconds < seconds - 1e-9
                    ],
                    before=self._part(requests, finished, 0.0, swap.at_seconds),
                    after=self._part(requests, finished, _AFTER * seconds, seconds),
                    generations=(after.generation or 0) - (before.generation or 0),
                    bytes_copied=after.bytes_done - before.bytes_done,
                )
            )
        following, staying = episodes
        return TimeLine(
            seconds=seconds,
            swap_seconds=swap.at_seconds,
            step_seconds=seconds / _STEPS,
            after_seconds=_AFTER * seconds,
            swapped=dict(self._scenario.swapped),
            staying=staying,
            following=following,
        )

    def _part(
        self, requests: Sequence[Request], finished: Mapping[int, Finished], low: float, high: float
    ) -> Figures:
        return figures(
            finished[r.number] for r in requests if low <= r.at_seconds < high and r.number in finished
        )

    async def _check(self, directory: Path) -> Agreement:
        """Compare every answer with the whole model's."""
        count = sum(len(finished) for _, finished in self._answered)
        self._say(f"checking {count} answers against the whole model in one process")
        total = Agreement(0, 0, 0, 0.0)
        asked: list[Request] = []
        expected: dict[int, Expected] = {}
        for requests, finished in self._answered:
            if requests != asked:
                asked, expected = requests, await answers_of_whole_model(directory, requests)
            total = total.together(agreement(finished, expected))
        return total

    def _requests(self, part: int, seconds: float, swap: Swap | None = None) -> list[Request]:
        return arrivals(
            self._scenario.domains,
            seed=(self._scenario.seed, part),
            per_second=self._scenario.requests_per_second,
            seconds=seconds,
            swap=swap,
        )

    async def _play(self, requests: list[Request]) -> tuple[Mapping[int, Finished], float]:
        """What has become of the requests, and when they began."""
        begin = await self._members.play(requests)
        await self._members.answered(requests)
        finished = self._members.finished()
        self._failed += len(self._members.failures())
        self._answered.append((requests, finished))
        return finished, begin
