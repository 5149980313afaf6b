from __future__ import annotations

import numpy as np
import pytest

from migrations.diff import difference
from migrations.model import MoveKind, Plan
from migrations.planner import plan
from migrations.value import holding_gain, move_values
from solvers.objective import evaluate
from solvers.problem import Coupling, PlacementProblem, UInt8
from tests.migrations.instances import Change, random_change


def _change(seed: int, coupling: Coupling) -> Change:
    """Six nodes whose traffic falls on few experts, by pairs, differently at each node."""
    rng = np.random.default_rng(seed)
    made = random_change(
        rng, nodes=6, blocks=6, experts=16, copies=1.5, fill=1.0, origin=False, min_replicas=1,
        equal_sizes=True,
    )  # fmt: skip
    assert made is not None
    routes = 6 * 6 * 30
    popular = 1.0 / (1 + np.argsort(rng.random((6, 6, 16)), axis=2)) ** 1.3
    node, block = np.divmod(np.arange(routes) // 30, 6)
    experts = np.array(
        [
            rng.choice(16, 2, replace=False, p=popular[n, b] / popular[n, b].sum())
            for n, b in zip(node, block, strict=True)
        ]
    )
    problem = made.problem.replace(
        route_node=node,
        route_block=block,
        route_experts=experts,
        route_rate=np.ones(routes),
        coupling=coupling,
    )
    return Change(problem, made.source, made.target)


def test_the_gain_of_a_holding_is_what_the_objective_loses() -> None:
    """Under `sum` the gain of one more holding is exactly the fall of the objective."""
    change = _change(1, Coupling.SUM)
    gain = holding_gain(change.problem, change.source)
    before = evaluate(change.problem, change.source)
    for n, e in np.argwhere(change.source == 0)[::37]:
        more = change.source.copy()
        more[n, e] = 1
        assert gain[n, e] == pytest.approx(before - evaluate(change.problem, more), abs=1e-9)


@pytest.mark.parametrize("coupling", list(Coupling))
def test_tokens_wait_less_on_the_way_than_in_a_random_order(coupling: Coupling) -> None:
    """Ordered by what it is worth, the latency in excess of the target's, summed over the time of the
    migration, is well below that of the same moves in plans whose values are random."""
    change = _change(2, coupling)
    ordered = _excess(change, plan(change.problem, change.source, change.target))
    rng = np.random.default_rng(0)
    shuffled = []
    for _ in range(3):
        # The same cluster with the traffic of other nodes: its plan knows nothing of the real one.
        other = change.problem.replace(route_node=rng.integers(6, size=change.problem.routes, dtype=np.int32))
        blind = other.replace(route_experts=rng.permutation(other.route_experts))
        shuffled.append(_excess(change, plan(blind, change.source, change.target)))
    assert ordered < 0.85 * float(np.mean(shuffled))


def test_whole_blocks_come_first_where_halves_are_worth_nothing() -> None:
    """Under `colocated`, where all routes need a whole block, a node receives block after block."""
    blocks, experts = 3, 4
    problem = PlacementProblem(
        expert_bytes=np.full(blocks, 10),
        experts_per_block=np.full(blocks, experts),
        capacity_bytes=np.array([200, 200]),
        latency_seconds=np.array([[0.001, 0.1], [0.1, 0.001]]),
        origin_latency_seconds=np.full(2, np.inf),
        route_node=np.ones(blocks, np.int32),
        route_block=np.arange(blocks, dtype=np.int32),
        route_experts=np.tile(np.arange(experts, dtype=np.int32), (blocks, 1)),
        route_rate=np.array([1.0, 3.0, 2.0]),
        coupling=Coupling.COLOCATED,
    )
    source = np.zeros((2, blocks * experts), np.uint8)
    source[0] = 1
    made = plan(problem, source, np.ones_like(source))
    assert [move.block for move in made.moves] == [1] * 4 + [2] * 4 + [0] * 4


def test_values_are_finite_and_reach_every_move() -> None:
    """Values have the shape of the problem and are finite, unserved experts and idle clusters included."""
    change = _change(3, Coupling.SLOWEST)
    lost: UInt8 = change.source.copy()
    lost[:, 0] = 0
    for problem in (change.problem, change.problem.replace(route_rate=np.zeros(change.problem.routes))):
        for values in move_values(problem, difference(problem, lost, change.target)):
            assert values.shape == change.source.shape
            assert np.isfinite(values).all()


def _excess(change: Change, made: Plan) -> float:
    """The area between the objective while the plan runs, and the target's."""
    problem, holds, now, area = change.problem, change.source.copy(), 0.0, 0.0
    final = evaluate(problem, change.target)
    for move in sorted(made.moves, key=lambda move: move.end_seconds):
        if move.end_seconds > now:
            area += (evaluate(problem, holds) - final) * (move.end_seconds - now)
            now = move.end_seconds
        column = int(problem.block_offset[move.block]) + move.expert
        holds[move.destination, column] = move.kind is MoveKind.COPY
    return area
