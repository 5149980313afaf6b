"""The evaluator against its naive twin, and what must not change it."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.cost.coupling import FORMS
from solvers.cost.evaluate import (
    breakdown,
    evaluate,
    mean_latency_seconds,
    migration_cost,
    route_latencies,
    serving_costs,
    total_cost,
)
from solvers.kernels.evaluation import route_latency
from solvers.problem import Coupling, PlacementProblem, ProblemError
from tests.oracles.instances import random_holds, random_problem
from tests.oracles.placements import migration_costs, objectives, total_costs

SEEDS = st.integers(0, 2**32)


@given(SEEDS, st.sampled_from(Coupling))
@settings(max_examples=300)
def test_equals_the_definition(seed: int, coupling: Coupling) -> None:
    """J and M agree with the formulas evaluated literally, with and without origins, also where they are
    infinite."""
    problem = random_problem(seed, coupling, nodes=4, blocks=[5, 3], routes=12)
    holds = random_holds(problem, seed)
    expected = objectives(problem, holds[None])[0]
    assert evaluate(problem, holds) == pytest.approx(expected, rel=1e-12)
    assert migration_cost(problem, holds) == pytest.approx(
        migration_costs(problem, holds[None])[0], rel=1e-12
    )
    assert total_cost(problem, holds) == pytest.approx(total_costs(problem, holds[None])[0], rel=1e-12)


@given(SEEDS, st.sampled_from(Coupling))
@settings(max_examples=100)
def test_does_not_depend_on_the_order_of_things(seed: int, coupling: Coupling) -> None:
    """Renumbering nodes, experts and routes, and the experts within a route, leaves J where it was."""
    problem = random_problem(seed, coupling, nodes=3, blocks=[4, 4], routes=10, extras=False)
    holds = random_holds(problem, seed)
    rng = np.random.default_rng(seed)
    node = rng.permutation(3)  # new node i is old node node[i]
    new_node = np.argsort(node)
    expert = [rng.permutation(4), rng.permutation(4)]
    new_expert = np.stack([np.argsort(order) for order in expert])
    route = rng.permutation(problem.routes)
    block = problem.route_block[route]
    old = problem.route_experts[route]
    experts = np.where(old >= 0, new_expert[block[:, None], old], -1)[:, ::-1]
    other = problem.replace(
        capacity_bytes=problem.capacity_bytes[node],
        latency_seconds=problem.latency_seconds[np.ix_(node, node)],
        origin_latency_seconds=problem.origin_latency_seconds[node],
        route_node=new_node[problem.route_node[route]],
        route_block=block,
        route_experts=experts,
        route_rate=problem.route_rate[route],
    )
    columns = np.concatenate((expert[0], 4 + expert[1]))
    assert evaluate(other, holds[node][:, columns]) == pytest.approx(evaluate(problem, holds), rel=1e-12)


@given(SEEDS)
@settings(max_examples=50)
def test_couplings_agree_on_single_experts(seed: int) -> None:
    """With one expert per route the three couplings are one function."""
    problem = random_problem(seed, nodes=3, blocks=[4], routes=8)
    single = np.full_like(problem.route_experts, -1)
    single[:, 0] = problem.route_experts[:, 0]
    values = {
        evaluate(problem.replace(route_experts=single, coupling=coupling), random_holds(problem, seed))
        for coupling in Coupling
    }
    assert len(values) == 1


def test_a_known_case_under_each_coupling() -> None:
    """Two experts on different nodes, by hand: 1 + 4, the 4 alone, and no host so the origin's 7."""
    problem = PlacementProblem(
        expert_bytes=np.array([1]),
        experts_per_block=np.array([2]),
        capacity_bytes=np.array([1, 1]),
        latency_seconds=np.array([[1.0, 4.0], [4.0, 1.0]]),
        origin_latency_seconds=np.array([7.0, 7.0]),
        route_node=np.array([0], np.int32),
        route_block=np.array([0], np.int32),
        route_experts=np.array([[0, 1]], np.int32),
        route_rate=np.array([2.0]),
    )
    apart = np.eye(2, dtype=np.uint8)
    found = {coupling: evaluate(problem.replace(coupling=coupling), apart) for coupling in Coupling}
    assert found == {Coupling.SUM: 10.0, Coupling.SLOWEST: 8.0, Coupling.COLOCATED: 14.0}
    alone = problem.replace(coupling="colocated", origin_latency_seconds=np.full(2, np.inf))
    assert evaluate(alone, apart) == 10.0  # no host and no origin: single calls
    assert mean_latency_seconds(problem, apart, 4.0) == 2.0
    assert mean_latency_seconds(problem, apart, 0.0) == 0.0
    assert serving_costs(problem, apart).tolist() == [[1.0, 4.0], [4.0, 1.0]]
    assert route_latencies(problem, apart).tolist() == [4.0]


def test_every_coupling_has_a_form_of_its_own() -> None:
    """No coupling is left out of the table, and the codes of kernels tell them apart."""
    assert set(FORMS) == set(Coupling)
    assert len({form.code for form in FORMS.values()}) == len(Coupling)
    assert np.isnan(route_latency(max(form.code for form in FORMS.values()) + 1, 1.0, 1.0, 1.0, 1.0))


