"""What plans are expected to take."""

import numpy as np
import pytest
from redis.asyncio import Redis

from app.migrate.durations import (
    KEPT,
    Durations,
    PlanDuration,
    fit,
    prior_round_seconds,
    rounds_of_copies,
    rounds_of_moves,
)
from app.migration_plans.schemas import PlannedMove
from app.storage.keys import ClusterKeys
from app.storage.lease import acquire
from migrations.model import MoveKind


def past(*plans: tuple[float, float, float]) -> list[PlanDuration]:
    return [PlanDuration(transfer_seconds=a, rounds=b, taken_seconds=c) for a, b, c in plans]


def test_without_a_past_the_prior_is_expected() -> None:
    """Links as planned, and half a tick of the worker for each turn of order and report."""
    slowdown, round_seconds = fit([], prior_round_seconds(0.5))
    assert (slowdown, round_seconds) == pytest.approx((1.0, 0.25))


@pytest.mark.parametrize(("slowdown", "round_seconds"), [(1.0, 0.02), (1.0, 2.0), (1.7, 0.3), (0.5, 0.05)])
def test_after_some_plans_the_next_is_foretold_within_a_factor_of_two(
    slowdown: float, round_seconds: float
) -> None:
    """Small and large plans whose times scatter by a quarter: both costs are learned from them."""
    generator = np.random.default_rng(1)
    shapes = [(0.008, 3.0), (40.0, 20.0), (0.5, 8.0), (3.0, 4.0), (0.02, 12.0), (8.0, 2.0)]

    def takes(transfer: float, rounds: float) -> float:
        return slowdown * transfer + round_seconds * rounds

    known = past(*((a, b, takes(a, b) * float(generator.uniform(0.8, 1.25))) for a, b in shapes))
    found = fit(known, prior_round_seconds(0.5))
    for transfer, rounds in [(0.008, 3.0), (20.0, 10.0), (1.0, 5.0)]:
        expected = found[0] * transfer + found[1] * rounds
        assert 0.5 <= expected / max(takes(transfer, rounds), 0.01) <= 2.0


def test_one_plan_is_enough_to_learn_from() -> None:
    """7.86 ms for the links, and 5.96 s taken: the next of its kind is expected to take as long."""
    slowdown, round_seconds = fit(past((0.00786, 6.0, 5.96)), prior_round_seconds(0.5))
    assert slowdown * 0.00786 + round_seconds * 6.0 == pytest.approx(5.96, rel=0.15)


def move(move_id: str, destination: str, start: float, *, drop: bool = False, after: str = "") -> PlannedMove:
    return PlannedMove(
        move_id=move_id,
        kind=MoveKind.DROP if drop else MoveKind.COPY,
        model_id="m",
        layer=0,
        expert=0,
        source=None,
        from_origin=not drop,
        destination=destination,
        bytes=1,
        depends_on=[after] if after else [],
        start_seconds=start,
        end_seconds=start + 1,
    )


def test_moves_that_wait_for_each_other_take_turns() -> None:
    """A copy, the drop that waits for it, and the copy that waits for the drop: 1 + 2 + 1 turns, and what
    the busiest node has beyond one handful."""
    chain = [move("a", "x", 0), move("b", "y", 1, drop=True, after="a"), move("c", "y", 2, after="b")]
    assert rounds_of_moves(chain, 4) == 4 + 2 / 4
    side_by_side = [move(f"m{index}", "x", 0) for index in range(8)]
    assert rounds_of_moves(side_by_side, 4) == 1 + 8 / 4
    assert rounds_of_moves([], 4) == 0


def test_turns_of_a_plan_that_is_not_made() -> None:
    """Copies, and drops after them; nothing where nothing moves."""
    held = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], np.uint8)
    assert rounds_of_copies(held, held, 4) == 0
    assert rounds_of_copies(held, np.ones_like(held), 4) == 1 + 2 / 4
    assert rounds_of_copies(held, 1 - held, 4) == 3 + 4 / 4


@pytest.mark.anyio
async def test_the_past_outlives_the_worker_and_is_bounded(redis: Redis) -> None:
    """What one worker learned another expects by; no more than KEPT plans are kept."""
    keys = ClusterKeys("c")
    lease = await acquire(redis, keys, "w", 100.0)
    assert lease is not None
    first = Durations(redis, keys, lease, tick_seconds=0.5)
    for _ in range(KEPT + 3):
        await first.add(past((0.01, 2.0, 4.0))[0])
    assert await redis.llen(keys.plan_durations) == KEPT
    second = Durations(redis, keys, lease, tick_seconds=0.5)
    await second.load()
    assert second.expected(0.01, 2.0) == first.expected(0.01, 2.0) == pytest.approx(4.0, rel=0.05)
