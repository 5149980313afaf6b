"""The true gap of a placement, with a confidence, from batches of routes."""

import numpy as np
import pytest

from solvers.confidence import GapInterval, gap_interval
from solvers.problem import Coupling, PlacementProblem, ProblemError, UInt8
from tests.oracles.placements import Placements, feasible_placements, total_costs

NODES, EXPERTS, K = 2, 4, 2
PAIRS = np.array([(i, j) for i in range(EXPERTS) for j in range(i)], np.int32)


class TrueTraffic:
    """Tokens of two nodes take pairs of experts with known probabilities, one token a second each."""

    def __init__(self, seed: int, coupling: Coupling) -> None:
        rng = np.random.default_rng(seed)
        self.probability = rng.dirichlet(np.full(len(PAIRS), 0.7), NODES)
        self.fleet = PlacementProblem(
            expert_bytes=np.array([1]),
            experts_per_block=np.array([EXPERTS]),
            capacity_bytes=np.array([2, 2]),
            latency_seconds=np.array([[1.0, 3.0], [4.0, 1.0]]),
            origin_latency_seconds=np.array([9.0, 8.0]),
            route_node=np.repeat(np.arange(NODES, dtype=np.int32), len(PAIRS)),
            route_block=np.zeros(NODES * len(PAIRS), np.int32),
            route_experts=np.tile(PAIRS, (NODES, 1)),
            route_rate=self.probability.reshape(-1),
            coupling=coupling,
            min_replicas=0,
        )

    def batch(self, rng: np.random.Generator, tokens: int) -> PlacementProblem:
        """`tokens` of each node, which make its one token a second together."""
        drawn = [rng.multinomial(tokens, p) for p in self.probability]
        return self.fleet.replace(route_rate=np.concatenate(drawn) / tokens)


def sampled_placement(truth: TrueTraffic, placements: Placements, rng: np.random.Generator) -> UInt8:
    """The best one for six tokens a node, so not the best one in truth."""
    holds: UInt8 = placements[int(np.argmin(total_costs(truth.batch(rng, 6), placements)))]
    return holds


@pytest.mark.parametrize("coupling", list(Coupling))
def test_the_interval_covers_the_true_gap_at_least_as_often_as_it_claims(coupling: Coupling) -> None:
    """Of 100 placements made from few samples of known traffic, at least 90 % have a true gap below the bound
    at 90 %, with the optima of batches by brute force, which are the highest lower bounds there are."""
    covered = 0
    placements = feasible_placements(TrueTraffic(0, coupling).fleet)
    for seed in range(100):
        truth, rng = TrueTraffic(seed, coupling), np.random.default_rng([seed, 1])
        holds = sampled_placement(truth, placements, rng)
        true = total_costs(truth.fleet, placements)
        gap = total_costs(truth.fleet, holds[None])[0] - true.min()
        batches = [total_costs(truth.batch(rng, 48), np.stack([holds, *placements])) for _ in range(6)]
        costs = np.array([cost[0] for cost in batches])
        found = GapInterval(0.9, costs, np.array([cost.min() for cost in batches]))
        covered += bool(gap <= found.gap_upper)
    assert covered >= 90


@pytest.mark.parametrize("coupling", list(Coupling))
def test_batches_prove_no_more_than_their_own_optimum(coupling: Coupling) -> None:
    """Of every batch the lower bound is at most the optimum over all placements, and the cost is the
    placement's. So the interval is at least as wide as with the optima."""
    truth, rng = TrueTraffic(3, coupling), np.random.default_rng(0)
    placements = feasible_placements(truth.fleet)
    batches = [truth.batch(rng, 32) for _ in range(4)]
    holds = sampled_placement(truth, placements, rng)
    found = gap_interval(batches, holds)
    assert found is not None
    for batch, cost, bound in zip(batches, found.costs, found.lower_bounds, strict=True):
        costs = total_costs(batch, placements)
        assert 0 < bound <= costs.min() + 1e-9
        assert cost == pytest.approx(total_costs(batch, holds[None])[0])


def test_the_bound_is_students_t_over_the_batches() -> None:
    """Gaps of 1, 2 and 3 have the mean 2 and the deviation 1, and t(0.95, 2) is 2.919986."""
    found = GapInterval(0.95, np.array([11.0, 12.0, 13.0]), np.array([10.0, 10.0, 10.0]))
    assert (found.batches, found.objective, found.optimum_lower, found.gap) == (3, 12.0, 10.0, 2.0)
    assert found.gap_upper == pytest.approx(2.0 + 2.919986 / np.sqrt(3.0), rel=1e-6)
    assert found.gap_upper_ratio == pytest.approx(found.gap_upper / 12.0)


def test_what_cannot_be_said_is_not_said() -> None:
    """One batch, a confidence of 1 and a placement of another shape are refused by name; traffic that nobody
    serves, and a criterion that stops at once, give no interval."""
    truth, rng = TrueTraffic(0, Coupling.SLOWEST), np.random.default_rng(0)
    batches = [truth.batch(rng, 8) for _ in range(2)]
    holds = np.zeros((NODES, EXPERTS), np.uint8)
    with pytest.raises(ValueError, match="batches: are 1"):
        gap_interval(batches[:1], holds)
    with pytest.raises(ValueError, match=r"confidence: is 1\.0"):
        gap_interval(batches, holds, confidence=1.0)
    with pytest.raises(ProblemError, match="holds: has shape"):
        gap_interval(batches, holds[:1])
    assert gap_interval(batches, holds, stopping=lambda: True) is None
    nowhere = [
        batch.replace(origin_latency_seconds=np.full(NODES, np.inf), min_replicas=1) for batch in batches
    ]
    assert gap_interval(nowhere, holds) is None
