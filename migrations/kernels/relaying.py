"""Senders for all copies of each expert at once, perhaps through a node that needs no copy of it."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from migrations.kernels.arrays import Flags, Floats, Ints
from solvers.compiled import compiled

PASSES: Final = 12
"""Times that every expert may change its way, at most."""

_SAME: Final = 1.0 - 1e-6  # times what a way costs: not worth a change
_MOST: Final = 1e10  # times the scale: longer loads count as this


class Spreading(NamedTuple):
    """The copies of X experts. Expert x is missing on goal[first[x] : first[x + 1]], those that send fastest
    first; held by holds uint8[X, N + 1], the origin last; may uint8[X, N]: it may be on the node for a
    while; size float64[X]. receive, send float64[N + 1, N]: shares of a node's and a sender's time per byte,
    inf without a link. scale: seconds of the busiest link."""

    first: Ints
    goal: Ints
    holds: Flags
    may: Flags
    size: Floats
    receive: Floats
    send: Floats
    scale: float


@compiled
def spread_copies(given: Spreading, sender: Ints, relay: Ints, relay_sender: Ints) -> None:
    """Change the senders int64[copies] so that the busiest links are less busy, and set, for each expert, the
    node it goes through, int64[X], and who sends it there; -1 for none.

    In turn, every expert's copies are taken off the links, and put on them anew one by one, from the sender
    that has the expert by then whose links suffer least (the sum of loads ** 24); once without, and once with
    a copy to each node that could pass it on. O(PASSES X N (goals * holders)).
    """
    senders, nodes = given.send.shape
    into, out = np.zeros(nodes), np.zeros(senders)
    experts = len(given.size)
    for x in range(experts):
        _load(given, x, sender, relay[x], relay_sender[x], 1.0, into, out)
    trial = sender.copy()
    for _ in range(PASSES):
        changed = False
        for x in range(experts):
            first, last = given.first[x], given.first[x + 1]
            best_relay, best_from = relay[x], relay_sender[x]
            _load(given, x, sender, best_relay, best_from, -1.0, into, out)
            least = _SAME * _load(given, x, sender, best_relay, best_from, 1.0, into, out)
            _load(given, x, sender, best_relay, best_from, -1.0, into, out)
            better = False
            for via in range(-1, nodes):
                if via >= 0 and given.may[x, via] == 0:
                    continue
                cost, source = _attach(given, x, via, trial, into, out)
                if np.isfinite(cost):
                    _load(given, x, trial, via, source, -1.0, into, out)
                if cost < least:
                    least, best_relay, best_from, better = cost, via, source, True
                    for i in range(first, last):
                        sender[i] = trial[i]
            relay[x], relay_sender[x] = best_relay, best_from
            _load(given, x, sender, best_relay, best_from, 1.0, into, out)
            changed = changed or better
        if not changed:
            break


@compiled
def _attach(given: Spreading, x: int, via: int, trial: Ints, into: Floats, out: Floats) -> tuple[float, int]:
    """Put the expert's copies on the links, through `via`; what that costs, and who sends to it. Nothing is
    put on them where the cost is infinite."""
    has = given.holds[x].copy()
    total, source = 0.0, -1
    if via >= 0:
        rise, source = _cheapest(given, x, via, has, into, out)
        if source < 0:
            return np.inf, -1
        total += rise
        into[via] += given.size[x] * given.receive[source, via]
        out[source] += given.size[x] * given.send[source, via]
        has[via] = 1
    for i in range(given.first[x], given.first[x + 1]):
        node = given.goal[i]
        rise, chosen = _cheapest(given, x, node, has, into, out)
        if chosen < 0:
            for j in range(given.first[x], i):
                into[given.goal[j]] -= given.size[x] * given.receive[trial[j], given.goal[j]]
                out[trial[j]] -= given.size[x] * given.send[trial[j], given.goal[j]]
            if via >= 0:
                into[via] -= given.size[x] * given.receive[source, via]
                out[source] -= given.size[x] * given.send[source, via]
            return np.inf, -1
        trial[i] = chosen
        total += rise
        into[node] += given.size[x] * given.receive[chosen, node]
        out[chosen] += given.size[x] * given.send[chosen, node]
        has[node] = 1
    return total, source


@compiled
def _cheapest(
    given: Spreading, x: int, node: int, has: Flags, into: Floats, out: Floats
) -> tuple[float, int]:
    least, best = np.inf, -1
    for m in range(len(has)):
        if has[m] == 0 or not np.isfinite(given.send[m, node]):
            continue
        rise = _rise(into[node], given.size[x] * given.receive[m, node], given.scale)
        rise += _rise(out[m], given.size[x] * given.send[m, node], given.scale)
        if rise < least:
            least, best = rise, m
    return least, best


@compiled
def _load(
    given: Spreading,
    x: int,
    sender: Ints,
    via: int,
    source: int,
    sign: float,
    into: Floats,
    out: Floats,
) -> float:
    """Put the expert's copies on the links, or take them off; what putting them there costs."""
    cost = 0.0
    if via >= 0:
        receive = given.size[x] * given.receive[source, via]
        send = given.size[x] * given.send[source, via]
        cost += _rise(into[via], receive, given.scale) + _rise(out[source], send, given.scale)
        into[via] += sign * receive
        out[source] += sign * send
    for i in range(given.first[x], given.first[x + 1]):
        node, m = given.goal[i], sender[i]
        if m < 0:
            cost = np.inf
            continue
        receive = given.size[x] * given.receive[m, node]
        send = given.size[x] * given.send[m, node]
        cost += _rise(into[node], receive, given.scale) + _rise(out[m], send, given.scale)
        into[node] += sign * receive
        out[m] += sign * send
    return cost


@compiled
def _rise(load: float, more: float, scale: float) -> float:
    return _power((load + more) / scale) - _power(load / scale)


@compiled
def _power(load: float) -> float:
    load = min(max(load, 0.0), _MOST)
    load *= load * load
    load *= load
    load *= load
    return load * load
