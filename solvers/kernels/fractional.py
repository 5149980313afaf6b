"""Kernels of the fractional knapsacks of all nodes: the best value, and a step towards it."""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.problem import Bools, Float64
from solvers.tolerances import MEMORY_PRICE, PRICE_WIDTH, ROOM

_PRICE_STEPS = 60  # of the search for a price of memory at most


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
                if best - (value_low + slope_low * (price - low)) <= MEMORY_PRICE * best:
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
def _price(wish: Float64, pull: Float64, size: Float64, room: float, guess: float) -> float:
    """The least price >= 0 at which clip(wish - price * pull) fits into the room, nearly; `guess` is one that
    may be near."""
    over_low = _filled(wish, pull, size, 0.0) - room
    if over_low <= 0.0:
        return 0.0
    low = 0.0
    high = 0.0
    over_high = 0.0
    found = False
    width = 0.02
    for _ in range(8):  # brackets it from the guess on, further out each time
        if guess <= 0.0:
            break
        over = _filled(wish, pull, size, guess) - room
        if over > 0.0:
            low, over_low = guess, over
            if found:
                break
            guess *= 1.0 + width
        else:
            high, over_high = guess, over
            found = True
            if low > 0.0:
                break
            guess *= 1.0 - min(width, 0.5)
        width *= 3.0
    if not found:
        for e in range(wish.shape[0]):
            if pull[e] > 0.0:
                high = max(high, wish[e] / pull[e])
        over_high = _filled(wish, pull, size, high) - room
    close = ROOM * (room + 1.0)
    for step in range(_PRICE_STEPS):
        if over_low <= close or over_high >= -close or high - low <= PRICE_WIDTH * high:
            break
        middle = 0.5 * (low + high)
        if step % 2 == 0:
            middle = min(max(low + over_low * (high - low) / (over_low - over_high), low), high)
        over = _filled(wish, pull, size, middle) - room
        if over > 0.0:
            low, over_low = middle, over
        else:
            high, over_high = middle, over
    return low if over_low <= close else high


@compiled
def advance(
    earned: Float64,
    replica_price: Float64,
    opening: Float64,
    free: Bools,
    size: Float64,
    room: Float64,
    metric: Float64,
    tau: float,
    price: Float64,
    x: Float64,
    ahead: Float64,
    profit: Float64,
    sum_x: Float64,
    sum_earned: Float64,
    told: Float64,
    first: int,
    last: int,
) -> None:
    """A projected gradient step of what the nodes [first, last) hold, x float64[N, E], and what goes with it.

    profit becomes earned + replica_price - opening; x moves by tau * profit / metric to the nearest point of
    0 <= x <= 1, size @ x <= room in the metric, where it is free; ahead becomes the new x and the way from
    the old one to it again. Adds the new x and earned to sum_x and sum_earned; told[0] = sum of metric *
    (move)^2, told[1] = sum of (what the profit changed) * move. All float64[N, E] but replica_price, size
    float64[E] and room, price float64[N], the prices of memory, in one unit. O(N E log).
    """
    experts = x.shape[1]
    wish = np.empty(experts)
    pull = np.empty(experts)
    change = np.empty(experts)
    told[0] = 0.0
    told[1] = 0.0
    for m in range(first, last):
        for e in range(experts):
            now = earned[m, e] + replica_price[e] - opening[m, e]
            change[e] = now - profit[m, e]
            profit[m, e] = now
            sum_earned[m, e] += earned[m, e]
            pace = tau / metric[m, e] if free[m, e] else 0.0
            pull[e] = pace * size[e]
            wish[e] = x[m, e] + pace * now if free[m, e] else 0.0
        price[m] = _price(wish, pull, size, room[m], price[m])
        near = 0.0
        mixed = 0.0
        for e in range(experts):
            old = x[m, e]
            new = min(1.0, max(0.0, wish[e] - price[m] * pull[e])) if free[m, e] else old
            near += metric[m, e] * (new - old) * (new - old)
            mixed += change[e] * (new - old)
            x[m, e] = new
            ahead[m, e] = 2.0 * new - old
            sum_x[m, e] += new
        told[0] += near
        told[1] += mixed
