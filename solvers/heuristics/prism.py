"""`prism`: activation-aware placement in two stages (of DanceMoE, later Prism, arXiv 2508.12851).

*Paper*, as secondary notes on it tell: counts per node and layer by entropy; each node's most frequent
experts, repaired until every expert is somewhere; a migration rule. *Ours*: unequal expert sizes, pins,
`min_replicas`, the balance of frequency over the devices of a node.
"""

from __future__ import annotations

import numpy as np

from solvers.cost.evaluate import total_cost
from solvers.feasible.packing import pack, packable_bytes
from solvers.feasible.repair import NoPlacement, allowance, make_feasible
from solvers.feasible.violations import shortfalls
from solvers.problem import Float64, Int32, Int64, PlacementProblem, UInt8
from solvers.stopping import Stopping, never
from solvers.tolerances import WHOLE_SHARE
from solvers.traffic import Traffic


def prism(problem: PlacementProblem, traffic: Traffic, stopping: Stopping = never) -> UInt8:
    """The two stages, made feasible; the placement in force instead, where that is feasible and the new one
    is not cheaper with the cost of moving counted: adopted iff H J(X) + M(X0, X) < H J(X0).

    No bound for the whole: (1 - 1/e) is published for a modular utility, which stage 2 maximises exactly, not
    for the repaired placement. O(N E (log E + replicas to repair)). Raises `NoPlacement`.
    """
    holds = most_frequent(problem, traffic, entropy_slots(problem, traffic))
    cover(problem, traffic, holds)
    current = problem.current
    if current is None or shortfalls(problem, current):
        return make_feasible(problem, traffic, holds, stopping)
    try:
        placed = make_feasible(problem, traffic, holds, stopping, needed=False)
    except NoPlacement:
        return current.copy()
    return placed if total_cost(problem, placed) < total_cost(problem, current) else current.copy()


def entropy_slots(problem: PlacementProblem, traffic: Traffic) -> Int64:
    """int64[N, B], stage 1: how many experts of each block a node is to hold.

    The memory of n is split so that slots are proportional to the Shannon entropy of its activation
    frequencies in the block (to 1 where all are 0), at most one per expert; what rounding leaves goes to the
    largest remainders. Then blocks with fewer slots in all than `min_replicas` times their experts take slots
    from blocks with more than that, on the largest nodes first. O(N B E).
    """
    capacity = packable_bytes(problem)
    slots = np.zeros((problem.nodes, problem.blocks), np.int64)
    for n in range(problem.nodes):
        entropy = np.array([_entropy(calls) for calls in _by_block(problem, traffic.activity[n])])
        slots[n] = _split(entropy, int(capacity[n]), problem.expert_bytes, problem.experts_per_block)
    _shift(problem, capacity, slots)
    return slots


def most_frequent(problem: PlacementProblem, traffic: Traffic, slots: Int64) -> UInt8:
    """uint8[N, E], stage 2: each node its `slots` int64[N, B] most called experts of each block, the pinned
    first, none that is forbidden. Local hits are the most possible with these counts. O(N E log E)."""
    allowed = allowance(problem)
    holds = np.zeros((problem.nodes, problem.experts), np.uint8)
    for n in range(problem.nodes):
        for b in range(problem.blocks):
            first, last = problem.block_offset[b : b + 2].tolist()
            rule, calls = allowed[n, first:last], traffic.activity[n, first:last]
            order = np.lexsort((-calls, -rule))
            order = order[rule[order] >= 0][: slots[n, b]]
            holds[n, first + order] = 1
    holds[allowed == 1] = 1
    return holds


