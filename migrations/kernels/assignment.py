"""One sender for each copy, where an allocation shares it among several."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from migrations.kernels.arrays import Floats, Ints
from solvers.compiled import compiled

PASSES: Final = 20
"""Times that every copy may change its sender, at most."""

_SAME: Final = 1.0 - 1e-9  # times what an entry costs: not worth a change


@compiled
def assign(
    start: Ints, sender: Ints, before: Ints, node: Ints, receive: Floats, send: Floats, share: Floats
) -> Ints:
    """int64[copies]: which of its entries each copy takes, so that the busiest link is hardly busier than if
    copies were shared; -1 where no sender in reach could have the expert.

    Copy i, into node[i], has the entries from start[i] up to start[i + 1]. By each, it comes from `sender`,
    to which copy `before` brings the expert (-1: it is there from the start), and takes shares `receive` of
    the node's time and `send` of the sender's, inf without a link; `share` is the copy's part in the
    allocation. No copy waits for itself. From the largest parts, each copy in turn takes the entry that
    least raises the sum of all links' load ** 24, until none changes. O(PASSES * entries * chain of senders).
    """
    copies = len(node)
    chosen = np.full(copies, -1)
    for fresh in (False, True):  # first all from where the expert is: nothing waits
        for i in range(copies):
            for entry in range(start[i], start[i + 1]):
                if fresh == (before[entry] >= 0) and np.isfinite(receive[entry]):
                    better = chosen[i] < 0 or share[entry] > share[chosen[i]]
                    if better and _leads_back(before, chosen, entry, i):
                        chosen[i] = entry
    links = max(node.max(), sender.max()) + 1
    into, out = np.zeros(links), np.zeros(links)
    for i in range(copies):
        if chosen[i] >= 0:
            into[node[i]] += receive[chosen[i]]
            out[sender[chosen[i]]] += send[chosen[i]]
    for _ in range(PASSES):
        changed = False
        for i in range(copies):
            n, best, least = node[i], chosen[i], np.inf
            if best >= 0:
                into[n] -= receive[best]
                out[sender[best]] -= send[best]
                least = _SAME * (_rise(into[n], receive[best]) + _rise(out[sender[best]], send[best]))
            for entry in range(start[i], start[i + 1]):
                rise = _rise(into[n], receive[entry]) + _rise(out[sender[entry]], send[entry])
                if rise < least and _leads_back(before, chosen, entry, i):
                    best, least, changed = entry, rise, True
            if best >= 0:
                chosen[i] = best
                into[n] += receive[best]
                out[sender[best]] += send[best]
        if not changed:
            break
    return chosen


@compiled
def _rise(load: float, more: float) -> float:
    return _power(load + more) - _power(load)


@compiled
def _power(load: float) -> float:
    load *= load * load
    load *= load
    load *= load
    return load * load


@compiled
def _leads_back(before: Ints, chosen: Ints, entry: int, copy: int) -> bool:
    """By the entry, the copy comes from where the expert is, through others that do not wait for it."""
    at: Any = before[entry]
    while at >= 0:
        if at == copy or chosen[at] < 0:
            return False
        at = before[chosen[at]]
    return True
