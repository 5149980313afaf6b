"""The problem the service builds is what was registered, reported and measured."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from app.clusters.schemas import ClusterSettings, OriginSpec
from app.nodes.schemas import Device, LatencySpec, NodeRecord, NodeStatusRecord
from app.statistics.fleet import Fleet
from app.statistics.problem import BuiltProblem, build_problem
from app.statistics.statistics import Statistics, Traffic
from tests.app.telemetry.cluster import model, node

MODELS = [model("a", {1: 3, 2: 2}), model("b", {0: 4}, "d2")]


def status(**latency: Any) -> NodeStatusRecord:
    """Only what is measured matters here."""
    record: Any = NodeStatusRecord
    found: NodeStatusRecord = record.model_construct(latency=LatencySpec(**latency))
    return found


def traffic(
    rates: list[float],
    routes: Sequence[tuple[int, list[int], float]] = (),
    *,
    digest: str = "d1",
    even: Sequence[float] = (),
    even_rates: Sequence[float] = (),
) -> Traffic:
    width = max((len(experts) for _, experts, _ in routes), default=1)
    return Traffic(
        digest,
        5.0,
        np.asarray(rates, np.float64),
        np.asarray(even_rates or [0.0] * len(rates), np.float64),
        np.asarray([block for block, _, _ in routes], np.int32),
        np.asarray([[*e, *[-1] * (width - len(e))] for _, e, _ in routes], np.int32).reshape(-1, width),
        np.asarray([weight for *_, weight in routes], np.float64),
        np.asarray(even or [0.0] * len(routes), np.float64),
        1,
        1_800_000_000_000_000,
        np.bincount([block for block, _, _ in routes], minlength=2 if len(rates) == 5 else 1).astype(
            np.float64
        ),
    )


def build(
    nodes: list[NodeRecord] | None = None,
    *,
    settings: ClusterSettings | None = None,
    stats: dict[tuple[str, str], Traffic] | None = None,
    live: set[str] | None = None,
    statuses: dict[str, NodeStatusRecord] | None = None,
    holds: np.ndarray[Any, np.dtype[np.uint8]] | None = None,
) -> BuiltProblem:
    fleet = Fleet.of(MODELS, nodes or [node("n1"), node("n2")])
    return build_problem(
        fleet,
        settings or ClusterSettings(),
        Statistics(stats or {}, None),
        holds=np.zeros(fleet.shape, np.uint8) if holds is None else holds,
        live=set(fleet.node_ids) if live is None else live,
        statuses=statuses or {},
    )


def routes_of(built: BuiltProblem) -> list[tuple[int, int, list[int], float]]:
    p = built.problem
    return [
        (n, b, [e for e in experts if e >= 0], rate)
        for n, b, experts, rate in zip(
            p.route_node.tolist(),
            p.route_block.tolist(),
            p.route_experts.tolist(),
            p.route_rate.tolist(),
            strict=True,
        )
    ]


def test_routes_are_scaled_to_the_counted_rate() -> None:
    """A block's routes activate its experts as often as counted, in their sampled proportions."""
    built = build(stats={("n2", "a"): traffic([4, 3, 1, 0, 6], [(0, [0, 1], 3), (0, [0, 2], 1)])})
    assert routes_of(built) == [
        (1, 0, [0, 1], 3.0),
        (1, 0, [0, 2], 1.0),
        # No routes were sampled of the other layer: routes of one expert, as often as it was activated.
        (1, 1, [1], 6.0),
    ]
    assert built.node_tokens_per_second.tolist() == [0.0, 5.0]
    assert built.tokens_per_second == 5.0


def test_routes_of_several_sizes_keep_the_activations() -> None:
    """Where K differs, the sum of rate times K is what was counted."""
    built = build(stats={("n1", "b"): traffic([9, 3, 0, 0], [(0, [0], 2), (0, [0, 1], 1)], digest="d2")})
    found = routes_of(built)
    assert sum(rate * len(experts) for _, _, experts, rate in found) == pytest.approx(12)
    assert found[0][3] == pytest.approx(2 * found[1][3])
    assert [b for _, b, _, _ in found] == [2, 2]


def test_traffic_of_other_blocks_or_lost_nodes_is_dropped() -> None:
    """A model registered anew has no traffic yet; a lost node raises none; a draining one still does."""
    nodes = [node("n1"), node("n2"), node("n3", draining=True)]
    stats = {
        ("n1", "a"): traffic([1, 0, 0, 0, 0], digest="old"),
        ("n2", "a"): traffic([1, 0, 0, 0, 0]),
        ("n3", "a"): traffic([0, 2, 0, 0, 0]),
    }
    holds = np.ones((3, 9), np.uint8)
    built = build(nodes, stats=stats, live={"n1", "n3"}, holds=holds)
    assert routes_of(built) == [(2, 0, [1], 2.0)]
    assert built.problem.drained is not None
    assert built.problem.drained.tolist() == [0, 1, 1]
    assert built.usable.tolist() == [True, False, False]
    assert built.problem.current is not None
    assert built.problem.current.sum(axis=1).tolist() == [9, 0, 9]


def test_latency_is_measured_or_specified_or_the_default() -> None:
    """Each entry from the best source there is; unknown peers are ignored; directions are kept apart."""
    nodes = [
        node("n1", latency=LatencySpec(local_seconds=0.001, peers_seconds={"n2": 0.02, "gone": 9.0})),
        node("n2", latency=LatencySpec(origin_seconds=0.3)),
        node("n3", latency=LatencySpec(origin_seconds=0.4)),
    ]
    statuses = {
        "n1": status(peers_seconds={"n2": 0.005}),
        "n3": status(local_seconds=0.002, origin_seconds=0.07),
    }
    settings = ClusterSettings(origin=OriginSpec(latency_seconds=0.2), default_latency_seconds=0.01)
    problem = build(nodes, settings=settings, statuses=statuses).problem
    assert problem.latency_seconds.tolist() == [
        [0.001, 0.005, 0.01],
        [0.01, 0.0, 0.01],
        [0.01, 0.01, 0.002],
    ]
    assert problem.origin_latency_seconds.tolist() == [0.2, 0.3, 0.07]
    assert problem.origin_egress_bytes_per_second == 1.25e8


