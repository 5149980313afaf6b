"""What is found is moved to only when it is needed or pays."""

import dataclasses

import pytest

from app.solve.adoption import decide
from app.solver_process.standing import Standing, worth_it
from app.solver_process.tasks import SolveOutcome, Trial
from solvers.result import SolveResult, SolveStatus

RESULT = SolveResult(None, SolveStatus.FEASIBLE, "sgd", 1.0, None, None, 0.1)


def standing(latency: float, migration: float = 0.0, shortfalls: tuple[str, ...] = ()) -> Standing:
    return Standing(latency, migration, shortfalls)


def outcome(found: Standing | None, in_force: Standing | None, copies: int = 3) -> SolveOutcome:
    return SolveOutcome(RESULT, found, in_force, copies, copies * 1000)


@pytest.mark.parametrize(
    ("latency", "migration", "expected"),
    [(0.5, 0.0, True), (0.97, 0.0, True), (0.985, 0.0, False), (0.5, 49.0, False), (0.5, 45.0, True)],
)
def test_rule_is_that_of_the_problem(latency: float, migration: float, expected: bool) -> None:
    """H J(X) + M < H J(X0) (1 - min_improvement), with H = 100, J(X0) = 1 and 2 %."""
    assert worth_it(standing(latency, migration), standing(1.0), 100.0, 0.02) is expected


def test_turning_round_in_a_migration_must_pay_too() -> None:
    """What is still to be moved for the placement in force counts for it, as it does for the new one."""
    assert worth_it(standing(0.9, 10.0), standing(1.0, 10.0), 100.0, 0.02)
    assert not worth_it(standing(0.9, 20.0), standing(1.0, 10.0), 100.0, 0.02)


def test_unchanged_statistics_move_nothing() -> None:
    """The placement in force found again is not adopted, also with min_improvement 0 and without traffic."""
    for latency in (0.0, 1.0):
        decision = decide(outcome(standing(latency), standing(latency), copies=0), 100.0, 0.0)
        assert not decision.adopt


def test_first_and_broken_placements_need_not_pay() -> None:
    """Nothing in force, or something that breaks a constraint: adopted although latency is worse."""
    assert decide(outcome(standing(5.0, 99.0), None), 10.0, 0.02).adopt
    broken = standing(1.0, 0.0, ("node b (lost) may hold nothing, and holds 4 experts", "other"))
    decision = decide(outcome(standing(5.0, 99.0), broken), 10.0, 0.02)
    assert decision.adopt
    assert "node b (lost) may hold nothing, and holds 4 experts" in decision.detail
    assert "1 more" in decision.detail


def test_infeasible_and_faulty_results_are_never_adopted() -> None:
    """No placement, or one that breaks a constraint, is refused with its reason even when all is broken."""
    broken = standing(1.0, 0.0, ("x",))
    infeasible = dataclasses.replace(
        outcome(None, broken), result=dataclasses.replace(RESULT, shortfall="node memory short by 5 bytes")
    )
    decision = decide(infeasible, 10.0, 0.02)
    assert not decision.adopt
    assert "short by 5 bytes" in decision.detail
    assert not decide(outcome(standing(0.1, 0.0, ("memory",)), broken), 10.0, 0.02).adopt


def test_what_does_not_pay_on_traffic_held_out_is_noise() -> None:
    """What pays on all traffic is adopted only if what was found on one half pays on the other, too; where
    none was held out the whole decides."""
    paying = outcome(standing(0.5), standing(1.0))
    good = dataclasses.replace(paying, trial=Trial(standing(0.8), standing(1.0), 0.7))
    noise = dataclasses.replace(paying, trial=Trial(standing(0.99), standing(1.0), 0.7))
    assert decide(paying, 100.0, 0.02).adopt
    assert decide(good, 100.0, 0.02).adopt
    decision = decide(noise, 100.0, 0.02)
    assert not decision.adopt
    assert "may be noise" in decision.detail
    assert "-1.0% on traffic held out" in decision.detail
