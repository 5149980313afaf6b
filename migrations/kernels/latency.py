"""What tokens wait while copies come and go, and what each copy and drop would change now."""

from __future__ import annotations

import numpy as np

from migrations.kernels.arrays import Floats, Ints, Records, Shorts, State, Words
from migrations.kernels.bits import has, lowest, members
from solvers.compiled import compiled


@compiled
def serve(
    calls: Records, first_call: Ints, holders: Words, distance: Floats, origin: Floats, columns: Ints
) -> None:
    """Set the cost and the server of every call of the columns, from `holders` uint64[columns, W] of each.
    `origin` float64[N]: seconds of a call to it. O(calls * holders)."""
    nodes = len(origin)
    there = np.empty(nodes + 1, np.int64)
    for i in range(len(columns)):
        column = columns[i]
        count = 0
        for c in range(first_call[column], first_call[column + 1]):
            if c == first_call[column]:
                count = members(holders, i, there)
            u = calls[c]["node"]
            cost, nearest = origin[u], nodes
            for j in range(count):
                m = there[j]
                if m < nodes and distance[u, m] < cost:
                    cost, nearest = distance[u, m], m
            calls[c]["cost"], calls[c]["nearest"] = cost, nearest


@compiled
def slowest(calls: Records, route_calls: Shorts, route: int) -> float:
    """What a route waits: its slowest call."""
    most = 0.0
    for k in range(route_calls.shape[1]):
        c = route_calls[route, k]
        if c < 0:
            break
        most = max(most, calls[c]["cost"])
    return most


@compiled
def wait(calls: Records, routes: Records, route_calls: Shorts, coupled: bool, out: Floats) -> float:
    """What all tokens wait, seconds per second; that of each route goes to `out` float64[R]."""
    total = 0.0
    if not coupled:
        for c in range(len(calls)):
            total += calls[c]["weight"] * calls[c]["cost"]
        return total
    for route in range(len(routes)):
        out[route] = slowest(calls, route_calls, route)
        total += routes[route]["rate"] * out[route]
    return total


@compiled
def _changed(state: State, c: int, before: float) -> None:
    """Call c costs something else than `before`. O(routes that make it * K)."""
    if state.coupled == 0:
        state.clock[0]["latency"] += state.calls[c]["weight"] * (state.calls[c]["cost"] - before)
        return
    for i in range(state.first_route[c], state.first_route[c + 1]):
        route = state.route_index[i]
        value = slowest(state.calls, state.route_calls, route)
        state.clock[0]["latency"] += state.routes[route]["rate"] * (value - state.routes[route]["value"])
        state.routes[route]["value"] = value


@compiled
def arrive(state: State, node: int, column: int) -> None:
    """The node serves the column from now on."""
    for c in range(state.first_call[column], state.first_call[column + 1]):
        before = state.calls[c]["cost"]
        seconds = state.distance[state.calls[c]["node"], node]
        if seconds < before:
            state.calls[c]["cost"] = seconds
            state.calls[c]["nearest"] = node
            _changed(state, c, before)


@compiled
def depart(state: State, node: int, column: int) -> None:
    """The node, in `holders` no more, has dropped the column."""
    for c in range(state.first_call[column], state.first_call[column + 1]):
        if state.calls[c]["nearest"] == node:
            before = state.calls[c]["cost"]
            cost, nearest = _next(state, state.calls[c]["node"], node, column)
            state.calls[c]["cost"] = cost
            state.calls[c]["nearest"] = nearest
            if cost != before:
                _changed(state, c, before)


@compiled
def _next(state: State, u: int, node: int, column: int) -> tuple[float, int]:
    """The cheapest server of the column for node u without `node`, and what it costs."""
    nodes = state.distance.shape[0]
    cost, nearest = state.nodes[u]["origin"], nodes
    for w in range(state.holders.shape[1]):
        word = state.holders[column, w]
        while word != 0:
            m = 64 * w + lowest(word)
            word &= word - np.uint64(1)
            if m < nodes and m != node and state.distance[u, m] < cost:
                cost, nearest = state.distance[u, m], m
    return cost, nearest


@compiled
def appraise(state: State, column: int) -> None:
    """Set gain where the column is missing, and loss where it is superfluous, to what they are worth now.

    A call that is one of k that keep a route from its latency in the target is credited with a k-th of what
    lacks: each alone may save nothing, and the routes that lack least come first. O(calls of the column *
    (holders + routes of the call * (K + nodes it is missing on))).
    """
    nodes = state.distance.shape[0]
    comes = np.empty(nodes + 1, np.int64)
    leaving = members(state.superfluous, column, comes)
    for i in range(leaving):
        state.pairs[comes[i], column]["loss"] = 0.0
    count = members(state.missing, column, comes)
    for i in range(count):
        state.pairs[comes[i], column]["gain"] = 0.0
    if count + leaving == 0:
        return
    for c in range(state.first_call[column], state.first_call[column + 1]):
        u = state.calls[c]["node"]
        cost = state.calls[c]["cost"]
        nearest = state.calls[c]["nearest"]
        leaves = nearest < nodes and has(state.superfluous, column, nearest)
        after = cost
        if leaves:
            after, _ = _next(state, u, nearest, column)
        if state.coupled == 0:
            rate = state.calls[c]["weight"]
            if leaves:
                state.pairs[nearest, column]["loss"] += rate * (after - cost)
            for i in range(count):
                n = comes[i]
                if state.distance[u, n] < cost:
                    state.pairs[n, column]["gain"] += rate * (cost - state.distance[u, n])
            continue
        for i in range(state.first_route[c], state.first_route[c + 1]):
            route = state.route_index[i]
            value, goal = state.routes[route]["value"], state.routes[route]["goal"]
            rate = state.routes[route]["rate"]
            if leaves and after > value:
                state.pairs[nearest, column]["loss"] += rate * (after - value)
            if count == 0 or cost <= 0.0:
                continue
            others, late = 0.0, 0
            for k in range(state.route_calls.shape[1]):
                other = state.route_calls[route, k]
                if other < 0:
                    break
                seconds = state.calls[other]["cost"]
                if seconds > goal:
                    late += 1
                if other != c and seconds > others:
                    others = seconds
            for j in range(count):
                n = comes[j]
                seconds = state.distance[u, n]
                if seconds >= cost:
                    continue
                saved = value - max(others, seconds)
                if cost > goal and late > 0:
                    saved = max(saved, (value - max(goal, seconds)) / late)
                if saved > 0.0:
                    state.pairs[n, column]["gain"] += rate * saved
