"""Rates that cannot be right, and what the problem takes instead: no node outweighs the others by a fault.

1. Calls against tokens: a layer makes tokens x top_k expert calls. Padding, dropping and replay move that by
   some percent. A node with less than half or more than twice as many counts something else. More than twice
   as many are scaled to tokens x top_k; fewer stay, since they outweigh nobody.
2. A node against the experts that it holds: all of its calls are of these, although its tokens, its own
   routes or the other nodes let expect calls of others. It is named, and its weight stays.
3. A node against the fleet: where two other nodes or more have traffic, a node counts at most `TYPICAL`
   times their median. What it has shown, the median over its own time buckets (three at least), counts up to
   `SHOWN` times that median and up to `max_node_share` of the fleet: a node that is truly hot shows it in
   three buckets, and one that lies in all of them never outweighs all others together. Where one other node
   has traffic, nobody knows which of two is right: a node counts what it has shown, or `TYPICAL` times the
   other.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.statistics.faults import Fault
from app.statistics.fleet import Fleet
from app.statistics.statistics import NodeModel, Statistics, Traffic

LOWEST_RATIO, HIGHEST_RATIO = 0.5, 2.0
TYPICAL = 4.0
SHOWN = 20.0
ALMOST = 0.9
"""With fewer calls than this part of tokens x top_k, all of experts that it holds, a node misses the calls
that others serve."""

EXPECTED_ELSEWHERE = 100.0
"""Calls of experts that it does not hold which a node would make, if it called what the others call. With so
many expected and none counted, chance is no explanation."""

LEAST_ELSEWHERE = 0.1
"""Of the others' calls in a layer: with less of them outside what a node holds, the layer says nothing."""

LEAST_LAYERS = 3
"""That must say so: one layer may be called in one way by one node's requests."""

ROUTES_ELSEWHERE = 0.01
"""Of a node's sampled routes that name experts which it does not hold: with more of them and no such calls
counted, routes and counts are not of the same tokens."""

Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Doubt:
    """ratio: calls counted / (tokens x top_k), None without tokens; of OUTWEIGHS_FLEET calls per second /
    those that the problem takes."""

    node_id: str
    model_id: str
    fault: Fault
    ratio: float | None
    reason: str


@dataclass(frozen=True, eq=False)
class Judged:
    """counts_ratio float64[N]: calls counted / (tokens x top_k) over all models of a node; nan without."""

    statistics: Statistics
    doubts: tuple[Doubt, ...]
    counts_ratio: Float64


@dataclass(frozen=True, eq=False)
class _Seen:
    """One model at one node. held bool[E], calls float64[B]; ratio: as of `Doubt`."""

    row: int
    name: NodeModel
    model: int
    traffic: Traffic
    held: Bools
    calls: Float64
    expected: float

    @property
    def ratio(self) -> float | None:
        return float(self.calls.sum()) / self.expected if self.expected > 0 else None


def judged(
    fleet: Fleet,
    statistics: Statistics,
    alive: Bools,
    holds: npt.NDArray[np.uint8],
    max_node_share: float = 0.5,
) -> Judged:
    """The statistics as the problem takes them, and the nodes that it does not take at their word.

    holds uint8[N, E]; max_node_share: as of the cluster's settings. O(N E + R K).
    """
    traffic: dict[NodeModel, Traffic] = dict(statistics.traffic)
    seen = _seen(fleet, statistics, alive, holds)
    doubts = [doubt for one in seen if (doubt := _doubt_of_tokens(one)) is not None]
    doubts += _doubts_of_holdings(fleet, seen)
    calls, shown = np.zeros(len(fleet.nodes)), np.zeros(len(fleet.nodes))
    for one in seen:
        if one.ratio is not None and one.ratio > HIGHEST_RATIO:
            traffic[one.name] = _scaled(one.traffic, 1 / one.ratio)
        calls[one.row] += traffic[one.name].activations_per_second.sum()
        shown[one.row] += traffic[one.name].shown_calls_per_second
    allowed = _allowed(calls, shown, max_node_share)
    for one in seen:
        if calls[one.row] > allowed[one.row] * (1 + 1e-9):
            factor = float(allowed[one.row] / calls[one.row])
            found = _scaled(traffic[one.name], factor)
            traffic[one.name] = dataclasses.replace(found, tokens_per_second=found.tokens_per_second * factor)
            doubts.append(_too_heavy(one, calls[one.row], allowed[one.row], shown[one.row]))
    return Judged(Statistics(traffic, statistics.until_us), tuple(doubts), _ratios(fleet, seen))


