"""Baselines, expressed on the same instance; each returns a feasible placement or raises `Uncoverable`."""

from __future__ import annotations

import heapq

import numpy as np

from solvers.coverage import allowance, make_feasible
from solvers.packing import packable_bytes
from solvers.problem import Int64, PlacementProblem, UInt8
from solvers.traffic import Traffic


def uniform(problem: PlacementProblem, traffic: Traffic) -> UInt8:
    """Round robin: the experts in order, each `min_replicas` times (once where that is 0), each replica on
    the next node in turn that may hold it and has the memory. O(E N)."""
    allowed = allowance(problem)
    holds = (allowed == 1).astype(np.uint8)
    free = packable_bytes(problem) - holds.astype(np.int64) @ problem.column_bytes
    turn = 0
    for column, size in enumerate(problem.column_bytes.tolist()):
        wanted = max(1, problem.min_replicas) - int(holds[:, column].sum())
        for _ in range(max(0, wanted)):
            for step in range(problem.nodes):
                node = (turn + step) % problem.nodes
                if not holds[node, column] and allowed[node, column] == 0 and free[node] >= size:
                    holds[node, column] = 1
                    free[node] -= size
                    turn = node + 1
                    break
    return make_feasible(problem, traffic, holds)


def local_popularity(problem: PlacementProblem, traffic: Traffic) -> UInt8:
    """Each node holds the experts its own tokens call most often per byte, while its memory lasts; then
    coverage is repaired, which may displace the least useful. O(N E log E)."""
    holds = (allowance(problem) == 1).astype(np.uint8)
    for node in range(problem.nodes):
        fill_by_popularity(problem, traffic, node, holds)
    return make_feasible(problem, traffic, holds)


def fill_by_popularity(problem: PlacementProblem, traffic: Traffic, node: int, holds: UInt8) -> None:
    """Adds to row `node` of holds uint8[N, E] what its own tokens call most often per byte and still fits.
    O(E log E)."""
    allowed = allowance(problem)[node]
    size = problem.column_bytes
    calls = traffic.activity[node]
    free = int(packable_bytes(problem)[node] - holds[node].astype(np.int64) @ size)
    for column in np.argsort(-calls / size, kind="stable").tolist():
        wanted = calls[column] > 0 and allowed[column] == 0 and not holds[node, column]
        if wanted and size[column] <= free:
            holds[node, column] = 1
            free -= int(size[column])


def eplb(problem: PlacementProblem, traffic: Traffic) -> UInt8:
    """The flat form of the expert-parallel load balancer: balances load and knows nothing of who calls from
    where.

    Per block: every node gets slots in proportion to its memory; the replicas are one per expert and then,
    while slots are left, one more of the expert with the largest load per replica, at most one per node; the
    replicas, largest load first, go each to the node with the least load that has a slot and not yet that
    expert. With nodes of equal memory this is longest processing time with equal slot counts, as published;
    unequal memory has no published form, and the proportional slots are an adaptation. Slots too few to hold
    every expert are mended by the coverage repair, as are pins. O(E N log E).
    """
    holds = np.zeros((problem.nodes, problem.experts), np.uint8)
    slots = _slots(problem)
    load = traffic.activity.sum(axis=0)
    for block in range(problem.blocks):
        first, last = problem.block_offset[block : block + 2].tolist()
        _balance(load[first:last], slots[:, block], holds[:, first:last])
    allowed = allowance(problem)
    holds[allowed < 0] = 0
    holds[allowed > 0] = 1
    return make_feasible(problem, traffic, holds)


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


def _balance(load: np.ndarray[tuple[int, ...], np.dtype[np.float64]], slots: Int64, holds: UInt8) -> None:
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
    while spare > 0 and heap:
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
