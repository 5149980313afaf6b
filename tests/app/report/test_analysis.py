"""What the analysis says is what the evaluator says, added up."""

import numpy as np
import pytest

from app.solver_process.tasks import analysis_task
from solvers.cost.evaluate import evaluate
from solvers.problem import Coupling, PlacementProblem


def problem(seed: int) -> PlacementProblem:
    generator = np.random.default_rng(seed)
    nodes, blocks, experts, routes = 4, 2, 6, 60
    latency = generator.integers(1, 9, (nodes, nodes)) / 100
    np.fill_diagonal(latency, 0.001)
    return PlacementProblem(
        expert_bytes=np.full(blocks, 10),
        experts_per_block=np.full(blocks, experts),
        capacity_bytes=np.full(nodes, 1000),
        latency_seconds=latency,
        origin_latency_seconds=np.full(nodes, 0.05),
        route_node=generator.integers(0, nodes, routes).astype(np.int32),
        route_block=generator.integers(0, blocks, routes).astype(np.int32),
        route_experts=np.stack([generator.permutation(experts)[:2] for _ in range(routes)]).astype(np.int32),
        route_rate=generator.random(routes),
        coupling=Coupling.SLOWEST,
    )


@pytest.mark.parametrize("seed", range(5))
def test_calls_and_served_equal_a_naive_count(seed: int) -> None:
    """Each call lands on its nearest holder, or on the origin where that is nearer: counted one by one."""
    made = problem(seed)
    held = (np.random.default_rng(seed + 100).random((4, 12)) < 0.4).astype(np.uint8)
    outcome = analysis_task(made, held, None)
    calls = np.zeros((4, 12))
    served = np.zeros(4)
    for route in range(made.routes):
        row = int(made.route_node[route])
        for expert in made.route_experts[route].tolist():
            column = int(made.block_offset[made.route_block[route]]) + expert
            calls[row, column] += made.route_rate[route]
            holders = [(made.latency_seconds[row, m], m) for m in range(4) if held[m, column]]
            if holders and min(holders)[0] <= made.origin_latency_seconds[row]:
                served[min(holders)[1]] += made.route_rate[route]
    np.testing.assert_allclose(outcome.calls, calls)
    np.testing.assert_allclose(outcome.served, served)
    assert outcome.objective == evaluate(made, held)
    assert outcome.desired_objective is None