def test_without_an_origin_everything_must_be_held() -> None:
    """Origin latencies are inf, whatever nodes say, and each expert needs a copy."""
    settings = ClusterSettings(min_replicas=0)
    problem = build([node("n1", latency=LatencySpec(origin_seconds=0.3))], settings=settings).problem
    assert np.isinf(problem.origin_latency_seconds).all()
    assert problem.min_replicas == 1
    with_origin = settings.model_copy(update={"origin": OriginSpec()})
    assert build(settings=with_origin).problem.min_replicas == 0


def test_devices_and_links() -> None:
    """A node's capacity is its devices' sum; devices, bandwidths and the horizon go along."""
    devices = [Device(device_id="g0", memory_bytes=3000), Device(device_id="g1", memory_bytes=4000)]
    nodes = [
        node("n1", devices=devices, ingress_bytes_per_second=5.0, egress_bytes_per_second=7.0),
        node("n2"),
    ]
    problem = build(nodes, settings=ClusterSettings(horizon_seconds=99.0)).problem
    assert problem.capacity_bytes.tolist() == [7000, 10_000]
    assert problem.device_node is not None
    assert problem.device_node.tolist() == [0, 0, 1]
    assert problem.device_capacity_bytes is not None
    assert problem.device_capacity_bytes.tolist() == [3000, 4000, 10_000]
    assert problem.ingress_bytes_per_second is not None
    assert problem.ingress_bytes_per_second.tolist() == [5.0, 1.25e8]
    assert problem.egress_bytes_per_second is not None
    assert problem.egress_bytes_per_second.tolist() == [7.0, 1.25e8]
    assert problem.horizon_seconds == 99.0
    assert problem.expert_bytes.tolist() == [1000, 1000, 1000]


def test_many_routes_are_sampled_without_changing_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit a block keeps its share of routes, heavy ones for sure, and the rate counted."""
    monkeypatch.setattr("app.statistics.routes.MAX_ROUTES", 0)
    rng = np.random.default_rng(1)
    routes = [(0, [0, 1], 1000.0)] + [(0, [0, 2], float(w)) for w in rng.random(100)]
    built = build(stats={("n1", "a"): traffic([10, 8, 2, 0, 0], routes)})
    found = routes_of(built)
    assert len(found) == 16
    assert found[0][2] == [0, 1]
    assert sum(rate for *_, rate in found) == pytest.approx(10)


def test_the_same_facts_give_the_same_problem() -> None:
    """Nothing depends on time, on chance or on the order of dictionaries."""
    stats = {("n2", "a"): traffic([1, 1, 0, 0, 0]), ("n1", "a"): traffic([1, 2, 3, 0, 0])}
    one, two = build(stats=stats), build(stats=dict(reversed(stats.items())))
    assert routes_of(one) == routes_of(two)


def test_a_fleet_without_nodes_has_no_problem() -> None:
    """It is said, not left to the solver."""
    with pytest.raises(ValueError, match="no node is registered"):
        build_problem(
            Fleet.of(MODELS, []),
            ClusterSettings(),
            Statistics({}, None),
            holds=np.zeros((0, 9), np.uint8),
            live=set(),
            statuses={},
        )


def test_a_fleet_without_models_has_a_problem() -> None:
    """It has no experts and no routes."""
    fleet = Fleet.of([], [node("n1")])
    built = build_problem(
        fleet,
        ClusterSettings(),
        Statistics({}, None),
        holds=np.zeros((1, 0), np.uint8),
        live={"n1"},
        statuses={},
    )
    assert built.problem.experts == 0


def test_halves_are_the_traffic_of_either_time_at_the_rate_of_all_of_it() -> None:
    """Each half activates every block of every node as often as the whole, by its own counts and routes."""
    parts = traffic(
        [4.0, 2.5, 1.5, 0.0, 0.0],
        [(0, [0, 1], 5.0), (0, [0, 2], 3.0)],
        even=[4.0, 0.0],
        even_rates=[2.0, 2.0, 0.0, 0.0, 0.0],
    )
    built = build(stats={("n1", "a"): parts})
    halves = built.halves()
    assert halves is not None
    whole = (built.problem.route_rate * (built.problem.route_experts >= 0).sum(axis=1)).sum()
    for half in halves:
        calls = (half.route_experts >= 0).sum(axis=1)
        assert (half.route_rate * calls).sum() == pytest.approx(whole)
    even, odd = halves
    assert even.route_experts[:, :2].tolist() == [[0, 1]]
    assert odd.route_rate[1] == pytest.approx(3 * odd.route_rate[0])
    assert odd.route_experts[:, :2].tolist() == [[0, 1], [0, 2]]


def test_there_are_no_halves_while_one_says_too_little() -> None:
    """With all traffic from one half of the time, or hardly any from the other, nothing can be held out."""
    for share in (0.0, 0.1, 0.9, 1.0):
        calls = [2.0, 2.0, 0.0, 0.0, 0.0]
        parts = traffic(
            calls, [(0, [0, 1], 4.0)], even=[4.0 * share], even_rates=[share * rate for rate in calls]
        )
        assert build(stats={("n1", "a"): parts}).halves() is None
