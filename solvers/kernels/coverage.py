"""Kernels that say what replicas are worth, and give every expert its replicas at the least loss."""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.problem import Float64, Int8, Int64, UInt8


@compiled
def cover(
    holds: UInt8,
    allowed: Int8,
    replicas_wanted: int,
    size: Int64,
    order: Int64,
    evictable: Int64,
    benefit: Float64,
    loss: Float64,
    free: Int64,
    replicas: Int64,
) -> bool:
    """Adds replicas of the experts `order` int64[E] until each has `replicas_wanted`; False where it gets
    stuck.

    An expert goes to the node where benefit[n, e] less the loss of what must leave for it is largest. Only
    experts with replicas to spare leave, in the order of evictable int64[N, E] (columns, -1 pads). allowed
    int8[N, E]: -1 must not be held, 1 must stay. Modifies holds uint8[N, E], free int64[N] (bytes), replicas
    int64[E]. O(E N + evictions), and O(E N E) at worst.
    """
    nodes = holds.shape[0]
    experts = holds.shape[1]
    cursor = np.zeros(nodes, np.int64)
    for position in range(order.shape[0]):
        e = order[position]
        while replicas[e] < replicas_wanted:
            target = -1
            best = -np.inf
            for n in range(nodes):
                if holds[n, e] != 0 or allowed[n, e] < 0:
                    continue
                score = benefit[n, e]
                room = free[n]
                c = cursor[n]
                while room < size[e] and c < experts and evictable[n, c] >= 0:
                    f = evictable[n, c]
                    if holds[n, f] != 0 and allowed[n, f] <= 0 and replicas[f] > replicas_wanted:
                        room += size[f]
                        score -= loss[n, f]
                    elif c == cursor[n]:
                        cursor[n] += 1  # an expert without a replica to spare never gets one again
                    c += 1
                if room >= size[e] and score > best:
                    best = score
                    target = n
            if target < 0:
                return False
            c = cursor[target]
            while free[target] < size[e]:
                f = evictable[target, c]
                if holds[target, f] != 0 and allowed[target, f] <= 0 and replicas[f] > replicas_wanted:
                    holds[target, f] = 0
                    replicas[f] -= 1
                    free[target] += size[f]
                c += 1
            holds[target, e] = 1
            replicas[e] += 1
            free[target] -= size[e]
    return True


@compiled
def replica_worth(
    held_by: UInt8,
    latency: Float64,
    fallback: Float64,
    activity: Float64,
    wanted: int,
    benefit: Float64,
    loss: Float64,
) -> None:
    """benefit[e, n]: what a replica at n saves all nodes while nobody holds e, for the experts of fewer than
    `wanted` replicas, 0 for others; loss[e, n]: what the nodes lose without the replica that n holds, given
    the other holders, 0 where it holds none. By single calls, `fallback` float64[N] being what a call costs
    while nobody holds the expert.

    held_by uint8[E, N]; activity float64[E, N], calls per second; latency float64[N, N] as ever. Writes
    benefit and loss float64[E, N]. O(N holders) an expert, O(N^2) one of fewer than `wanted` replicas: per
    node the best and the second best holder tell what is left without any one of them.
    """
    experts, nodes = held_by.shape
    holders = np.empty(nodes, np.int64)
    for e in range(experts):
        number = 0
        for n in range(nodes):
            benefit[e, n] = 0.0
            loss[e, n] = 0.0
            if held_by[e, n] != 0:
                holders[number] = n
                number += 1
        for i in range(nodes):
            rate = activity[e, i]
            if rate == 0.0:
                continue
            best = fallback[i]
            second = fallback[i]
            holder = -1
            for position in range(number):
                cost = latency[i, holders[position]]
                if cost < best:
                    second = best
                    best = cost
                    holder = holders[position]
                elif cost < second:
                    second = cost
            if holder >= 0:
                loss[e, holder] += rate * (second - best)
            if number < wanted:
                for n in range(nodes):
                    served = latency[i, n]
                    if served < fallback[i]:
                        benefit[e, n] += rate * (fallback[i] - served)
