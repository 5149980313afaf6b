"""Traffic of different times as batches that differ in their routes alone."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from app.clusters.schemas import ClusterSettings, OriginSpec
from app.statistics.batches import batch_problems
from app.statistics.fleet import Fleet
from app.statistics.problem import build_problem
from app.statistics.statistics import Statistics, Traffic
from solvers.cost.evaluate import evaluate
from solvers.problem import PlacementProblem
from tests.app.telemetry.cluster import model, node

FLEET = Fleet.of([model("m", {0: 3, 5: 2})], [node("a"), node("b")])
Route = tuple[int, list[int], float]  # block, experts, weight


def traffic(routes: Sequence[Route], rates: Sequence[float] = (4.0, 2.0, 2.0, 1.0, 3.0)) -> Traffic:
    return Traffic(
        "d1",
        3.0,
        np.array(rates),
        np.zeros(5),
        np.array([block for block, _, _ in routes], np.int32),
        np.array([experts for _, experts, _ in routes], np.int32).reshape(-1, 2),
        np.array([weight for *_, weight in routes], np.float64),
        np.zeros(len(routes)),
        1,
        1_800_000_000_000_000,
        np.bincount([block for block, _, _ in routes], minlength=2).astype(np.float64),
    )


def batches(buckets: Sequence[dict[str, Traffic]]) -> tuple[PlacementProblem, ...]:
    counted = {}
    for name in {name for bucket in buckets for name in bucket}:
        rates = np.mean([b[name].activations_per_second for b in buckets if name in b], axis=0)
        counted[name, "m"] = traffic([], rates.tolist())
    made = build_problem(
        FLEET,
        ClusterSettings(origin=OriginSpec(latency_seconds=1.0), min_replicas=0),
        Statistics(counted, None),
        holds=np.zeros(FLEET.shape, np.uint8),
        live=set(FLEET.node_ids),
        statuses={},
    )
    statistics = [Statistics({(name, "m"): one for name, one in b.items()}, None) for b in buckets]
    return batch_problems(made.problem, FLEET, statistics, np.ones(2, np.bool_))


def calls(problem: PlacementProblem) -> list[float]:
    """Per node and layer."""
    cell = problem.route_node * problem.blocks + problem.route_block
    each = problem.route_rate * (problem.route_experts >= 0).sum(axis=1)
    found: list[float] = np.bincount(cell, each, minlength=problem.nodes * problem.blocks).tolist()
    return found


def test_every_batch_makes_the_calls_of_the_problem_with_its_own_routes() -> None:
    """A problem with 12 calls a second in layer 0 and two buckets give two batches of 12, each with the
    routes of its bucket; a layer without any routes has its single calls, the same ones in both."""
    first = {"a": traffic([(0, [0, 1], 2.0)])}
    second = {"a": traffic([(0, [0, 2], 1.0), (0, [1, 2], 3.0)], (8.0, 4.0, 4.0, 1.0, 3.0))}
    one, two = batches([first, second])
    assert calls(one) == pytest.approx([12.0, 4.0, 0.0, 0.0])
    assert calls(two) == pytest.approx([12.0, 4.0, 0.0, 0.0])
    assert one.route_experts.tolist() == [[0, 1], [0, -1], [1, -1]]
    assert two.route_experts.tolist() == [[0, 2], [1, 2], [0, -1], [1, -1]]
    assert two.route_rate.tolist() == pytest.approx([1.5, 4.5, 1.0, 3.0])


def test_a_bucket_without_routes_of_a_layer_joins_the_next() -> None:
    """Of five buckets of which two lack the routes of a node, three batches are made: no batch lacks them."""
    both = {"a": traffic([(0, [0, 1], 1.0)]), "b": traffic([(0, [1, 2], 1.0)])}
    alone = {"a": traffic([(0, [0, 2], 1.0)])}
    made = batches([alone, both, both, both, alone])
    assert [len(batch.route_rate) for batch in made] == [7, 6, 7]
    assert batches([alone, both, alone]) == ()


def test_the_cost_on_a_batch_has_the_true_cost_as_its_expectation() -> None:
    """Over all ways to draw two tokens of known probabilities, the mean cost of a placement is the cost under
    the probabilities, for the coupling in which it is not the sum of calls."""
    pairs, probability = [[0, 1], [0, 2], [1, 2]], [0.5, 0.3, 0.2]
    holds = np.zeros(FLEET.shape, np.uint8)
    holds[0, [0, 2]] = 1
    true = {"a": traffic([(0, pair, p) for pair, p in zip(pairs, probability, strict=True)])}
    expected = evaluate(batches([true, true])[0], holds)
    mean = 0.0
    for drawn in itertools.product(range(3), repeat=2):
        batch = batches([{"a": traffic([(0, pairs[i], 1.0) for i in drawn])}, true])[0]
        mean += probability[drawn[0]] * probability[drawn[1]] * evaluate(batch, holds)
    assert mean == pytest.approx(expected)
