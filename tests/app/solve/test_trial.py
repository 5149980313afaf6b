"""What a placement costs in sample and held out."""

from dataclasses import replace

import numpy as np

from app.solve.adoption import decide
from app.solver_process.tasks import SolveRequest, solve_task, trial_task
from solvers.problem import PlacementProblem

PROBLEM = PlacementProblem(
    expert_bytes=np.array([1]),
    experts_per_block=np.array([3]),
    capacity_bytes=np.array([1]),
    latency_seconds=np.array([[1.0]]),
    origin_latency_seconds=np.array([5.0]),
    route_node=np.zeros(3, np.int32),
    route_block=np.zeros(3, np.int32),
    route_experts=np.array([[0], [1], [2]], np.int32),
    route_rate=np.array([6.0, 4.0, 2.0]),
    min_replicas=0,
)


def test_a_first_placement_says_what_it_costs_held_out() -> None:
    """One half calls expert 0 eight times in twelve, the other expert 1: room for one costs 8 + 4 x 5 = 28 on
    its own half and 2 + 10 x 5 = 52 on the other. A first placement is adopted whatever the trial says."""
    halves = tuple(
        PROBLEM.replace(route_rate=np.array(rates)) for rates in ([8.0, 2.0, 2.0], [2.0, 8.0, 2.0])
    )
    request = SolveRequest(PROBLEM, None, "sgd", {}, 0, 5.0)
    outcome = solve_task(request)
    assert outcome.to_be_tried
    trial = trial_task(request, *halves)
    assert trial is not None
    assert (trial.in_sample, trial.found.latency_cost, trial.in_force) == (28.0, 52.0, None)
    assert decide(replace(outcome, trial=trial), 600.0, 0.02).adopt


def test_a_recovery_does_not_wait_for_a_trial() -> None:
    """Where the placement in force breaks a constraint, nothing is tried before the next one is published."""
    broken = np.ones((1, 3), np.uint8)
    outcome = solve_task(SolveRequest(PROBLEM, broken, "sgd", {}, 0, 5.0))
    assert outcome.in_force is not None
    assert outcome.in_force.shortfalls
    assert not outcome.to_be_tried