def _seen(fleet: Fleet, statistics: Statistics, alive: Bools, holds: npt.NDArray[np.uint8]) -> list[_Seen]:
    found = []
    spans = [tuple(fleet.model_block_offset[i : i + 2].tolist()) for i in range(len(fleet.models))]
    for row in np.flatnonzero(alive).tolist():
        for index, (start, end) in enumerate(spans):
            name = (fleet.node_ids[row], fleet.model_ids[index])
            traffic = statistics.traffic.get(name)
            if traffic is None or traffic.digest != fleet.models[index].digest:
                continue
            first, last = fleet.block_offset[start], fleet.block_offset[end]
            calls = _per_block(traffic.activations_per_second, fleet.block_offset[start : end + 1] - first)
            expected = float(traffic.tokens_per_second * fleet.top_k[start:end][calls > 0].sum())
            held = holds[row, first:last] > 0
            found.append(_Seen(row, name, index, traffic, held, calls, expected))
    return found


def _per_block(values: Float64, offset: npt.NDArray[np.int64]) -> Float64:
    """float64[B]: sums of float64[E]; offset int64[B + 1]."""
    block = np.repeat(np.arange(len(offset) - 1), np.diff(offset))
    sums: Float64 = np.bincount(block, values, minlength=len(offset) - 1).astype(np.float64)
    return sums


def _ratios(fleet: Fleet, seen: list[_Seen]) -> Float64:
    counted, expected = np.zeros(len(fleet.nodes)), np.zeros(len(fleet.nodes))
    for one in seen:
        counted[one.row] += one.calls.sum() if one.expected > 0 else 0.0
        expected[one.row] += one.expected
    ratios: Float64 = np.divide(counted, expected, out=np.full(len(counted), np.nan), where=expected > 0)
    return ratios


def _doubt_of_tokens(one: _Seen) -> Doubt | None:
    node_id, model_id = one.name
    if one.ratio is None:
        if not one.calls.any():
            return None
        said = f"node {node_id} counts calls of experts of {model_id} and reports no tokens"
        return Doubt(node_id, model_id, Fault.NO_TOKENS, None, said)
    said = f"node {node_id} counts {one.ratio:.3g} times tokens x top_k of {model_id}"
    if one.ratio > HIGHEST_RATIO:
        return Doubt(node_id, model_id, Fault.MORE_THAN_TOKENS, one.ratio, said)
    if one.ratio < LOWEST_RATIO and not _only_held(one):
        return Doubt(node_id, model_id, Fault.FEWER_THAN_TOKENS, one.ratio, said)
    return None


def _only_held(one: _Seen) -> bool:
    called = one.traffic.activations_per_second > 0
    return bool(called.any() and one.held[called].all() and not one.held.all())


def _doubts_of_holdings(fleet: Fleet, seen: list[_Seen]) -> list[Doubt]:
    """Nodes whose counts are of experts that they hold alone, where something says that they cannot be."""
    suspects = [one for one in seen if _only_held(one)]
    totals: dict[int, Float64] = {}
    for model in {one.model for one in suspects}:
        totals[model] = np.sum(
            [one.traffic.activations_per_second for one in seen if one.model == model], axis=0
        )
    doubts = []
    for one in suspects:
        start, end = fleet.model_block_offset[one.model : one.model + 2].tolist()
        offset = fleet.block_offset[start : end + 1] - fleet.block_offset[start]
        others = np.maximum(totals[one.model] - one.traffic.activations_per_second, 0.0)
        words = []
        if one.ratio is not None and one.ratio < ALMOST:
            words.append("the calls that others serve are missing")
        elsewhere = _routes_elsewhere(one, offset)
        if elsewhere >= ROUTES_ELSEWHERE:
            words.append(f"{elsewhere:.0%} of its own routes name others")
        if _others_say_otherwise(one, others, offset):
            words.append("the other nodes call others too")
        if words:
            much = "calls" if one.ratio is None else f"{one.ratio:.3g} times tokens x top_k"
            said = (
                f"node {one.name[0]} counts {much} of {one.name[1]}, and only experts that it holds: "
                f"{', '.join(words)}"
            )
            doubts.append(Doubt(*one.name, Fault.ONLY_HELD, one.ratio, said))
    return doubts


