"""What nodes measure is what the solvers' evaluator says of the same placement and tokens."""

import numpy as np
import pytest

from lab.demo.comparison import baseline_placements, mean_latencies, traffic_of
from lab.demo.costs import call_cost
from lab.demo.scenario import DEVICE_ID, MODEL_ID, NODES, ORIGIN_SECONDS, PEER_SECONDS
from lab.tiny_moe.shape import EXPERT_BYTES, EXPERTS, LAYERS
from lab.tiny_moe.traces import requests
from moeplace_agent.holdings import ExpertKey, Holdings
from moeplace_agent.messages import Assignment, LayerRoutes, Metadata, RouteTarget, TargetKind
from moeplace_agent.routing import RoutingTable
from solvers.feasible.violations import shortfalls
from solvers.problem import UInt8
from tests.lab.demo.tellings import told


def node_state(holds: UInt8, node: int) -> tuple[RoutingTable, Holdings]:
    """What node number `node` holds and how it routes when the fleet holds `holds`."""
    holdings = Holdings({DEVICE_ID: NODES[node].memory_bytes})
    targets = [
        RouteTarget(TargetKind.NODE, n.node_id, None, PEER_SECONDS[node][i]) for i, n in enumerate(NODES)
    ]
    targets.append(RouteTarget(TargetKind.ORIGIN, None, None, ORIGIN_SECONDS))
    layers = []
    for layer in range(LAYERS):
        routed: dict[int, list[int]] = {}
        for expert in range(EXPERTS):
            column = layer * EXPERTS + expert
            if holds[node, column]:
                holdings.reserve(ExpertKey(MODEL_ID, layer, expert), EXPERT_BYTES, None)
                holdings.complete(ExpertKey(MODEL_ID, layer, expert))
            else:
                holders = [i for i in range(len(NODES)) if holds[i, column]]
                routed[expert] = [*sorted(holders, key=lambda i: PEER_SECONDS[node][i]), len(NODES)]
        layers.append(LayerRoutes(MODEL_ID, layer, list(routed), list(routed.values())))
    assignment = Assignment(Metadata("u", 1, "d"), NODES[node].node_id, [], targets, layers)
    return RoutingTable(assignment), holdings


def test_measured_and_evaluated_latency_agree() -> None:
    """For every baseline's placement: the tokens' latency added up at the nodes, slice by slice, is the mean
    that the evaluator computes from the routes' rates."""
    slices = [
        told(node.node_id, 100.0 + step, domain=node.domain, requests=[5 * step, 5 * step + 3])
        for node in NODES
        for step in range(4)
    ]
    traffic = traffic_of(slices)
    placements = baseline_placements(traffic)
    expected = mean_latencies(placements, traffic)
    for name, placement in placements.items():
        total = 0.0
        for index, node in enumerate(NODES):
            table, holdings = node_state(placement.holds, index)
            for one in slices:
                if one.node_id == node.node_id:
                    total += call_cost(requests(one.domain)[one.requests], table, holdings).latency_seconds
        assert total / sum(s.tokens for s in slices) == pytest.approx(expected[name], rel=1e-9)


def test_baselines_keep_the_rules_of_the_fleet() -> None:
    """Each fits the nodes' memory and covers every expert; token rates are those of the slices."""
    slices = [told(node.node_id, 100.0, seconds=2.0, domain=node.domain) for node in NODES]
    traffic = traffic_of(slices)
    assert traffic.token_rate == pytest.approx(4 * 256 / 2.0)
    assert traffic.problem.route_rate.sum() == pytest.approx(traffic.token_rate * LAYERS)
    for placement in baseline_placements(traffic).values():
        assert shortfalls(traffic.problem, placement.holds) == ()


def test_without_a_routing_table_the_origin_serves() -> None:
    """A node that has been told nothing calls the origin for every expert."""
    routes = requests("c")[:1]
    found = call_cost(routes, None, Holdings({DEVICE_ID: 0}))
    assert found.latency_seconds == pytest.approx(256 * LAYERS * ORIGIN_SECONDS)
    assert (found.local, found.activations) == (0, 256 * LAYERS * 2)


def test_no_traffic_is_no_problem_instance() -> None:
    """Comparing on nothing is refused rather than answered with zeros."""
    with pytest.raises(ValueError, match="slices: is empty"):
        traffic_of([])
    assert np.isfinite(traffic_of([told("edge-a", 0.0)]).token_rate)
