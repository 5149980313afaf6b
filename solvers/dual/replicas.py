"""Coverage in a bound that is made area by area: what replicas cost that must be held.

A climb proves of its area, for the rows x of its nodes and the pools beside it,
    cost >= constant - sum over its nodes and pools of profit @ x,
and a node's rows fit into its memory, so that at any price p(n) >= 0 of memory
    cost >= constant - pools - sum over its nodes of p(n) room(n) + sum over its nodes of loss(n) @ x(n),
with the reduced cost loss(n, e) = p(n) size(e) - profit(n, e) of a replica, and `pools` the most that the
pools' knapsacks are worth. The nodes of all areas together are those of the fleet, each once, and a feasible
placement holds every expert on r = `min_replicas` of them at least. So with the reduced costs of an expert in
order over the whole fleet, l_1 <= l_2 <= ...,
    sum over n of loss(n, e) x(n, e) >= sum over n of min(0, l_n) + sum over i <= r of max(0, l_i),
of which the first part is what the areas' own bounds have anyhow. That is the best of all prices v(e) >= 0 on
the replicas of e, the same one in all areas and with v(e) r counted once; the best price is max(0, l_r). An
area needs to hand on no more than its r least reduced costs of every expert.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from solvers.dual.relaxation import Dual, Relaxation
from solvers.feasible.packing import packable_bytes
from solvers.feasible.repair import allowance
from solvers.kernels import fractional
from solvers.problem import Float64, PlacementProblem
from solvers.tolerances import BOUND_ROUNDING


class Reduced(NamedTuple):
    """What an area's climb proves at prices of memory: a bound without coverage, and the reduced costs of the
    `min_replicas` cheapest replicas of every expert on the area's nodes, float64[r, E] in order: -inf where
    one is pinned, inf where there are fewer nodes that may hold it."""

    bound: float
    least: Float64


def reduced(area: PlacementProblem, own: int, dual: Dual, reward: Float64 | None, replicas: int) -> Reduced:
    """Of an area whose first `own` nodes are the fleet's and the others pools. `reward` float64[own, E] is
    what the replicas there earn in `dual` beside what calls pay: the climb was guided by it, and it is taken
    off. O(A E log E)."""
    relaxation = Relaxation(area)
    profit = relaxation.profit(dual.earned, dual.replica_price)
    room = packable_bytes(area).astype(np.float64)
    size = area.column_bytes.astype(np.float64)
    allowed = allowance(area)
    pools = float(
        fractional.knapsacks(
            np.ascontiguousarray(np.where(allowed[own:] >= 0, profit[own:], 0.0)), size, room[own:]
        )
    )
    profit, allowed = profit[:own], allowed[:own]
    if reward is not None:
        profit = profit - reward
    bound = dual.constant - pools
    scale = abs(dual.constant) + pools
    loss = np.empty_like(profit)
    for n in range(own):
        free, pinned = allowed[n] == 0, allowed[n] == 1
        left = max(0.0, room[n] - float(size[pinned].sum()))
        guided = profit[n] if reward is None else profit[n] + reward[n]
        price = _memory_price(np.where(free, guided, 0.0), size, left)
        loss[n] = price * size - profit[n]
        taken = float(np.minimum(loss[n], 0.0)[free].sum())
        forced = float(profit[n, pinned].sum())
        bound += taken - price * left - forced
        scale += abs(taken) + price * left + abs(forced) + float(np.abs(profit[n]).sum())
        loss[n, pinned] = -np.inf
        loss[n, allowed[n] < 0] = np.inf
    least = np.full((replicas, area.experts), np.inf)
    some = min(replicas, own)
    least[:some] = np.sort(loss, axis=0)[:some]
    return Reduced(bound - relaxation.rounding * scale, least)


def with_coverage(parts: list[Reduced]) -> tuple[float, Float64]:
    """The bound of all areas together with coverage, and the price on replicas float64[E] behind it."""
    bound = sum(part.bound for part in parts)
    if not parts or parts[0].least.size == 0:
        return bound, np.zeros(parts[0].least.shape[1] if parts else 0)
    replicas = len(parts[0].least)
    least = np.sort(np.concatenate([part.least for part in parts]), axis=0)[:replicas]
    paid = np.where(np.isfinite(least), np.maximum(least, 0.0), 0.0)
    return bound + float(paid.sum()) * (1.0 - BOUND_ROUNDING), paid[-1]


def _memory_price(profit: Float64, size: Float64, room: float) -> float:
    """The price of memory at which the fractional knapsack is just full, 0 where all that profits fits: the
    best one. Any would do for a bound."""
    wanted = np.flatnonzero(profit > 0.0)
    density = profit[wanted] / size[wanted]
    order = np.argsort(-density, kind="stable")
    used = np.cumsum(size[wanted][order])
    last = int(np.searchsorted(used, room, side="right"))
    return float(density[order[last]]) if last < len(order) else 0.0
