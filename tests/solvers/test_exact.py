"""The integer programme against enumeration, and its limits."""

import threading
import time

import numpy as np
import pytest

from solvers.algorithms import ALGORITHMS, solve
from solvers.dual.pdhg import lagrangian_bound
from solvers.exact.programme import Programme, TooLarge, programme
from solvers.feasible.violations import shortfalls
from solvers.problem import Coupling
from solvers.result import SolveStatus
from solvers.stopping import never
from solvers.tolerances import OPTIMALITY_TOLERANCE
from solvers.traffic import compile_traffic
from tests.oracles.instances import random_problem
from tests.oracles.placements import feasible_placements, optimum, total_costs

COUPLED = pytest.mark.parametrize("coupling", list(Coupling))


@COUPLED
def test_agrees_with_enumeration(coupling: Coupling) -> None:
    """On hundreds of instances with every feature: infeasible exactly where no placement is feasible, and
    else the optimum, proved, with a bound that no placement is below; without a bound where every placement
    leaves traffic unserved. The ascent, even told to aim at twice the optimum, stays below it."""
    proved = infeasible = 0
    for seed in range(170):
        problem = random_problem(20_000 + seed, coupling)
        best = optimum(problem)
        result = solve(problem, "exact", params={"bound_steps": 0})
        if best is None:
            assert result.status is SolveStatus.INFEASIBLE
            infeasible += 1
            continue
        assert result.objective == pytest.approx(best, rel=1e-7)
        if np.isinf(best):
            assert result.lower_bound is None
            continue
        assert result.lower_bound is not None
        assert result.placement is not None
        assert result.lower_bound <= best * (1 + 1e-12)
        holds, traffic = result.placement.holds, compile_traffic(problem)
        assert lagrangian_bound(problem, traffic, holds, 2 * best, 20, never).bound <= best * (1 + 1e-12)
        assert result.status is SolveStatus.OPTIMAL
        proved += 1
    assert proved > 100
    assert infeasible > 10


@COUPLED
def test_the_programme_is_the_problem(coupling: Coupling) -> None:
    """For any feasible placement, x fixed to it, the programme's value is the placement's cost: not only at
    the optimum. Fixed to an infeasible one, it has no solution."""
    checked = 0
    for seed in range(40):
        problem = random_problem(30_000 + seed, coupling)
        placements = feasible_placements(problem)
        model = programme(problem, compile_traffic(problem), 10_000)
        size = problem.nodes * problem.experts
        if len(placements) == 0 or size == 0:
            continue
        rng = np.random.default_rng(seed)
        for holds in (placements[rng.integers(len(placements))], 1 - placements[0]):
            cost = float(total_costs(problem, holds[None])[0])
            model.lower[:size] = model.upper[:size] = holds.reshape(-1)
            forbidden = shortfalls(problem, holds)
            answer = model.minimise(1.0, 10.0, 0.0)
            if np.isinf(cost):
                assert answer.x is None
            elif not forbidden:
                assert answer.fun + model.constant == pytest.approx(cost, rel=1e-6, abs=1e-9)
                checked += 1
            elif not any("pinned" in line or "must not" in line or "drained" in line for line in forbidden):
                assert answer.x is None  # the rows alone refuse it; pins stood in the bounds just replaced
    assert checked > 20


@COUPLED
def test_bounds_and_solvers_against_larger_optima(coupling: Coupling) -> None:
    """Where enumeration is out of reach: no algorithm is below HiGHS's optimum, no bound above it."""
    proved = 0
    for seed in range(6):
        problem = random_problem(
            seed, coupling, nodes=3, blocks=[6, 5], routes=40, origin="all", extras=False, slack=1.4
        )
        best = solve(problem, "exact", params={"bound_steps": 0})
        if best.status is not SolveStatus.OPTIMAL:
            continue
        proved += 1
        assert best.objective is not None
        for algorithm in ALGORITHMS:
            other = solve(problem, algorithm, params={"bound_steps": 100})
            assert other.objective is not None
            assert other.lower_bound is not None
            assert other.objective >= best.objective * (1 - OPTIMALITY_TOLERANCE)
            assert other.lower_bound <= best.objective * (1 + 1e-9)
    assert proved > 3


def test_a_limit_is_kept_with_a_bound() -> None:
    """Stopped by its limit, HiGHS still gives a bound, and the placement is no worse than that of `sgd`."""
    problem = random_problem(
        4, Coupling.SLOWEST, nodes=4, blocks=[16] * 4, routes=1500, origin="all", extras=False, slack=1.3
    ).replace(min_replicas=1)
    start = solve(problem, "sgd", params={"bound_steps": 0})
    began = time.monotonic()
    result = solve(problem, "exact", time_limit_seconds=3.0, params={"bound_steps": 0})
    assert time.monotonic() - began < 12.0
    assert result.objective is not None
    assert start.objective is not None
    assert result.objective <= start.objective
    assert result.placement is not None
    assert not shortfalls(problem, result.placement.holds)
    assert result.lower_bound is not None
    assert 0 < result.lower_bound <= result.objective


def test_too_large_a_programme_is_not_tried() -> None:
    """Above `variable_limit` the placement of `sgd` comes back, without a claim of optimality."""
    problem = random_problem(4, Coupling.SLOWEST, nodes=3, blocks=[4], origin="all", extras=False, slack=1.5)
    with pytest.raises(TooLarge):
        programme(problem, compile_traffic(problem), 20)
    result = solve(problem, "exact", params={"variable_limit": 20, "bound_steps": 0})
    same = solve(problem, "sgd", params={"bound_steps": 0})
    assert result.placement is not None
    assert same.placement is not None
    assert result.placement.digest == same.placement.digest
    assert (result.status, result.lower_bound) == (SolveStatus.FEASIBLE, None)


def test_an_interrupt_does_not_wait_for_the_programme(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted while HiGHS works, the best placement so far comes back at once; its failures come through
    to the caller."""
    problem = random_problem(4, Coupling.SUM, nodes=3, blocks=[4], origin="all", extras=False, slack=1.5)
    working, release = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        working.set()
        release.wait(20)

    monkeypatch.setattr(Programme, "minimise", hang)
    began = time.monotonic()
    result = solve(problem, "exact", stopping=working.is_set)
    release.set()
    assert time.monotonic() - began < 10
    assert result.status is SolveStatus.TIME_LIMIT
    assert result.placement is not None

    def fail(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(Programme, "minimise", fail)
    with pytest.raises(MemoryError, match="no room"):
        solve(problem, "exact")
