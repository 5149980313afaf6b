"""Where tokens find their experts under an assignment."""

import numpy as np
import pytest

from moeplace_agent.holdings import ExpertKey, Holdings
from moeplace_agent.routing import LOCAL, RoutingTable
from tests.agent.assignments import FAR, ORIGIN, PEER, assignment


def holding(*experts: int) -> Holdings:
    holdings = Holdings({"a": 100})
    for expert in experts:
        key = ExpertKey("m", 0, expert)
        holdings.reserve(key, 1, None)
        holdings.complete(key)
    return holdings


def test_routes_come_best_first_and_held_experts_are_local() -> None:
    """A routed expert has its places in the order given; one without a route is served at home."""
    table = RoutingTable(assignment({1: [1, 0]}, FAR, PEER))
    holdings = holding(0)
    assert table.where(holdings, "m", 0, 1) == (PEER, FAR)
    assert table.where(holdings, "m", 0, 0) == (LOCAL,)


def test_a_withdrawn_copy_is_not_used_though_still_held() -> None:
    """Switch before evicting: the table sends calls elsewhere, and says that eviction is safe."""
    table = RoutingTable(assignment({0: [0]}, PEER))
    assert table.where(holding(0), "m", 0, 0) == (PEER,)
    assert table.served_elsewhere(ExpertKey("m", 0, 0))
    assert not table.served_elsewhere(ExpertKey("m", 0, 1))


def test_the_origin_serves_what_nobody_else_does() -> None:
    """Without route and copy the origin is called; without an origin there is no place."""
    assert RoutingTable(assignment({}, PEER, ORIGIN)).where(holding(), "m", 0, 5) == (ORIGIN,)
    assert RoutingTable(assignment({}, PEER)).where(holding(), "m", 0, 5) == ()


def test_a_model_is_asked_by_layer_and_expert() -> None:
    """The view of one model agrees with the table, and groups what tokens activate by the place to call."""
    table = RoutingTable(assignment({1: [1, 0], 2: [1], 3: [0]}, FAR, PEER))
    routes = table.of_model(holding(0), "m")
    assert routes.where(0, 1) == (PEER, FAR)
    assert routes.where(0, 0) == (LOCAL,)
    assert routes.where(7, 0) == ()
    activated = np.array([[2, 0], [1, 3], [2, -1], [5, 1]])
    assert routes.by_place(0, activated.reshape(-1)) == {LOCAL: [0], PEER: [1, 2], FAR: [3], None: [5]}


def test_a_layer_as_arrays() -> None:
    """Seconds and locality of each expert of a layer agree with `where`."""
    table = RoutingTable(assignment({1: [0], 2: [1]}, PEER, ORIGIN))
    seconds, local = table.calls_of_layer(holding(0), "m", 0, 4, 0.001)
    assert seconds.tolist() == [0.001, 0.003, 0.03, 0.03]
    assert local.tolist() == [True, False, False, False]
    nobody, _ = RoutingTable(assignment({})).calls_of_layer(holding(), "m", 0, 1, 0.001)
    assert np.isinf(nobody).all()


def test_routes_to_nowhere_are_refused() -> None:
    """A table that names a target it does not have cannot be applied."""
    with pytest.raises(ValueError, match=r"route of m/0/3: names a target outside 0\.\.0"):
        RoutingTable(assignment({3: [1]}, PEER))