def _routes_elsewhere(one: _Seen, offset: npt.NDArray[np.int64]) -> float:
    """The part of its routes, by weight, that name an expert which it does not hold."""
    experts, weight = one.traffic.route_experts, one.traffic.route_weight
    total = float(weight.sum())
    if total <= 0:
        return 0.0
    columns = offset[one.traffic.route_block][:, None] + np.maximum(experts, 0)
    outside = ((experts >= 0) & ~one.held[columns]).any(axis=1)
    return float(weight[outside].sum()) / total


def _others_say_otherwise(one: _Seen, others: Float64, offset: npt.NDArray[np.int64]) -> bool:
    """Whether it would have counted calls of experts that it does not hold, if it called what others call.

    others float64[E]: their calls per second. Only layers of which it holds at most half count.
    """
    whole = _per_block(others, offset)
    outside = _per_block(np.where(one.held, 0.0, others), offset)
    share = np.divide(outside, whole, out=np.zeros(len(whole)), where=whole > 0)
    minority = 2 * _per_block(one.held.astype(np.float64), offset) <= np.diff(offset)
    telling = minority & (one.calls > 0) & (share >= LEAST_ELSEWHERE)
    if telling.sum() < min(LEAST_LAYERS, len(one.calls)) or not one.calls.sum() > 0:
        return False
    counted = one.traffic.counted_calls * one.calls / one.calls.sum()
    return bool((counted * share)[telling].sum() >= EXPECTED_ELSEWHERE)


def _too_heavy(one: _Seen, calls: float, allowed: float, shown: float) -> Doubt:
    why = (
        "more than its other time buckets and the other nodes have shown"
        if shown < calls
        else "more than the other nodes bear out (max_node_share)"
    )
    return Doubt(
        *one.name,
        Fault.OUTWEIGHS_FLEET,
        float(calls / allowed),
        f"node {one.name[0]} counts {calls:.3g} expert calls per second, which counts as {allowed:.3g}: "
        f"{why}",
    )


def _scaled(traffic: Traffic, factor: float) -> Traffic:
    return dataclasses.replace(
        traffic,
        activations_per_second=traffic.activations_per_second * factor,
        even_activations_per_second=traffic.even_activations_per_second * factor,
        shown_calls_per_second=traffic.shown_calls_per_second * factor,
    )


def _allowed(calls: Float64, shown: Float64, max_node_share: float) -> Float64:
    """float64[N]: the most that counts of each node's calls; inf where no other has any."""
    allowed = np.full(len(calls), np.inf)
    active = np.flatnonzero(calls > 0)
    for row in active.tolist():
        others = calls[active[active != row]]
        if len(others) >= 2:
            typical = float(np.median(others))
            proven = float(shown[row])
            if max_node_share < 1:
                share = max_node_share / (1 - max_node_share) * float(others.sum())
                proven = min(proven, SHOWN * typical, share)
            allowed[row] = max(TYPICAL * typical, proven)
        elif len(others) == 1 and shown[row] > 0:
            allowed[row] = max(TYPICAL * float(others[0]), float(shown[row]))
    return allowed


def by_node(doubts: tuple[Doubt, ...]) -> Mapping[str, list[Doubt]]:
    """node_id -> what is doubted of it."""
    found: dict[str, list[Doubt]] = {}
    for doubt in doubts:
        found.setdefault(doubt.node_id, []).append(doubt)
    return found
