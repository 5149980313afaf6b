"""Every way a bound takes to the user is one that a wrong bound is caught on."""

import numpy as np
import numpy.typing as npt
import pytest

from solvers import algorithms as solve_module
from solvers.algorithms import solve
from solvers.confidence import judge
from solvers.dual.relaxation import Relaxation
from solvers.exact.exact import exact
from solvers.multipliers import HostPotentials, Multipliers, Potentials, Reaches
from solvers.params import CertifiedParams, ExactParams
from solvers.placement import Placement
from solvers.problem import Coupling, PlacementProblem, ProblemError
from solvers.result import InvalidBound, SolveStatus, bound_of, gap_ratio
from solvers.search import certified as certified_module
from solvers.search import region as region_module
from solvers.search.region import solve_region
from solvers.stopping import never
from solvers.traffic import compile_traffic
from tests.oracles.instances import random_problem
from tests.oracles.placements import feasible_placements, total_costs


def _best(problem: PlacementProblem) -> float | None:
    placements = feasible_placements(problem)
    return float(total_costs(problem, placements).min()) if len(placements) else None


def test_a_bound_of_sampled_routes_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the search looks at a sample of the routes, the bound is of all of them."""
    monkeypatch.setattr(certified_module, "_MOST_ROUTES", 3)
    known = 0
    for seed in range(40):
        problem = random_problem(seed, Coupling.SLOWEST, nodes=2, blocks=[4], routes=14, extras=False)
        best = _best(problem)
        if best is None or not np.isfinite(best):
            continue
        known += 1
        found = solve(problem, params={"patience": 2, "effort": 1, "bound_steps": 0}, seed=seed)
        assert found.lower_bound is not None
        assert found.objective is not None
        assert found.lower_bound <= best * (1 + 1e-9)
        if found.status is SolveStatus.OPTIMAL:
            assert found.objective <= best * (1 + 2e-6)
    assert known > 20


def test_a_warm_bound_is_of_all_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the search looks at a sample and the climb begins with multipliers of an earlier solve, the
    bound is of all routes at once."""
    monkeypatch.setattr(certified_module, "_MOST_ROUTES", 3)
    known = 0
    for seed in range(30):
        problem = random_problem(seed, Coupling.SLOWEST, nodes=2, blocks=[4], routes=14, extras=False)
        best = _best(problem)
        if best is None or not np.isfinite(best):
            continue
        cold = solve(problem, params={"patience": 1, "effort": 1, "bound_steps": 30}, seed=seed)
        if cold.multipliers is None:
            continue
        known += 1
        warm = solve(
            problem,
            params={"patience": 1, "effort": 1, "bound_steps": 0},
            seed=seed,
            start=cold.placement,
            multipliers=cold.multipliers,
        )
        assert warm.lower_bound is not None
        assert warm.lower_bound <= best * (1 + 1e-9)
    assert known > 15


def test_the_bound_that_areas_give_other_algorithms_is_at_most_the_optimum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A large fleet's bound of an algorithm without one, and of a batch of routes that judges a placement,
    hold for every placement. They are so near to the best that bounds 5 % higher would not."""
    monkeypatch.setattr(region_module, "_MANY_CALLS", 0)
    near = 0
    for seed in range(25):
        problem = random_problem(seed, Coupling.SLOWEST, nodes=2, blocks=[4], origin="all", extras=False)
        best = _best(problem)
        if best is None:
            continue
        found = solve(problem, "local_popularity")
        assert found.placement is not None
        judged = judge(problem, found.placement.holds)
        assert judged is not None
        for bound in (found.lower_bound, judged.lower_bound):
            assert bound is not None
            assert bound <= best * (1 + 1e-9)
            near += bound * 1.05 > best
    assert near >= 6


def test_the_bound_of_a_region_is_at_most_the_optimum() -> None:
    """The bound that the search of large fleets returns holds for every placement, and it is so near to the
    best in some fleets that one 5 % higher would not."""
    near = 0
    for seed in range(25):
        problem = random_problem(seed, Coupling.SLOWEST, nodes=2, blocks=[4], origin="all", extras=False)
        best = _best(problem)
        if best is None:
            continue
        found = solve_region(
            problem,
            compile_traffic(problem),
            CertifiedParams(patience=1, goal_gap=0.0),
            np.random.default_rng(seed),
            None,
            None,
            never,
            lambda _, __: None,
        )
        assert found.bound <= best * (1 + 1e-9)
        near += found.bound * 1.05 > best
    assert near >= 3


def test_the_bound_of_highs_is_lowered_by_its_tolerance() -> None:
    """What `exact` certifies is at most the optimum less most of the margin for HiGHS's tolerances."""
    known = 0
    for seed in range(12):
        problem = random_problem(seed, nodes=2, blocks=[3], origin="all", extras=False)
        best = _best(problem)
        if best is None or best <= 0.0:
            continue
        bounds: list[float] = []
        exact(
            problem,
            compile_traffic(problem),
            ExactParams(),
            np.random.default_rng(0),
            None,
            None,
            never,
            never,
            lambda _, __: None,
            bounds.append,
        )
        known += len(bounds)
        assert all(bound <= best * (1 - 3e-7) for bound in bounds)
    assert known > 5


