"""Kernels of the fractional knapsacks of all nodes: the best value, and the nearest point."""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.problem import Float64

_PRICE_STEPS = 60  # of the search for a price of memory at most
_EXACT = 1e-14  # relative; closer to the best price is rounding


@compiled
def _over_price(profit: Float64, size: Float64, price: float, capacity: float, slope: Float64) -> float:
    """capacity * price + sum of what profits exceed price * size; slope[0] is its right derivative."""
    total = capacity * price
    slope[0] = capacity
    for e in range(profit.shape[0]):
        over = profit[e] - price * size[e]
        if over > 0.0:
            total += over
            slope[0] -= size[e]
    return total


@compiled
def knapsacks(profit: Float64, size: Float64, room: Float64) -> float:
    """Sum over the nodes of an upper bound on max of profit @ x within the room, 0 <= x <= 1: the dual of
    the fractional knapsack at a nearly best price of memory; any price is a bound.

    profit float64[N, E], size float64[E], room float64[N] in one unit. O(N E log).
    """
    total = 0.0
    slope = np.empty(1)
    for m in range(profit.shape[0]):
        low = 0.0
        best = _over_price(profit[m], size, 0.0, room[m], slope)
        if slope[0] < 0.0:
            high = 0.0
            for e in range(profit.shape[1]):
                high = max(high, profit[m, e] / size[e])
            value_low = best
            slope_low = slope[0]
            value_high = room[m] * high
            slope_high = room[m]
            best = min(best, value_high)
            for step in range(_PRICE_STEPS):
                # where the tangents of both ends meet, and how low: nothing between the ends is lower
                if slope_high <= slope_low:
                    break
                price = (value_low - value_high + slope_high * high - slope_low * low) / (
                    slope_high - slope_low
                )
                if best - (value_low + slope_low * (price - low)) <= _EXACT * best:
                    break
                if step % 3 == 2:
                    price = 0.5 * (low + high)
                if not low < price < high:
                    break
                value = _over_price(profit[m], size, price, room[m], slope)
                best = min(best, value)
                if slope[0] < 0.0:
                    low, value_low, slope_low = price, value, slope[0]
                elif slope[0] > 0.0:
                    high, value_high, slope_high = price, value, slope[0]
                else:
                    break
        total += best
    return total


@compiled
def _filled(wish: Float64, pull: Float64, size: Float64, price: float) -> float:
    total = 0.0
    for e in range(wish.shape[0]):
        total += size[e] * min(1.0, max(0.0, wish[e] - price * pull[e]))
    return total


@compiled
def project(wish: Float64, pull: Float64, size: Float64, room: Float64, held: Float64) -> None:
    """held[m]: the point of 0 <= x <= 1, size @ x <= room next to wish[m], in the metric size / pull: clip of
    wish - price * pull. All float64[N, E] but size float64[E], room float64[N]; pull >= 0, where it is 0 the
    wish stays. O(N E log)."""
    for m in range(wish.shape[0]):
        price = 0.0
        if _filled(wish[m], pull[m], size, 0.0) > room[m]:
            high = 0.0
            for e in range(wish.shape[1]):
                if pull[m, e] > 0.0:
                    high = max(high, wish[m, e] / pull[m, e])
            low = 0.0
            over_low = _filled(wish[m], pull[m], size, 0.0) - room[m]
            over_high = _filled(wish[m], pull[m], size, high) - room[m]
            close = 1e-9 * (room[m] + 1.0)
            for step in range(_PRICE_STEPS):
                if over_low <= close or over_high >= -close or high - low <= 1e-12 * high:
                    break
                middle = 0.5 * (low + high)
                if step % 2 == 0:
                    middle = min(max(low + over_low * (high - low) / (over_low - over_high), low), high)
                over = _filled(wish[m], pull[m], size, middle) - room[m]
                if over > 0.0:
                    low, over_low = middle, over
                else:
                    high, over_high = middle, over
            price = low if over_low <= close else high
        for e in range(wish.shape[1]):
            held[m, e] = min(1.0, max(0.0, wish[m, e] - price * pull[m, e]))
