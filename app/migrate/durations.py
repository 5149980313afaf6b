"""How long plans really take, learned from those that were carried out.

The planner counts what links need for the bytes. Orders to nodes, their reports, and nodes that switch their
routes before a copy is dropped take time as well, for a small plan most of it. So a cluster keeps what was
planned and what was taken of its last plans, and expects of the next

    expected = slowdown * transfer_seconds + round_seconds * rounds

where `rounds` are the turns of order and report that have to follow each other. Slowdown and round_seconds
fit the past best, relative to what each plan took; without a past they are 1 and the prior.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Final, cast

import numpy as np
from pydantic import Field
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from scipy import optimize

from app.migration_plans.schemas import PlannedMove
from app.schema import Schema
from app.storage.fenced import fenced
from app.storage.keys import ClusterKeys
from app.storage.lease import Lease
from app.storage.records import read_record, record_json
from migrations.model import MoveKind
from solvers.problem import UInt8

KEPT: Final = 32
"""Plans of a cluster whose durations are kept, the newest."""

PRIOR_WEIGHT: Final = 0.1
"""Of the prior, in plans."""

LEAST_SECONDS: Final = 0.01
"""What was taken in less counts as this long: no clock is better."""

DROP_ROUNDS: Final = 2.0
"""A drop takes a turn to have all nodes route without the copy, and one to be done."""


class PlanDuration(Schema):
    """As stored, of a plan that succeeded without a pause."""

    transfer_seconds: Annotated[float, Field(ge=0)]
    rounds: Annotated[float, Field(ge=0)]
    taken_seconds: Annotated[float, Field(ge=0)]


def prior_round_seconds(tick_seconds: float) -> float:
    """Of a cluster without a past: nodes and worker are told of news at once and look at least every tick, so
    a turn of order and report takes about half of one."""
    return tick_seconds / 2.0


def rounds_of_moves(moves: Iterable[PlannedMove], moves_at_once: int) -> float:
    """Turns of order and report of the longest chain of moves that wait for each other, and of the node with
    most moves, which has `moves_at_once` of them in hand. O(moves and dependencies)."""
    depth: dict[str, float] = {}
    count: Counter[str] = Counter()
    for move in sorted(moves, key=lambda move: (move.start_seconds, move.move_id)):
        turns = DROP_ROUNDS if move.kind is MoveKind.DROP else 1.0
        depth[move.move_id] = turns + max((depth.get(other, 0.0) for other in move.depends_on), default=0.0)
        count[move.destination] += 1
    return max(depth.values(), default=0.0) + max(count.values(), default=0) / moves_at_once


def rounds_of_copies(held: UInt8, holds: UInt8, moves_at_once: int) -> float:
    """The same of a plan that is not made: from uint8[N, E] to uint8[N, E], with one copy after another and
    drops after them."""
    changed = held != holds
    if not changed.any():
        return 0.0
    drops = bool(((held == 1) & (holds == 0)).any())
    copies = bool(((held == 0) & (holds == 1)).any())
    turns = (1.0 if copies else 0.0) + (DROP_ROUNDS if drops else 0.0)
    return turns + float(changed.sum(axis=1).max()) / moves_at_once


class Durations:
    """One cluster's, for as long as one lease lasts."""

    def __init__(self, redis: Redis, keys: ClusterKeys, lease: Lease, *, tick_seconds: float) -> None:
        self._redis = redis
        self._keys = keys
        self._lease = lease
        self._prior = prior_round_seconds(tick_seconds)
        self._fit = (1.0, self._prior)
        self._past: list[PlanDuration] = []

    async def load(self) -> None:
        """Raises `DamagedRecord`; there is no past then."""
        stored = cast("list[bytes]", await self._redis.lrange(self._keys.plan_durations, 0, KEPT - 1))
        self._learn([read_record(PlanDuration, entry, self._keys.plan_durations) for entry in stored])

    def expected(self, transfer_seconds: float, rounds: float) -> float:
        """Seconds from the first order to the last report."""
        slowdown, round_seconds = self._fit
        return slowdown * transfer_seconds + round_seconds * rounds

    async def add(self, duration: PlanDuration) -> None:
        """Learn of a plan that has succeeded."""
        self._learn([duration, *self._past][:KEPT])

        def queue(pipe: Pipeline) -> None:
            pipe.lpush(self._keys.plan_durations, record_json(duration))
            pipe.ltrim(self._keys.plan_durations, 0, KEPT - 1)

        await fenced(self._redis, self._lease, queue)

    def _learn(self, past: list[PlanDuration]) -> None:
        self._past = past
        self._fit = fit(past, self._prior)


def fit(past: Sequence[PlanDuration], prior_round_seconds: float) -> tuple[float, float]:
    """Slowdown and seconds of a round, neither negative: least squares of what is expected over what was
    taken, minus 1. O(plans)."""
    rows = [[PRIOR_WEIGHT, 0.0], [0.0, PRIOR_WEIGHT / prior_round_seconds]]
    goals = [PRIOR_WEIGHT, PRIOR_WEIGHT]
    for plan in past:
        taken = max(plan.taken_seconds, LEAST_SECONDS)
        rows.append([plan.transfer_seconds / taken, plan.rounds / taken])
        goals.append(1.0)
    found, _ = optimize.nnls(np.array(rows), np.array(goals))
    return float(found[0]), float(found[1])
