"""Areas of a large fleet: nodes near each other, and the problem an area has when the rest is pooled.

A placement of the whole fleet, seen from one area, is its own rows and what all others hold. Put the others
into a few pools by how far they are, let a pool hold up to the sum of its nodes' memory, and let it be as
near to each node of the area as its nearest node is. Then the placement, with every pool holding what any of
its nodes holds, is feasible for the area's problem and costs no more there than the area's traffic and copies
do in truth: a call has a holder at least as near, and an expert held anywhere is held in some pool, so that
the origin is not called more. Beyond pools with ample room the rest counts as one origin, as near as its
nearest node, which holds everything: that is less yet. Coverage is dropped, and added for the whole fleet by
`solvers.dual.replicas`. So the least cost of the area's problem is at most the area's part of the cost of
every placement, and the areas' bounds add up to one of the whole.

Under `colocated` a host of a route is in a pool at least as near, too. Without an origin, though, a route may
make single calls that cost less than its nearest host. The area's problem has an origin, so that a route
makes no single calls there, and could cost more than the truth. So the area's problem is one of `slowest`,
which no route costs less than.
"""

from __future__ import annotations

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from solvers.cost.coupling import FORMS
from solvers.feasible.packing import packable_bytes
from solvers.feasible.repair import finite_fallback
from solvers.problem import Float64, Int64, PlacementProblem

MOST_NODES = 32  # of an area
_AMPLE = 1.5  # of the bytes of all experts, that area and pools hold before the rest is taken for an origin
_FIRST_POOL = 8  # nodes of the nearest pool; each further one has twice as many


def areas(problem: PlacementProblem, most: int = MOST_NODES) -> list[Int64]:
    """The nodes in areas of at most `most`, int64 each, in order: the largest clusters of the average linkage
    by latency, both ways, that are small enough, and those of less than half of it together where they are
    nearest. Every node is in one. O(N^2 log N) time, O(N^2) memory."""
    nodes = problem.nodes
    if nodes <= most:
        return [np.arange(nodes)]
    latency = problem.latency_seconds
    finite = np.isfinite(latency)
    far = 1000.0 * float(latency[finite].max(initial=0.0)) + 1.0
    apart = np.where(finite, latency, far)
    apart = 0.5 * (apart + apart.T)
    np.fill_diagonal(apart, 0.0)
    tree = hierarchy.linkage(squareform(apart, checks=False), "average")
    members: dict[int, list[int]] = {n: [n] for n in range(nodes)}
    for step, (left, right) in enumerate(tree[:, :2].astype(np.int64).tolist()):
        if left in members and right in members and len(members[left]) + len(members[right]) <= most:
            members[nodes + step] = members.pop(left) + members.pop(right)
    return sorted(
        (np.sort(np.array(some, np.int64)) for some in _joined(list(members.values()), apart, most)),
        key=lambda some: int(some[0]),
    )


def _joined(groups: list[list[int]], apart: Float64, most: int) -> list[list[int]]:
    groups = sorted(groups, key=len)
    done: list[list[int]] = []
    while groups:
        small = groups.pop(0)
        fitting = [i for i, other in enumerate(groups) if len(other) + len(small) <= most]
        if 2 * len(small) >= most or not fitting:
            done.append(small)
            continue
        near = min(fitting, key=lambda i: float(apart[np.ix_(small, groups[i])].mean()))
        groups.append(groups.pop(near) + small)
        groups.sort(key=len)
    return done


class AreaProblems:
    """Makes the problems of areas of one fleet."""

    def __init__(self, problem: PlacementProblem) -> None:
        self._problem = problem
        self._room = packable_bytes(problem)
        self._fallback = finite_fallback(problem)
        self._total = int(problem.column_bytes.sum())
        self._order = np.argsort(problem.route_node, kind="stable")
        self._start = np.searchsorted(problem.route_node[self._order], np.arange(problem.nodes + 1))

    def of(self, members: Int64) -> PlacementProblem:
        """The problem of the nodes `members` int64[A], its first A; then one per pool. Its cost is that of
        the traffic at the members and of the copies they receive. O((A + pools) E + A N + routes)."""
        problem = self._problem
        pools, everything = self._pools(members)
        own, nodes = len(members), len(members) + len(pools)
        latency = np.zeros((nodes, nodes))
        latency[:own, :own] = problem.latency_seconds[np.ix_(members, members)]
        capacity = np.empty(nodes, np.int64)
        capacity[:own] = self._room[members]
        for i, pool in enumerate(pools):
            latency[:own, own + i] = problem.latency_seconds[np.ix_(members, pool)].min(axis=1)
            capacity[own + i] = sum(self._room[pool].tolist())
        origin = np.zeros(nodes)
        origin[:own] = self._fallback[members]
        if len(everything):
            near = problem.latency_seconds[np.ix_(members, everything)].min(axis=1)
            origin[:own] = np.minimum(origin[:own], near)
        routes = np.concatenate([self._order[self._start[n] : self._start[n + 1]] for n in members.tolist()])
        place = np.zeros(problem.nodes, np.int32)
        place[members] = np.arange(own)
        coupling = FORMS[problem.coupling].with_origin(problem.has_origin)
        current, pins, ingress = problem.current, problem.pins, problem.ingress_bytes_per_second
        extra = (nodes - own, problem.experts)
        return PlacementProblem(
            expert_bytes=problem.expert_bytes,
            experts_per_block=problem.experts_per_block,
            capacity_bytes=capacity,
            latency_seconds=latency,
            origin_latency_seconds=origin,
            route_node=place[problem.route_node[routes]],
            route_block=problem.route_block[routes],
            route_experts=problem.route_experts[routes],
            route_rate=problem.route_rate[routes],
            coupling=coupling,
            min_replicas=0,
            current=None if current is None else np.vstack((current[members], np.ones(extra, np.uint8))),
            ingress_bytes_per_second=None
            if ingress is None
            else np.concatenate((ingress[members], np.ones(len(pools)))),
            horizon_seconds=problem.horizon_seconds,
            pins=None if pins is None else np.vstack((pins[members], np.zeros(extra, np.int8))),
            drained=None
            if problem.drained is None
            else np.concatenate((problem.drained[members], np.zeros(len(pools), np.uint8))),
        )

    def _pools(self, members: Int64) -> tuple[list[Int64], Int64]:
        """The other nodes that may hold anything, the nearest first, in pools of growing size until there is
        ample room for every expert; and those beyond, which hold everything."""
        outside = self._room > 0
        outside[members] = False
        others = np.flatnonzero(outside)
        near = _mean_of_finite(self._problem.latency_seconds[np.ix_(members, others)])
        others = others[np.argsort(near, kind="stable")]
        pools: list[Int64] = []
        size, held = _FIRST_POOL, sum(self._room[members].tolist())
        while len(others) and held < _AMPLE * self._total:
            pools.append(others[:size])
            held += sum(self._room[others[:size]].tolist())
            others, size = others[size:], 2 * size
        return pools, others


def _mean_of_finite(latency: Float64) -> Float64:
    """Mean of the finite latencies of each column, inf where there is none."""
    finite = np.isfinite(latency)
    count = finite.sum(axis=0)
    total = np.where(finite, latency, 0.0).sum(axis=0)
    mean: Float64 = np.divide(total, count, out=np.full(len(count), np.inf), where=count > 0)
    return mean
