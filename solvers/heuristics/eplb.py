"""Placements that balance load over the nodes and know nothing of locality: `eplb` and `smartmoe`.

Written from the published descriptions; each returns a feasible placement or raises `NoPlacement`.
"""

from __future__ import annotations

import heapq

import numpy as np

from solvers.feasible.packing import packable_bytes
from solvers.feasible.repair import allowance, make_feasible
from solvers.params import EplbParams
from solvers.problem import Float64, Int64, PlacementProblem, UInt8
from solvers.stopping import Stopping, never
from solvers.traffic import Traffic


def eplb(
    problem: PlacementProblem, traffic: Traffic, params: EplbParams, stopping: Stopping = never
) -> UInt8:
    """The expert-parallel load balancer: balances load and knows nothing of who calls from where.

    Flat (`node_groups` = 1), per block: every node gets slots in proportion to its memory; the replicas are
    one per expert and then, while slots are left, one more of the expert with the largest load per replica,
    at most one per node; the replicas, largest load first, go each to the node with the least load that has
    a slot and not yet that expert. With nodes of equal memory this is longest processing time with equal
    slot counts, as published; unequal memory has no published form, and the proportional slots are an
    adaptation.

    Hierarchical (`node_groups` > 1): nodes form so many groups of neighbours in their order, the experts of
    a block `expert_groups` groups of neighbours; each group of experts, largest load first, goes to the group
    of nodes with the least load per slot that has the slots for all of it (else to the one with the most
    slots left); inside each group of nodes the flat form follows.

    Slots too few to hold every expert are mended by the coverage repair, as are pins. O(E N log E).
    """
    holds = np.zeros((problem.nodes, problem.experts), np.uint8)
    slots = _slots(problem)
    load = traffic.activity.sum(axis=0)
    teams = np.array_split(np.arange(problem.nodes), min(params.node_groups, problem.nodes))
    for block in range(problem.blocks):
        first, last = problem.block_offset[block : block + 2].tolist()
        parts = _split(load[first:last], slots[:, block], teams, params.expert_groups)
        for team, part in zip(teams, parts, strict=True):
            balanced = np.zeros((len(team), len(part)), np.uint8)
            _balance(load[first + part], slots[team, block], True, balanced)
            holds[np.ix_(team, first + part)] = balanced
    return _finish(problem, traffic, holds, stopping)


def smartmoe(problem: PlacementProblem, traffic: Traffic, stopping: Stopping = never) -> UInt8:
    """Load balancing without replication: every expert once, largest load first, on the node with the least
    load in the block that has one of the block's slots left; slots as in `eplb`. `min_replicas` above 1 is
    left to the coverage repair. O(E N)."""
    holds = np.zeros((problem.nodes, problem.experts), np.uint8)
    slots = _slots(problem)
    load = traffic.activity.sum(axis=0)
    for block in range(problem.blocks):
        first, last = problem.block_offset[block : block + 2].tolist()
        _balance(load[first:last], slots[:, block], False, holds[:, first:last])
    return _finish(problem, traffic, holds, stopping)


def _finish(problem: PlacementProblem, traffic: Traffic, holds: UInt8, stopping: Stopping) -> UInt8:
    allowed = allowance(problem)
    holds[allowed < 0] = 0
    holds[allowed > 0] = 1
    return make_feasible(problem, traffic, holds, stopping)


def _split(load: Float64, slots: Int64, teams: list[Int64], groups: int) -> list[Int64]:
    """The experts of one block for each group of nodes."""
    experts = np.arange(len(load))
    if len(teams) == 1:
        return [experts]
    left = np.array([int(slots[team].sum()) for team in teams])
    slots_of_team = np.maximum(left, 1)
    carried = np.zeros(len(teams))
    taken: list[list[Int64]] = [[] for _ in teams]
    parts = [part for part in np.array_split(experts, groups) if len(part)]
    for part in sorted(parts, key=lambda part: -float(load[part].sum())):
        roomy = left >= len(part)
        chosen = int(np.argmin(np.where(roomy, carried, np.inf))) if roomy.any() else int(np.argmax(left))
        taken[chosen].append(part)
        left[chosen] -= len(part)
        carried[chosen] += load[part].sum() / slots_of_team[chosen]
    return [np.sort(np.concatenate(part)) if part else experts[:0] for part in taken]


def _slots(problem: PlacementProblem) -> Int64:
    """int64[N, B]: experts of each block a node has room for, its memory split over blocks by their bytes;
    the bytes the rounding leaves go, an expert at a time, to the blocks furthest below their share."""
    capacity = packable_bytes(problem)
    total = max(1, int(problem.column_bytes.sum()))
    slots = np.zeros((problem.nodes, problem.blocks), np.int64)
    for node in range(problem.nodes):
        share = problem.experts_per_block * min(1.0, float(capacity[node]) / total)
        slots[node] = np.minimum(np.floor(share).astype(np.int64), problem.experts_per_block)
        free = int(capacity[node] - slots[node] @ problem.expert_bytes)
        # rotated by node, so that equal remainders of different nodes favour different blocks
        rotation = (np.arange(problem.blocks) - node) % max(1, problem.blocks)
        for block in np.lexsort((rotation, slots[node] - share)).tolist():
            if slots[node, block] < problem.experts_per_block[block] and problem.expert_bytes[block] <= free:
                slots[node, block] += 1
                free -= int(problem.expert_bytes[block])
    return slots


def _balance(load: Float64, slots: Int64, replicate: bool, holds: UInt8) -> None:
    """Writes holds uint8[N, E_b] for one block of load float64[E_b] and slots int64[N]."""
    experts = len(load)
    total = int(slots.sum())
    hosts = int((slots > 0).sum())
    if experts == 0 or total == 0:
        return
    copies = np.zeros(experts, np.int64)
    copies[np.argsort(-load, kind="stable")[:total]] = 1
    heap = [(-load[e], e) for e in range(experts) if copies[e]]
    heapq.heapify(heap)
    spare = total - int(copies.sum())
    while replicate and spare > 0 and heap:
        _, e = heapq.heappop(heap)
        if copies[e] >= hosts:
            continue
        copies[e] += 1
        spare -= 1
        heapq.heappush(heap, (-load[e] / copies[e], e))
    per_copy = np.divide(load, copies, out=np.zeros(experts), where=copies > 0)
    carried = np.zeros(len(slots))
    free = slots.copy()
    for e in np.argsort(-per_copy, kind="stable").tolist():
        for _ in range(int(copies[e])):
            open_to = np.flatnonzero((free > 0) & (holds[:, e] == 0))
            if len(open_to) == 0:
                break
            node = int(open_to[np.argmin(carried[open_to])])
            holds[node, e] = 1
            free[node] -= 1
            carried[node] += per_copy[e]
