"""What replicas are worth to the repair of a placement."""

import pytest

from solvers.feasible.repair import finite_fallback, replica_worth
from solvers.problem import Coupling, Float64, UInt8
from solvers.traffic import compile_traffic
from tests.oracles.instances import random_holds, random_problem


def _cost(latency: Float64, fallback: Float64, activity: Float64, holds: UInt8, e: int) -> float:
    """Seconds per second of the single calls of expert e, holder by holder."""
    total = 0.0
    for i in range(len(latency)):
        served = [latency[i, n] for n in range(len(latency)) if holds[n, e]]
        total += activity[i, e] * min([fallback[i], *served])
    return total


@pytest.mark.parametrize("seed", range(40))
def test_worth_is_the_difference_of_costs(seed: int) -> None:
    """A replica's benefit and loss are what the cost of single calls changes by when it comes and goes: the
    benefit of those of experts that are short, the loss of those that are held."""
    problem = random_problem(seed, coupling=Coupling.SUM)
    traffic = compile_traffic(problem)
    holds = random_holds(problem, seed)
    wanted = seed % 4
    benefit, loss = replica_worth(problem, traffic, holds, wanted)
    fallback = finite_fallback(problem)
    for n in range(problem.nodes):
        for e in range(problem.experts):
            nobody, only, without, with_it = (holds.copy() for _ in range(4))
            nobody[:, e] = only[:, e] = 0
            only[n, e] = with_it[n, e] = 1
            without[n, e] = 0
            costs = [
                _cost(problem.latency_seconds, fallback, traffic.activity, h, e)
                for h in (nobody, only, without, with_it)
            ]
            short = holds[:, e].sum() < wanted
            gained, lost = short * (costs[0] - costs[1]), holds[n, e] * (costs[2] - costs[3])
            assert benefit[n, e] == pytest.approx(gained, rel=1e-9, abs=1e-9)
            assert loss[n, e] == pytest.approx(lost, rel=1e-9, abs=1e-9)
