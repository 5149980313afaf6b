"""What a node counts against what it holds, against the others, and against its own past."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from app.statistics.faults import Fault
from app.statistics.fleet import Fleet
from app.statistics.plausibility import Judged, judged
from app.statistics.statistics import Statistics, Traffic
from tests.app.telemetry.cluster import model, node

EXPERTS, LAYERS, SECONDS = 12, 3, 10.0
MODEL = model("moe", dict.fromkeys(range(LAYERS), EXPERTS))
Counts = Callable[[int, int], float]
"""layer, expert -> calls counted"""


def traffic(
    counts: Counts, *, tokens: float | None = None, shown: float = 0.0, routes: Sequence[list[int]] = ()
) -> Traffic:
    """tokens: as many as the counts need where None; shown: calls per second of the middle bucket."""
    counted = np.array([float(counts(layer, e)) for layer in range(LAYERS) for e in range(EXPERTS)])
    rates = counted / SECONDS
    weight = np.ones(len(routes))
    return Traffic(
        "d1",
        rates.sum() / 2 / LAYERS if tokens is None else tokens,
        rates,
        rates / 2,
        np.zeros(len(routes), np.int32),
        np.array(routes, np.int32).reshape(-1, 2),
        weight,
        weight / 2,
        1,
        0,
        np.zeros(LAYERS),
        shown,
        float(counted.sum()),
    )


def found(nodes: Sequence[Traffic], share: float = 0.5, held: Sequence[int] = range(4)) -> Judged:
    """The last node holds `held` of each layer, the others everything."""
    names = [f"n{i}" for i in range(len(nodes))]
    fleet = Fleet.of([MODEL], [node(name) for name in names])
    holds: npt.NDArray[np.uint8] = np.ones(fleet.shape, np.uint8)
    holds[-1] = np.tile(np.isin(np.arange(EXPERTS), held), LAYERS)
    statistics = Statistics({(name, "moe"): one for name, one in zip(names, nodes, strict=True)}, None)
    return judged(fleet, statistics, np.ones(len(nodes), np.bool_), holds, share)


def rates(judgement: Judged) -> list[float]:
    """Calls per second that count, over those of node 0."""
    each = [one.activations_per_second.sum() for one in judgement.statistics.traffic.values()]
    return [float(one / each[0]) for one in each]


HONEST = [traffic(lambda _, e, shift=shift: 40 if (e - shift) % EXPERTS < 4 else 5) for shift in (0, 3, 6)]  # type: ignore[misc]


def of_held(each: float, elsewhere: float = 0.0) -> Traffic:
    return traffic(lambda _, e: each if e < 4 else elsewhere if e == 9 else 0)


def times(factor: float, *, shown: bool) -> Traffic:
    calls = factor * float(HONEST[0].activations_per_second.sum())
    return traffic(lambda _, e: factor * (40 if e < 4 else 5), shown=calls if shown else 0.0)


def test_a_node_with_calls_of_held_experts_alone_is_named_although_its_tokens_agree() -> None:
    """It holds four of twelve experts of each of three layers. All 1,200 calls are of these; most of the
    others' calls are not. Its weight stays, and every node's ratio is 1."""
    judgement = found([*HONEST, of_held(100)])
    [doubt] = judgement.doubts
    assert (doubt.node_id, doubt.fault) == ("n3", Fault.ONLY_HELD)
    assert doubt.ratio == pytest.approx(1.0)
    assert "the other nodes call others too" in doubt.reason
    assert rates(judgement)[3] == pytest.approx(1200 / SECONDS / HONEST[0].activations_per_second.sum())
    assert judgement.counts_ratio == pytest.approx(np.ones(4))


def test_a_skewed_node_that_calls_an_expert_elsewhere_is_not_named() -> None:
    """Nearly all of its calls are of experts that it holds, which is what a placement is for."""
    assert found([*HONEST, of_held(100, elsewhere=1)]).doubts == ()


def test_a_node_with_few_calls_of_held_experts_is_not_named() -> None:
    """All of twelve calls may be of experts held."""
    assert found([*HONEST, of_held(1)]).doubts == ()


def test_a_node_that_holds_most_experts_is_not_named() -> None:
    """Ten of twelve experts held leave little to be called elsewhere."""
    assert found([*HONEST, traffic(lambda _, e: 50 if e < 10 else 0)], held=range(10)).doubts == ()


def test_a_node_whose_routes_name_experts_that_it_never_counts_is_named() -> None:
    """Without other nodes: half of the tokens sampled called an expert that it does not hold."""
    alone = traffic(lambda _, e: 40 if e < 4 else 0, routes=[[0, 1], [0, 7]])
    [doubt] = found([alone]).doubts
    assert doubt.fault == Fault.ONLY_HELD
    assert "50% of its own routes name others" in doubt.reason


def test_a_node_that_reports_no_tokens_with_its_counts_is_named() -> None:
    """There is nothing to compare its counts with, and no ratio."""
    judgement = found([*HONEST, traffic(lambda _, e: 10, tokens=0.0)])
    [doubt] = judgement.doubts
    assert (doubt.node_id, doubt.fault, doubt.ratio) == ("n3", Fault.NO_TOKENS, None)
    assert "reports no tokens" in doubt.reason
    assert np.isnan(judgement.counts_ratio[3])


def test_a_node_that_lies_in_all_of_its_time_buckets_weighs_four_typical_ones_in_a_small_fleet() -> None:
    """Its own past bears it out, and three others together are less than four typical nodes."""
    judgement = found([*HONEST, times(1000, shown=True)], held=range(EXPERTS))
    assert rates(judgement)[3] == pytest.approx(4.0)
    [doubt] = judgement.doubts
    assert doubt.fault == Fault.OUTWEIGHS_FLEET
    assert doubt.ratio == pytest.approx(250.0)
    assert "max_node_share" in doubt.reason


def test_no_node_outweighs_all_others_of_a_larger_fleet() -> None:
    """Beside nine others it weighs as much as they, beside sixty 20 typical nodes."""
    assert rates(found([*HONEST * 3, times(1000, shown=True)]))[9] == pytest.approx(9.0)
    assert rates(found([*HONEST * 20, times(1000, shown=True)]))[60] == pytest.approx(20.0)


def test_an_operator_says_that_one_node_is_truly_that_busy() -> None:
    """With a share of 0.9 it may weigh nine times all others, here what it has shown; with 1 anything that it
    has shown; never what one window says."""
    busy = [*HONEST, times(15, shown=True)]
    assert rates(found(busy, 0.9))[3] == pytest.approx(15.0)
    assert rates(found([*HONEST, times(1000, shown=True)], 1.0))[3] == pytest.approx(1000.0)
    assert rates(found([*HONEST, times(1000, shown=False)], 1.0))[3] == pytest.approx(4.0)


def test_one_of_two_busy_nodes_is_held_against_its_own_past() -> None:
    """A window that says a thousand times what the node showed in its other buckets does not count; a node
    that was always ten times as busy as the other does, and so does one without a past."""
    past = float(HONEST[0].activations_per_second.sum())
    broken = traffic(lambda _, e: 1000 * (40 if e < 4 else 5), shown=past)
    assert rates(found([HONEST[0], broken], held=range(EXPERTS)))[1] == pytest.approx(4.0)
    for shown in (True, False):
        assert found([HONEST[0], times(10, shown=shown)], held=range(EXPERTS)).doubts == ()
