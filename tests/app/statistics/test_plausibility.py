"""One node's wrong counts are named, and do not outweigh the others'."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from app.clusters.schemas import ClusterSettings, OriginSpec
from app.statistics.fleet import Fleet
from app.statistics.problem import BuiltProblem, build_problem
from app.statistics.statistics import Bucket, Layout, NodeModel, combine
from app.telemetry.packed import VERSION, PackedWindow
from solvers.algorithms import solve
from tests.app.telemetry.cluster import model, node, packed

EXPERTS = 12
MODEL = model("moe", {0: EXPERTS})
SPAN = 150_000_000
START = 12_000_000 * SPAN


def window(node_id: str, at: float, counts: list[int], tokens: int, seconds: float = 10.0) -> PackedWindow:
    end = START + round(at * 1e6)
    return PackedWindow(
        VERSION, node_id, "moe", "d1", 1, end - round(seconds * 1e6), end, tokens, None, 4,
        memoryview(packed(counts, "<u4")), None, [], None, None,
    )  # fmt: skip


def built(
    windows: list[PackedWindow],
    nodes: int = 4,
    holds: npt.NDArray[np.uint8] | None = None,
    names: Sequence[str] = (),
) -> BuiltProblem:
    fleet = Fleet.of([MODEL], [node(name) for name in names or [f"n{i}" for i in range(nodes)]])
    grouped: dict[tuple[NodeModel, int], list[PackedWindow]] = {}
    for one in windows:
        grouped.setdefault(((one.node_id, "moe"), one.end_us // SPAN), []).append(one)
    buckets: dict[NodeModel, list[Bucket]] = {}
    for (name, _), some in grouped.items():
        buckets.setdefault(name, []).append(Bucket.of([(w, 0) for w in some], Layout.of(MODEL), SPAN)[0])
    statistics = combine(buckets, {"moe": MODEL}, ClusterSettings(), max(w.end_us for w in windows))
    return build_problem(
        fleet,
        ClusterSettings(origin=OriginSpec(latency_seconds=0.08), min_replicas=0),
        statistics,
        holds=np.zeros(fleet.shape, np.uint8) if holds is None else holds,
        live=set(fleet.node_ids),
        statuses={},
    )


def calls(found: BuiltProblem) -> list[float]:
    problem = found.problem
    sizes = (problem.route_experts >= 0).sum(axis=1)
    rates = problem.route_rate * sizes
    return [float(rates[problem.route_node == row].sum()) for row in range(problem.nodes)]


def honest(node_id: str, shift: int, at: float = 10.0, times: int = 1) -> PackedWindow:
    counts = [times * (40 if (e - shift) % EXPERTS < 4 else 5) for e in range(EXPERTS)]
    return window(node_id, at, counts, sum(counts) // 2)


BUSY = [*(f"m{i:02}" for i in range(11)), "n3"]
HONEST = [honest("n0", 0), honest("n1", 3), honest("n2", 6)]


def test_a_node_that_counts_eight_times_its_tokens_is_named_and_weighs_once() -> None:
    """Its rates are tokens x top_k, and the ratio seen is told."""
    eight = window("n3", 10, [80] * EXPERTS, 60)
    found = built([*HONEST, eight])
    assert calls(found)[3] == pytest.approx(12.0)
    [doubt] = found.doubts
    assert doubt.node_id == "n3"
    assert doubt.ratio == pytest.approx(8.0)


def test_padding_and_dropping_of_some_percent_stay() -> None:
    """A quarter more or less is the engine's own."""
    for counted in (9, 15):
        found = built([window("n0", 10, [counted] * EXPERTS, 72)], nodes=1)
        assert found.doubts == ()
        assert calls(found)[0] == pytest.approx(counted * EXPERTS / 10)


def test_a_node_that_counts_only_experts_it_holds_is_named() -> None:
    """Calls that others serve are missing from its counts."""
    holds = np.zeros((1, EXPERTS), np.uint8)
    holds[0, :6] = 1
    found = built([window("n0", 10, [10] * 6 + [0] * 6, 50)], nodes=1, holds=holds)
    [doubt] = found.doubts
    assert doubt.ratio == pytest.approx(0.6)
    assert "only experts that it holds" in doubt.reason


def test_a_window_of_a_microsecond_does_not_take_the_memory_of_honest_nodes() -> None:
    """Honest nodes' calls stay, the liar weighs four typical nodes, and most copies stay in place."""
    lie = window("n3", 10, [0] * 10 + [2**32 - 1] * 2, 2**32 - 1, seconds=1e-6)
    found = built([*HONEST, lie])
    before = built(HONEST)
    assert calls(found)[:3] == pytest.approx(calls(before)[:3])
    assert calls(found)[3] == pytest.approx(4 * np.median(calls(before)[:3]))
    assert [doubt.node_id for doubt in found.doubts] == ["n3"]
    rows = []
    for one in (before, found):
        problem = one.problem.replace(
            capacity_bytes=np.full(4, 4000), device_node=None, device_capacity_bytes=None
        )
        placement = solve(problem, seed=0).placement
        assert placement is not None
        rows.append(placement.holds[:3].astype(int))
    assert (rows[0] != rows[1]).any(axis=0).sum() <= 4


def test_a_hot_node_weighs_what_it_has_shown() -> None:
    """Ten times the others in each of three time buckets is believed beside eleven others; in one alone it is
    not yet."""
    others = [honest(f"m{i:02}", i, at) for i in range(11) for at in (10, 160, 310)]
    shown = built(others + [honest("n3", 1, at, 10) for at in (10, 160, 310)], names=BUSY)
    assert shown.doubts == ()
    assert calls(shown)[11] == pytest.approx(10 * calls(shown)[0])
    new = built([*others, honest("n3", 1, 310, 10)], names=BUSY)
    assert calls(new)[11] == pytest.approx(4 * calls(new)[0])


def test_a_fleet_whose_other_nodes_are_idle_is_not_bounded() -> None:
    """Nothing was shown that a single busy node could be compared with."""
    idle = [window(f"n{i}", 10, [0] * EXPERTS, 0) for i in range(3)]
    found = built([*idle, honest("n3", 0, times=1000)])
    assert found.doubts == ()
    assert calls(found)[3] == pytest.approx(20_000.0)
