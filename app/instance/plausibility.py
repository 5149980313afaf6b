"""Rates that cannot be right, and what the problem takes instead: no node outweighs the others by a fault.

1. Calls against tokens: a layer makes tokens x top_k expert calls. Padding, dropping and replay move that by
   some percent. A node with less than half or more than twice as many counts something else. More than twice
   as many are scaled to tokens x top_k; fewer stay, since they outweigh nobody.
2. A node against the fleet: where two other nodes or more have traffic, a node counts at most `TYPICAL`
   times their median. What it has shown, the median over its own time buckets (three at least), counts up to
   `SHOWN` times that median: a node that is truly hot shows it in three buckets, one broken window does not.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.instance.fleet import Fleet
from app.instance.statistics import NodeModel, Statistics, Traffic

LOWEST_RATIO, HIGHEST_RATIO = 0.5, 2.0
TYPICAL = 4.0
SHOWN = 20.0
ALMOST = 0.9
"""With fewer calls than this part of tokens x top_k, all of experts that it holds, a node misses the calls
that others serve."""


@dataclass(frozen=True)
class Doubt:
    """ratio: calls counted / (tokens x top_k), or calls per second / those that the problem takes."""

    node_id: str
    model_id: str
    ratio: float
    reason: str


@dataclass(frozen=True, eq=False)
class Judged:
    statistics: Statistics
    doubts: tuple[Doubt, ...]


def judged(
    fleet: Fleet, statistics: Statistics, alive: npt.NDArray[np.bool_], holds: npt.NDArray[np.uint8]
) -> Judged:
    """The statistics as the problem takes them, and the nodes that it does not take at their word. O(N E)."""
    doubts: list[Doubt] = []
    traffic: dict[NodeModel, Traffic] = dict(statistics.traffic)
    calls = np.zeros(len(fleet.nodes))
    shown = np.zeros(len(fleet.nodes))
    known = []
    for row in np.flatnonzero(alive).tolist():
        for index, model_id in enumerate(fleet.model_ids):
            name = (fleet.node_ids[row], model_id)
            found = traffic.get(name)
            if found is None or found.digest != fleet.models[index].digest:
                continue
            start, end = fleet.model_block_offset[index : index + 2].tolist()
            columns = slice(int(fleet.block_offset[start]), int(fleet.block_offset[end]))
            ratio = _ratio(found, fleet, start, end)
            doubt = _doubt_of_counts(name, found, ratio, holds[row, columns])
            if doubt is not None:
                doubts.append(doubt)
            if ratio is not None and ratio > HIGHEST_RATIO:
                found = traffic[name] = _scaled(found, 1 / ratio)
            calls[row] += found.activations_per_second.sum()
            shown[row] += found.shown_calls_per_second
            known.append((row, name))
    allowed = _allowed(calls, shown)
    for row, name in known:
        if calls[row] > allowed[row]:
            factor = float(allowed[row] / calls[row])
            found = _scaled(traffic[name], factor)
            traffic[name] = dataclasses.replace(found, tokens_per_second=found.tokens_per_second * factor)
            doubts.append(
                Doubt(
                    *name,
                    1 / factor,
                    f"node {name[0]} counts {calls[row]:.3g} expert calls per second, which counts as "
                    f"{allowed[row]:.3g}: more than its other time buckets and the other nodes have shown",
                )
            )
    return Judged(Statistics(traffic, statistics.until_us), tuple(doubts))


def _ratio(traffic: Traffic, fleet: Fleet, start: int, end: int) -> float | None:
    """Calls counted / (tokens x top_k), over the blocks that have calls; None where tokens are not known."""
    experts = fleet.experts_per_block[start:end]
    blocks = np.bincount(
        np.repeat(np.arange(end - start), experts), traffic.activations_per_second, minlength=end - start
    )
    expected = float(traffic.tokens_per_second * fleet.top_k[start:end][blocks > 0].sum())
    return float(blocks.sum()) / expected if expected > 0 else None


def _doubt_of_counts(
    name: NodeModel, traffic: Traffic, ratio: float | None, held: npt.NDArray[np.uint8]
) -> Doubt | None:
    if ratio is None:
        return None
    said = f"node {name[0]} counts {ratio:.3g} times tokens x top_k of {name[1]}"
    called = traffic.activations_per_second > 0
    if ratio < ALMOST and called.any() and held[called].all() and not held.all():
        return Doubt(*name, ratio, f"{said}, and only experts that it holds")
    if not LOWEST_RATIO <= ratio <= HIGHEST_RATIO:
        return Doubt(*name, ratio, said)
    return None


def _scaled(traffic: Traffic, factor: float) -> Traffic:
    return dataclasses.replace(
        traffic,
        activations_per_second=traffic.activations_per_second * factor,
        even_activations_per_second=traffic.even_activations_per_second * factor,
        shown_calls_per_second=traffic.shown_calls_per_second * factor,
    )


def _allowed(calls: npt.NDArray[np.float64], shown: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64[N]: the most that counts of each node's calls; inf where fewer than two others have any."""
    allowed = np.full(len(calls), np.inf)
    active = np.flatnonzero(calls > 0)
    for row in active.tolist():
        others = calls[active[active != row]]
        if len(others) >= 2:
            typical = float(np.median(others))
            allowed[row] = max(TYPICAL * typical, min(float(shown[row]), SHOWN * typical))
    return allowed


def reasons(doubts: tuple[Doubt, ...]) -> Mapping[str, list[str]]:
    """node_id -> what is doubted."""
    found: dict[str, list[str]] = {}
    for doubt in doubts:
        found.setdefault(doubt.node_id, []).append(doubt.reason)
    return found
