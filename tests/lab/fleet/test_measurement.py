"""What is drawn from the answers of nodes."""

import numpy as np
import pytest

from lab.fleet.lines import CallTimes, Expected
from lab.fleet.measurement import Step, agreement, figures, time_line
from lab.fleet.prediction import Latencies, measured_latencies, traffic_of
from lab.fleet.traffic import Request
from lab.tiny_moe.shape import EXPERTS, LAYERS
from solvers.cost.evaluate import mean_latency_seconds
from tests.lab.fleet.tellings import finished, fleet

NO_ROUTES = np.zeros((0, 6, 2))


def test_figures_are_means_over_tokens() -> None:
    """Two answers of different length: each token counts once, activations are shared out by who served."""
    found = figures([finished(0, NO_ROUTES, [0.1, 0.2], [1, 2]), finished(1, NO_ROUTES, [0.6], [3])])
    assert (found.requests, found.tokens, found.asked_again) == (2, 3, 2)
    assert found.token_seconds == pytest.approx(0.3)
    assert found.expert_seconds == pytest.approx(0.27)
    assert found.local_ratio == pytest.approx(0.5)
    assert found.origin_ratio == pytest.approx(1 / 6)
    assert found.remote_ratio == pytest.approx(0.5)
    assert found.bytes_per_token == pytest.approx(1000)
    with pytest.raises(ValueError, match="has no tokens"):
        figures([])


def test_time_lines_go_by_when_tokens_were_done() -> None:
    """A token belongs to the step in which it was done; steps without any are left out."""
    one = finished(0, NO_ROUTES, [0.1, 0.3, 0.5], [100.5, 101.9, 107.0])
    assert time_line([one], 100.0, 2.0) == [Step(0.0, 2, 0.2), Step(6.0, 1, 0.5)]


def test_agreement_tells_bits_from_tokens() -> None:
    """Other logits cost the bits, other tokens or routes the answer."""
    routes = np.zeros((1, 6, 2))
    told = {number: finished(number, routes, [0.1], [1.0]) for number in range(4)}
    logits = np.zeros(256, "<f4")
    logits[3] = 0.25
    right = {
        0: Expected(0, bytes(1), told[0].logits, told[0].routes),
        1: Expected(1, bytes(1), logits.tobytes(), told[1].routes),
        2: Expected(2, b"x", told[2].logits, told[2].routes),
        3: Expected(3, bytes(1), told[3].logits, b"\1" * 12),
    }
    assert agreement(told, right) == (4, 2, 3, 0.25)


def test_latencies_are_the_means_of_what_calls_took() -> None:
    """In the nodes' order, each row as its node measured; one place that nobody has called yet, and there are
    none."""
    scenario = fleet(2)
    one, other = (node.node_id for node in scenario.nodes)
    calls = {
        one: {one: CallTimes(4, 0.004), other: CallTimes(2, 0.08), "origin": CallTimes(1, 0.2)},
        other: {other: CallTimes(1, 0.002), one: CallTimes(1, 0.05), "origin": CallTimes().with_one(0.3)},
    }
    found = measured_latencies(scenario, calls)
    assert found is not None
    np.testing.assert_allclose(found.nodes, [[0.001, 0.04], [0.05, 0.002]])
    np.testing.assert_allclose(found.origin, [0.2, 0.3])
    del calls[other][one]
    assert measured_latencies(scenario, calls) is None


def test_the_prediction_is_the_slowest_expert_of_each_layer_summed_up() -> None:
    """Against the sum over tokens, layer by layer, as a node would wait."""
    random = np.random.default_rng(5)
    scenario = fleet(3)
    latencies = Latencies(
        np.array([[0.001, 0.02, 0.03], [0.02, 0.001, 0.025], [0.04, 0.02, 0.001]]), np.array([0.1, 0.1, 0.2])
    )
    holds = (random.random((3, LAYERS * EXPERTS)) < 0.3).astype(np.uint8)
    requests, told, waits = [], {}, []
    for number in range(9):
        node = number % 3
        node_id = scenario.nodes[node].node_id
        requests.append(Request(number, node_id, 0.1 * number, "python", 0, 0))
        routes = np.stack(
            [[random.choice(EXPERTS, 2, replace=False) for _ in range(LAYERS)] for _ in range(5)]
        )
        told[number] = finished(number, routes, [0.1] * 5, [1.0] * 5)
        for token in routes:
            waits.append(0.0)
            for layer, chosen in enumerate(token):
                costs = []
                for expert in chosen:
                    holders = np.flatnonzero(holds[:, layer * EXPERTS + expert])
                    costs.append(min([latencies.origin[node], *latencies.nodes[node, holders]]))
                waits[-1] += max(costs)
    traffic = traffic_of(scenario, requests, told, latencies, 20.0)
    assert traffic.token_rate == pytest.approx(45 / 20)
    found = mean_latency_seconds(traffic.problem, holds, traffic.token_rate)
    assert found == pytest.approx(np.mean(waits))
