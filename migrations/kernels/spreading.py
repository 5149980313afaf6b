"""The cheapest way to bring an expert from where it is to every node that misses it, through any nodes."""

from __future__ import annotations

import numpy as np

from migrations.kernels.arrays import Flags, Floats, Ints
from solvers.compiled import compiled


@compiled
def shortest_paths(cost: Floats) -> tuple[Floats, Ints]:
    """Between each sender, the origin at index N, and each node: the least cost over any nodes, and the first
    of them; cost float64[N + 1, N], inf where there is no link. O(N^3)."""
    senders, nodes = cost.shape
    path = cost.copy()
    toward = np.empty((senders, nodes), np.int64)
    for m in range(senders):
        for n in range(nodes):
            toward[m, n] = n
        if m < nodes:
            path[m, m] = 0.0
    for via in range(nodes):
        for m in range(senders):
            for n in range(nodes):
                length = path[m, via] + path[via, n]
                if length < path[m, n]:
                    path[m, n], toward[m, n] = length, toward[m, via]
    return path, toward


@compiled
def spread(path: Floats, toward: Ints, holds: Flags, goals: Ints, size: float, flow: Floats) -> float:
    """The least that a byte costs from the senders that hold it, uint8[N + 1], to all the goals, where each
    step is paid once however many goals it is for; `size` bytes are added to flow float64[N + 1, N] along it.

    A Steiner tree for every set of goals and every root: a path, then two trees of smaller sets (Dreyfus and
    Wagner, Networks 1 (1971) 195-207); in the end a forest of those rooted in holders. O(3^k N + 2^k N^2) for
    k goals.
    """
    senders, nodes = path.shape
    sets = 1 << len(goals)
    tree = np.full((sets, senders), np.inf)  # from each root
    fork = np.full((sets, senders), -1)  # where the tree parts, or its only goal
    part = np.zeros((sets, senders), np.int64)  # one of the two sets in which it parts there
    apart = np.full(senders, np.inf)
    for goal in range(len(goals)):
        for m in range(senders):
            tree[1 << goal, m], fork[1 << goal, m] = path[m, goals[goal]], goals[goal]
    for some in range(1, sets):
        if some & (some - 1) == 0:
            continue
        for m in range(senders):
            apart[m] = np.inf
            half = (some - 1) & some
            while 2 * half >= some:  # the other half is the smaller number
                length = tree[half, m] + tree[some ^ half, m]
                if length < apart[m]:
                    apart[m], part[some, m] = length, half
                half = (half - 1) & some
        for m in range(senders):
            tree[some, m], fork[some, m] = apart[m], m
            for n in range(nodes):
                length = path[m, n] + apart[n]
                if length < tree[some, m]:
                    tree[some, m], fork[some, m] = length, n
    return _plant(tree, fork, part, toward, holds, size, flow)


@compiled
def _plant(
    tree: Floats, fork: Ints, part: Ints, toward: Ints, holds: Flags, size: float, flow: Floats
) -> float:
    """The cheapest forest of trees rooted in holders that reach all goals; its steps are added to `flow`."""
    sets, senders = tree.shape
    forest = np.full(sets, np.inf)
    root = np.full(sets, -1)
    half_of = np.zeros(sets, np.int64)
    forest[0] = 0.0
    for some in range(1, sets):
        for m in range(senders):
            if holds[m] != 0 and tree[some, m] < forest[some]:
                forest[some], root[some] = tree[some, m], m
        half = (some - 1) & some
        while 2 * half >= some:
            length = forest[half] + forest[some ^ half]
            if length < forest[some]:
                forest[some], root[some], half_of[some] = length, -1, half
            half = (half - 1) & some
    least: float = forest[sets - 1]
    if not np.isfinite(least):
        return least
    sets_left, roots_left = [sets - 1], [-1]  # -1: of a forest
    while len(sets_left) > 0:
        some, m = sets_left.pop(), roots_left.pop()
        if m < 0:
            m = root[some]
            if m < 0:
                sets_left.append(half_of[some])
                sets_left.append(some ^ half_of[some])
                roots_left.append(-1)
                roots_left.append(-1)
                continue
        n = fork[some, m]
        while m != n:
            step = toward[m, n]
            flow[m, step] += size
            m = step
        if some & (some - 1) != 0:
            sets_left.append(part[some, n])
            sets_left.append(some ^ part[some, n])
            roots_left.append(n)
            roots_left.append(n)
    return least


@compiled
def spread_all(
    path: Floats, toward: Ints, first: Ints, node: Ints, holds: Flags, size: Floats, most: int, flow: Floats
) -> float:
    """What `spread` costs in all for the experts that at most `most` nodes miss; it adds to `flow`.

    Expert e is missing on node[first[e] : first[e + 1]] and held by holds[e], uint8[experts, N + 1].
    """
    total = 0.0
    for e in range(len(size)):
        if first[e + 1] - first[e] <= most:
            goals = node[first[e] : first[e + 1]]
            total += size[e] * spread(path, toward, holds[e], goals, size[e], flow)
    return total