@pytest.mark.parametrize("excess", [1.001, np.nan])
def test_a_bound_above_the_objective_is_a_fault(excess: float) -> None:
    """It is raised, not hidden by taking the smaller of the two; what rounding makes is not."""
    with pytest.raises(InvalidBound):
        bound_of(5.0 * excess, 5.0)
    with pytest.raises(InvalidBound):
        bound_of(1.0, 0.0)
    assert bound_of(5.0 * (1 + 1e-12), 5.0) == 5.0


def test_solve_raises_where_an_algorithm_certifies_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong bound of an algorithm ends in an error, not in OPTIMAL."""
    problem = random_problem(3, nodes=2, blocks=[3], origin="all", extras=False, slack=2.0)
    right = solve(problem, "exact").objective
    assert right is not None

    algorithm = solve_module.ALGORITHMS["exact"]

    def too_much(task: solve_module.Task) -> npt.NDArray[np.uint8]:
        task.certify(right * 2.0)
        return algorithm.run(task)

    changed = solve_module.Algorithm("exact", algorithm.summary, algorithm.params, too_much, True)
    monkeypatch.setattr(solve_module, "ALGORITHMS", {"exact": changed})
    with pytest.raises(InvalidBound):
        solve(problem, "exact")


@pytest.mark.parametrize("bound", [None, np.nan, np.inf, -np.inf])
def test_a_gap_needs_a_finite_bound(bound: float | None) -> None:
    """Without one there is no gap, so nothing is OPTIMAL."""
    assert gap_ratio(3.0, bound) is None


def test_rounding_grows_with_the_number_of_terms() -> None:
    """Of millions of calls more is taken off the bound than the error that their sum may have."""
    small = random_problem(1, nodes=2, blocks=[3], origin="all", extras=False)
    routes = 100_000
    rng = np.random.default_rng(0)
    experts = rng.permuted(np.tile(np.arange(64), (routes, 1)), axis=1)[:, :8]
    large = PlacementProblem(
        expert_bytes=np.ones(1, np.int64),
        experts_per_block=np.array([64]),
        capacity_bytes=np.full(64, 8),
        latency_seconds=np.ones((64, 64)),
        origin_latency_seconds=np.full(64, 2.0),
        route_node=rng.integers(0, 64, routes).astype(np.int32),
        route_block=np.zeros(routes, np.int32),
        route_experts=experts.astype(np.int32),
        route_rate=np.ones(routes),
    )
    taken = []
    for problem in (small, large):
        nothing = np.zeros((problem.nodes, problem.experts))
        value = Relaxation(problem).value(1.0, nothing, nothing[0])
        taken.append(1.0 - value)
    assert taken[0] == pytest.approx(1e-11, rel=0.01)
    terms = 64 * 64 * 64 + routes * 8
    assert taken[1] >= terms * 2.0**-53


def _multipliers(problem: PlacementProblem) -> Multipliers:
    found = solve(problem, params={"patience": 1, "effort": 1, "bound_steps": 5}).multipliers
    assert isinstance(found, Multipliers)
    return found


@pytest.mark.parametrize(
    ("key", "value"),
    [("replica_price", -1.0), ("replica_price", np.nan), ("replica_price", np.inf), ("held", 7.0)],
)
def test_multipliers_that_are_none_are_refused(key: str, value: float) -> None:
    """A negative price of replicas made a placement 6.5 % above the optimum OPTIMAL."""
    made = _multipliers(random_problem(2, Coupling.SLOWEST, nodes=2, blocks=[4], origin="all", extras=False))
    fields = dict(vars(made))
    wrong = fields[key].copy()
    wrong.reshape(-1)[1] = value
    with pytest.raises(ProblemError, match=rf"{key}\[.*1\]: is"):
        Multipliers(**{**fields, key: wrong})


def test_multipliers_of_another_shape_are_refused() -> None:
    """Prices, placement, steps and parts are checked as they are made."""
    made = _multipliers(random_problem(2, Coupling.SLOWEST, nodes=2, blocks=[4], origin="all", extras=False))
    fields = dict(vars(made))
    for key, value in (
        ("replica_price", made.replica_price[:-1]),
        ("replica_price", made.replica_price[None]),
        ("held", made.held[0]),
        ("step", 0.0),
        ("weight", np.nan),
        ("steps", -1),
    ):
        with pytest.raises(ProblemError, match=key):
            Multipliers(**{**fields, key: value})
    one = np.ones((1, 1), np.float32)
    with pytest.raises(ProblemError, match=r"reach\[0,0\]"):
        Reaches(one * np.nan)
    with pytest.raises(ProblemError, match=r"potential\[0,0,0\]"):
        Potentials(one[None] * np.inf)
    with pytest.raises(ProblemError, match="reach"):
        HostPotentials(one, np.zeros(2, np.uint64), one[0])


def test_multipliers_cannot_change_after_they_were_checked() -> None:
    """They share no memory that somebody can write to."""
    price = np.zeros(4)
    held = np.zeros((2, 4), np.float32)
    made = Multipliers((), price, held, 1.0, 1.0, 0)
    price[0] = -1.0
    held[0] = 9.0
    assert made.replica_price[0] == 0.0
    assert made.held.max() == 0.0
    with pytest.raises(ValueError, match="read-only"):
        made.replica_price[0] = -1.0


def test_a_validated_problem_shares_no_writable_memory() -> None:
    """A read-only view of an array that its owner can write to is copied; frozen arrays are not."""
    problem = random_problem(1, nodes=2, blocks=[3], origin="all", extras=False)
    owner = problem.route_rate.copy()
    view = owner.view()
    view.flags.writeable = False
    deeper = view[:]
    buffer = bytearray(owner.tobytes())
    of_buffer = np.frombuffer(buffer, np.float64)
    of_buffer.flags.writeable = False
    for given in (view, deeper, of_buffer):
        made = problem.replace(route_rate=given)
        assert not np.shares_memory(made.route_rate, given)
    owner[0] = -1.0
    assert problem.replace(coupling=Coupling.SUM).route_rate is problem.route_rate
    of_bytes = np.frombuffer(problem.route_rate.tobytes(), np.float64)
    assert problem.replace(route_rate=of_bytes).route_rate is of_bytes


def test_rates_that_overflow_are_refused_by_name() -> None:
    """Their total was inf, the search hung, and the result was OPTIMAL without a bound."""
    problem = random_problem(1, nodes=2, blocks=[3], origin="all", extras=False)
    rate = problem.route_rate.copy()
    rate[2:4] = 1.7e308
    with pytest.raises(ProblemError, match=r"route_rate\[2\]: is 1.7e\+308, expected rates of at most"):
        problem.replace(route_rate=rate)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("latency_seconds", 1e308),
        ("origin_latency_seconds", 1e308),
        ("ingress_bytes_per_second", 1e-308),
        ("horizon_seconds", 1e-308),
    ],
)
def test_numbers_whose_products_overflow_are_refused_by_name(key: str, value: float) -> None:
    """So are latencies, bandwidths and horizons that a cost overflows with."""
    problem = random_problem(1, nodes=2, blocks=[3], origin="all", extras=False)
    given = value if key == "horizon_seconds" else np.full((2, 2) if key == "latency_seconds" else 2, value)
    with pytest.raises(ProblemError, match=key):
        problem.replace(**{key: given})


def test_more_experts_than_memory_can_hold_are_refused_by_name() -> None:
    """A file of 3 kB that says 2**40 experts is refused, not a MemoryError."""
    problem = random_problem(1, nodes=2, blocks=[3, 2], origin="all", extras=False)
    with pytest.raises(ProblemError, match=r"experts_per_block\[1\]: is 1099511627776, expected at most"):
        problem.replace(expert_bytes=np.array([1, 1]), experts_per_block=np.array([3, 2**40]))


def test_a_warm_start_is_checked_before_it_is_used() -> None:
    """What a solve hands on, the next one takes."""
    problem = random_problem(2, Coupling.SLOWEST, nodes=2, blocks=[4], origin="all", extras=False)
    cold = solve(problem, params={"patience": 1, "effort": 1})
    assert cold.placement is not None
    again = solve(problem, multipliers=cold.multipliers, start=Placement(cold.placement.holds))
    assert again.placement is not None