def test_colocated_without_an_origin_is_the_cheaper_of_host_and_single_calls() -> None:
    """A host farther than the single calls together is not taken: 1 + 4, not the 9 of the far host; a host
    at 3 is. With an origin no single calls are made."""
    problem = PlacementProblem(
        expert_bytes=np.array([1]),
        experts_per_block=np.array([2]),
        capacity_bytes=np.array([2, 2, 2]),
        latency_seconds=np.array([[1.0, 4.0, 9.0], [4.0, 1.0, 9.0], [9.0, 9.0, 1.0]]),
        origin_latency_seconds=np.full(3, np.inf),
        route_node=np.array([0], np.int32),
        route_block=np.array([0], np.int32),
        route_experts=np.array([[0, 1]], np.int32),
        route_rate=np.array([1.0]),
        coupling=Coupling.COLOCATED,
    )
    apart = np.array([[1, 0], [0, 1], [0, 0]], np.uint8)
    far_host = np.array([[1, 0], [0, 1], [1, 1]], np.uint8)
    assert [evaluate(problem, apart), evaluate(problem, far_host)] == [5.0, 5.0]
    nearer = problem.latency_seconds.copy()
    nearer[0, 2] = 3.0
    assert evaluate(problem.replace(latency_seconds=nearer), far_host) == 3.0
    assert evaluate(problem.replace(origin_latency_seconds=np.full(3, 20.0)), far_host) == 9.0


@given(SEEDS, st.sampled_from(Coupling), st.sampled_from(["all", "some", "none"]))
@settings(max_examples=150)
def test_one_more_replica_never_raises_the_cost(seed: int, coupling: Coupling, origin: str) -> None:
    """J of a placement with any one replica more is at most J without it, with and without origins, where
    some nodes cannot reach others, and where traffic cannot be served. A far host of a whole route raised it
    under `colocated`."""
    problem = random_problem(seed, coupling, nodes=3, blocks=[4], routes=6, origin=origin)
    holds = random_holds(problem, seed)
    before = evaluate(problem, holds)
    for n, e in np.argwhere(holds == 0).tolist():
        more = holds.copy()
        more[n, e] = 1
        assert evaluate(problem, more) <= before * (1 + 1e-12)


def test_zero_rates_count_nothing_even_where_nobody_can_serve() -> None:
    """0 * inf is 0 here, and a positive rate that nobody serves is inf."""
    problem = random_problem(1, Coupling.SLOWEST, nodes=2, blocks=[2], origin="none", extras=False)
    nothing = np.zeros((2, 2), np.uint8)
    assert evaluate(problem.replace(route_rate=np.zeros(problem.routes)), nothing) == 0.0
    assert evaluate(problem, nothing) == np.inf


@given(SEEDS, st.sampled_from(Coupling))
@settings(max_examples=50)
def test_breakdown_adds_up(seed: int, coupling: Coupling) -> None:
    """Shares of a cell with traffic sum to one, and rate times latency over all cells is J."""
    problem = random_problem(seed, coupling, nodes=3, blocks=[3, 2], origin="all")
    holds = random_holds(problem, seed)
    parts = breakdown(problem, holds)
    shares = parts.local_hit_ratio + parts.remote_ratio + parts.origin_ratio + parts.unserved_ratio
    np.testing.assert_allclose(shares[parts.rate > 0], 1.0)
    assert not shares[parts.rate == 0].any()
    assert (parts.rate * parts.latency_seconds).sum() == pytest.approx(evaluate(problem, holds), rel=1e-9)
    everywhere = breakdown(problem, np.ones_like(holds))
    assert (everywhere.local_hit_ratio[everywhere.rate > 0] == 1.0).all()


def test_breakdown_tells_who_serves() -> None:
    """One call each is served by the node, by a peer, by the origin (where there is one) and by nobody."""
    problem = PlacementProblem(
        expert_bytes=np.array([1]),
        experts_per_block=np.array([3]),
        capacity_bytes=np.array([1, 1]),
        latency_seconds=np.array([[1.0, 4.0], [4.0, 1.0]]),
        origin_latency_seconds=np.array([np.inf, np.inf]),
        route_node=np.array([0], np.int32),
        route_block=np.array([0], np.int32),
        route_experts=np.array([[0, 1, 2]], np.int32),
        route_rate=np.array([2.0]),
    )
    holds = np.array([[1, 0, 0], [0, 1, 0]], np.uint8)
    alone = breakdown(problem, holds)
    shares = (alone.local_hit_ratio, alone.remote_ratio, alone.origin_ratio, alone.unserved_ratio)
    assert [share[0, 0] for share in shares] == pytest.approx([1 / 3, 1 / 3, 0.0, 1 / 3])
    assert alone.latency_seconds[0, 0] == np.inf
    backed = breakdown(problem.replace(origin_latency_seconds=np.full(2, 7.0)), holds)
    shares = (backed.local_hit_ratio, backed.remote_ratio, backed.origin_ratio, backed.unserved_ratio)
    assert [share[0, 0] for share in shares] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0.0])
    assert backed.rate[0, 0] == 2.0


def test_survives_pickling() -> None:
    """A problem sent to another process is the same problem, read-only as before."""
    problem = random_problem(3, Coupling.SUM)
    copy = pickle.loads(pickle.dumps(problem))
    holds = random_holds(problem, 3)
    assert evaluate(copy, holds) == evaluate(problem, holds)
    assert not copy.route_rate.flags.writeable
    assert not copy.column_bytes.flags.writeable


def test_refuses_another_shape() -> None:
    """A placement of another shape is named as such."""
    problem = random_problem(3, Coupling.SUM, nodes=2, blocks=[3])
    with pytest.raises(ProblemError, match=r"holds: has shape \(3, 2\), expected \(2, 3\)"):
        evaluate(problem, np.zeros((3, 2), np.uint8))
