"""Routes of a node that sampled few, completed with those of the fleet."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from app.clusters.schemas import ClusterSettings, OriginSpec
from app.statistics.fleet import Fleet
from app.statistics.problem import build_problem
from app.statistics.shrinkage import shrunk
from app.statistics.statistics import Statistics, Traffic
from solvers.problem import PlacementProblem
from tests.app.statistics.test_batches import FLEET, traffic
from tests.app.telemetry.cluster import model, node

BOTH = np.ones(2, np.bool_)
RATES = (4.0, 2.0, 2.0, 1.0, 3.0)


def of(a: Traffic, b: Traffic) -> Statistics:
    return Statistics({("a", "m"): a, ("b", "m"): b}, None)


def many(pairs: Sequence[tuple[list[int], int]], rates: Sequence[float] = RATES) -> Traffic:
    """Of layer 0: so many sampled tokens of each pair."""
    return traffic([(0, pair, 1.0) for pair, times in pairs for _ in range(times)], rates)


def weights(found: Traffic) -> dict[tuple[int, ...], float]:
    sums: dict[tuple[int, ...], float] = {}
    for experts, weight in zip(found.route_experts.tolist(), found.route_weight.tolist(), strict=True):
        sums[tuple(experts)] = sums.get(tuple(experts), 0.0) + weight
    return sums


def built(statistics: Statistics) -> PlacementProblem:
    return build_problem(
        FLEET,
        ClusterSettings(origin=OriginSpec(latency_seconds=1.0), min_replicas=0),
        statistics,
        holds=np.zeros(FLEET.shape, np.uint8),
        live=set(FLEET.node_ids),
        statuses={},
    ).problem


def test_the_fleet_weighs_as_sixteen_more_samples() -> None:
    """Node a sampled 8 tokens, all of experts 0 and 1; node b, which calls three times as much, 300 of 0 and
    2. The fleet's routes are 1 : 3, and weigh 16 against the 8 of a; b has enough and stays as it is."""
    a, b = many([([0, 1], 8)]), many([([0, 2], 300)], [3 * rate for rate in RATES])
    found = shrunk(FLEET, of(a, b), BOTH)
    assert weights(found.traffic["a", "m"]) == pytest.approx({(0, 1): 8.0 + 4.0, (0, 2): 12.0})
    assert found.traffic["b", "m"] is b


def test_what_is_solved_on_still_makes_the_calls_counted() -> None:
    """With routes of the fleet mixed in, every expert of every node is called as often as it was counted."""
    a = many([([0, 1], 3), ([1, 2], 1)])
    b = many([([0, 2], 40), ([0, 1], 5)], (9.0, 1.0, 8.0, 0.0, 2.0))
    problem = built(of(a, b))
    calls = np.zeros((problem.nodes, problem.experts))
    for row, block, experts, rate in zip(
        problem.route_node, problem.route_block, problem.route_experts, problem.route_rate, strict=True
    ):
        for expert in experts[experts >= 0]:
            calls[row, problem.block_offset[block] + expert] += rate
    np.testing.assert_allclose(calls, [RATES, (9.0, 1.0, 8.0, 0.0, 2.0)], rtol=1e-6, atol=1e-9)


def test_without_a_fleet_or_samples_nothing_changes() -> None:
    """A node alone, a node beside one that sends nothing or has other experts in that model, and a node that
    sends counts alone keep the traffic they have."""
    a, counts = many([([0, 1], 3)]), traffic([])
    alone = Statistics({("a", "m"): a}, None)
    assert shrunk(FLEET, alone, BOTH).traffic["a", "m"] is a
    assert shrunk(FLEET, of(a, many([([0, 2], 9)])), np.array([True, False])).traffic["a", "m"] is a
    assert shrunk(FLEET, of(a, counts), BOTH).traffic["b", "m"] is counts


def test_the_routes_added_are_bounded_and_say_which_time_they_are_from() -> None:
    """However many routes a fleet has, a layer of a node gets no more than a pool of them; and the part that
    is from time buckets of even number, here a quarter, goes with each."""
    fleet = Fleet.of([model("m", {0: 64})], [node("a"), node("b")])
    pairs = np.array([(i, j) for i in range(64) for j in range(i + 1, 64)], np.int32)

    def of_pairs(rows: npt.NDArray[np.int32], weight: float) -> Traffic:
        each = np.full(len(rows), weight)
        calls = np.ones(64)
        return Traffic(
            "d1",
            1.0,
            calls,
            calls / 4,
            np.zeros(len(rows), np.int32),
            rows,
            each,
            each / 4,
            1,
            0,
            np.array([2.0]),
        )

    found = shrunk(fleet, of(of_pairs(pairs[:2], 1.0), of_pairs(pairs, 3.0)), BOTH).traffic["a", "m"]
    assert 2 < len(found.route_weight) <= 2 + 512
    assert found.route_weight.sum() == pytest.approx(2.0 + 16.0)
    np.testing.assert_allclose(found.even_route_weight, found.route_weight / 4)