def cover(problem: PlacementProblem, traffic: Traffic, holds: UInt8) -> int:
    """While an expert lacks replicas, the node with the most experts of the block to spare drops the least
    called of them and takes the lacking one it calls most. Modifies holds uint8[N, E].

    Returns the steps taken: one per lacking replica, unless no node can help; then what is left is left to
    the coverage repair. O(N E_b) per step.
    """
    allowed = allowance(problem)
    steps = 0
    for b in range(problem.blocks):
        first, last = problem.block_offset[b : b + 2].tolist()
        held, rule = holds[:, first:last], allowed[:, first:last]
        calls = traffic.activity[:, first:last]
        replicas = held.sum(axis=0, dtype=np.int64)
        while (replicas < problem.min_replicas).any():
            lacking = (replicas < problem.min_replicas)[None, :] & (held == 0) & (rule >= 0)
            spare = (replicas > problem.min_replicas)[None, :] & (held == 1) & (rule == 0)
            able = lacking.any(axis=1)
            count = np.where(able, spare.sum(axis=1), 0)
            n = int(np.argmax(count))
            if count[n] == 0:
                break
            dropped = int(np.argmin(np.where(spare[n], calls[n], np.inf)))
            taken = int(np.argmax(np.where(lacking[n], calls[n], -np.inf)))
            held[n, dropped], held[n, taken] = 0, 1
            replicas[dropped] -= 1
            replicas[taken] += 1
            steps += 1
    return steps


def balanced_devices(problem: PlacementProblem, traffic: Traffic, node: int, columns: Int64) -> Int32 | None:
    """int32[len(columns)]: the device of each expert: the largest first, among equals the most called, onto
    the device with the most free memory, among equals the one called least so far. Where that does not fit,
    as `pack`; None where nothing fits. O(I log I + I D)."""
    device_node, device_capacity = problem.devices
    devices = np.flatnonzero(device_node == node)
    free = device_capacity[devices].copy()
    carried = np.zeros(len(devices))
    sizes, calls = problem.column_bytes[columns], traffic.activity[node, columns]
    out = np.zeros(len(columns), np.int32)
    for i in np.lexsort((-calls, -sizes)).tolist():
        chosen = int(np.lexsort((carried, -free))[0]) if len(devices) else -1
        if chosen < 0 or free[chosen] < sizes[i]:
            return pack(problem, node, columns)
        out[i] = devices[chosen]
        free[chosen] -= sizes[i]
        carried[chosen] += calls[i]
    return out


def _by_block(problem: PlacementProblem, values: Float64) -> list[Float64]:
    return np.split(values, problem.block_offset[1:-1]) if problem.blocks else []


def _entropy(calls: Float64) -> float:
    total = float(calls.sum())
    if total <= 0:
        return 0.0
    share = calls[calls > 0] / total
    return max(0.0, -float((share * np.log(share)).sum()))


def _split(entropy: Float64, capacity: int, size: Int64, experts: Int64) -> Int64:
    """int64[B]: the slots of one node."""
    weight = entropy if (entropy > 0).any() else np.ones(len(entropy))
    share = np.zeros(len(weight))
    open_to = (weight > 0) & (experts > 0)
    room = float(capacity)
    while open_to.any():
        share[open_to] = weight[open_to] * room / float(weight[open_to] @ size[open_to])
        full = open_to & (share >= experts)
        if not full.any():
            break
        share[full] = experts[full]
        room = max(0.0, capacity - float(experts[share >= experts] @ size[share >= experts]))
        open_to &= ~full
    slots = np.minimum(np.floor(share + WHOLE_SHARE).astype(np.int64), experts)
    free = capacity - int(slots @ size)
    order = np.argsort(slots - share, kind="stable")
    while True:
        more = [b for b in order.tolist() if slots[b] < experts[b] and size[b] <= free]
        if not more:
            return slots
        for b in more:
            if size[b] <= free:
                slots[b] += 1
                free -= int(size[b])


def _shift(problem: PlacementProblem, capacity: Int64, slots: Int64) -> None:
    """Moves slots to the blocks that have too few in all. Modifies slots int64[N, B]."""
    size, experts = problem.expert_bytes, problem.experts_per_block
    needed = problem.min_replicas * experts
    total = slots.sum(axis=0)
    free = capacity - slots @ size
    order = np.argsort(-capacity, kind="stable").tolist()
    for b in np.flatnonzero(total < needed).tolist():
        for n in order:
            while total[b] < needed[b] and slots[n, b] < experts[b]:
                if free[n] >= size[b]:
                    slots[n, b] += 1
                    total[b] += 1
                    free[n] -= size[b]
                    continue
                surplus = np.where(slots[n] > 0, total - needed, 0)
                donor = int(np.argmax(surplus))
                if surplus[donor] <= 0:
                    break
                slots[n, donor] -= 1
                total[donor] -= 1
                free[n] += size[donor]
