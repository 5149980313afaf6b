"""What tokens wait while copies come and go, and what each copy and drop would change now."""

from __future__ import annotations

import numpy as np

from migrations.kernels.arrays import State
from solvers.compiled import compiled


@compiled
def _slowest(state: State, u: int, route: int) -> float:
    most = 0.0
    for k in range(state.route_columns.shape[1]):
        column = state.route_columns[route, k]
        if column < 0:
            break
        if state.cost[u, column] > most:
            most = state.cost[u, column]
    return most


@compiled
def _changed(state: State, u: int, column: int, before: float) -> None:
    """Node u is served the column at another cost than `before`. O(routes of u that use it * K)."""
    if state.coupled == 0:
        state.clock[0]["latency"] += state.pairs[u, column]["weight"] * (state.cost[u, column] - before)
        return
    at = u * state.cost.shape[1] + column
    for i in range(state.first_route[at], state.first_route[at + 1]):
        route = state.route_index[i]
        value = _slowest(state, u, route)
        state.clock[0]["latency"] += state.routes[route]["rate"] * (value - state.routes[route]["value"])
        state.routes[route]["value"] = value


@compiled
def arrive(state: State, node: int, column: int) -> None:
    """The node serves the column from now on."""
    for u in range(state.distance.shape[0]):
        before = state.cost[u, column]
        if state.distance[u, node] < before:
            state.cost[u, column] = state.distance[u, node]
            state.pairs[u, column]["nearest"] = node
            _changed(state, u, column, before)


@compiled
def depart(state: State, node: int, column: int) -> None:
    """The node, in `serving` uint8[N, E] no more, has dropped the column."""
    for u in range(state.distance.shape[0]):
        if state.pairs[u, column]["nearest"] == node:
            before = state.cost[u, column]
            cost, nearest = _next(state, u, node, column)
            state.cost[u, column] = cost
            state.pairs[u, column]["nearest"] = nearest
            if cost != before:
                _changed(state, u, column, before)


@compiled
def _next(state: State, u: int, node: int, column: int) -> tuple[float, int]:
    """The cheapest server of the column for node u without `node`, and what it costs."""
    nodes = state.distance.shape[0]
    cost, nearest = state.nodes[u]["origin"], nodes
    for m in range(nodes):
        if m != node and state.pairs[m, column]["serving"] != 0 and state.distance[u, m] < cost:
            cost, nearest = state.distance[u, m], m
    return cost, nearest


@compiled
def appraise(state: State, column: int) -> None:
    """Set gain where the column is missing, and loss where it is superfluous, to what they are worth now.

    A call that is one of k that keep a route from its latency in the target is credited with a k-th of what
    lacks: each alone may save nothing, and the routes that lack least come first. O(N (N + routes of the
    column * (K + nodes it is missing on))).
    """
    nodes, experts = state.cost.shape
    comes = np.empty(nodes, np.int64)
    count = 0
    for n in range(nodes):
        if state.pairs[n, column]["missing"] != 0:
            comes[count] = n
            count += 1
            state.pairs[n, column]["gain"] = 0.0
        if state.pairs[n, column]["superfluous"] != 0:
            state.pairs[n, column]["loss"] = 0.0
    for u in range(nodes):
        if state.pairs[u, column]["weight"] <= 0.0:
            continue
        cost = state.cost[u, column]
        nearest = state.pairs[u, column]["nearest"]
        leaves = nearest < nodes and state.pairs[nearest, column]["superfluous"] != 0
        after = cost
        if leaves:
            after, _ = _next(state, u, nearest, column)
        if state.coupled == 0:
            rate = state.pairs[u, column]["weight"]
            if leaves:
                state.pairs[nearest, column]["loss"] += rate * (after - cost)
            for i in range(count):
                n = comes[i]
                if state.distance[u, n] < cost:
                    state.pairs[n, column]["gain"] += rate * (cost - state.distance[u, n])
            continue
        at = u * experts + column
        for i in range(state.first_route[at], state.first_route[at + 1]):
            route = state.route_index[i]
            value, goal = state.routes[route]["value"], state.routes[route]["goal"]
            rate = state.routes[route]["rate"]
            if leaves and after > value:
                state.pairs[nearest, column]["loss"] += rate * (after - value)
            if count == 0 or cost <= 0.0:
                continue
            others, late = 0.0, 0
            for k in range(state.route_columns.shape[1]):
                other = state.route_columns[route, k]
                if other < 0:
                    break
                seconds = state.cost[u, other]
                if seconds > goal:
                    late += 1
                if other != column and seconds > others:
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
