"""Kernels of best responses in a large fleet; see `solvers.response.fleet`. Arrays over (expert, node) are
[E, N].
"""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.kernels.evaluation import COLOCATED, SUM
from solvers.kernels.tables import exact_table, incident_terms
from solvers.problem import Float32, Float64, Int8, Int16, Int32, Int64, UInt8


@compiled
def _served(m: int, n: int, e: int, call: float, costs: Float32, others: Float32, hosts: Int16) -> float:
    """What a call of e by m costs without n, or `call`, that to n, where it costs less."""
    cost = others[e, m] if hosts[e, m] == n else costs[e, m]
    return float(max(call, cost))


@compiled
def _terms(
    coupling: int,
    n: int,
    first: int,
    edges: Int64,
    experts: Int32,
    rate: Float64,
    latency: Float64,
    costs: Float32,
    others: Float32,
    hosts: Int16,
    route_costs: Float32,
    route_others: Float32,
    route_hosts: Int16,
    worst: Float32,
    row: UInt8,
    modular: Float64,
    term_experts: Int32,
    term_size: Int32,
    term_weight: Float64,
) -> int:
    """As `terms.build_terms` for one block whose routes of node m are [edges[m] : edges[m + 1]], but looks
    only at nodes that n could serve better than others do: worst float32[N] is at least what any call costs
    them."""
    nodes = latency.shape[0]
    width = experts.shape[1]
    served = np.zeros(nodes, np.uint8)  # by n, now
    if coupling != COLOCATED:
        for e in range(first, first + row.shape[0]):
            if row[e - first] != 0:
                for m in range(nodes):
                    served[m] |= hosts[e, m] == n
    count = 0
    ranked = np.empty(width, np.int32)
    paid = np.empty(width)
    for m in range(nodes):
        call = latency[m, n]
        if coupling != COLOCATED and served[m] == 0 and call >= worst[m]:
            continue
        for r in range(edges[m], edges[m + 1]):
            if coupling == COLOCATED:
                cost = route_others[r] if route_hosts[r] == n else route_costs[r]
                if cost <= call:
                    continue
                size = 0
                while size < width and experts[r, size] >= 0:
                    term_experts[count, size] = experts[r, size]
                    size += 1
                if size == 1:
                    modular[experts[r, 0]] += rate[r] * (cost - call)
                else:
                    term_size[count] = size
                    term_weight[count] = rate[r] * (cost - call)
                    count += 1
                continue
            kept = 0  # experts dearer than the call, dearest first
            for k in range(width):
                e = experts[r, k]
                if e < 0:
                    break
                cost = _served(m, n, first + e, call, costs, others, hosts)
                if cost <= call:
                    continue
                if coupling == SUM:
                    modular[e] += rate[r] * (cost - call)
                    continue
                position = kept
                while position > 0 and paid[position - 1] < cost:
                    ranked[position] = ranked[position - 1]
                    paid[position] = paid[position - 1]
                    position -= 1
                ranked[position] = e
                paid[position] = cost
                kept += 1
            for j in range(1, kept + 1):
                weight = rate[r] * (paid[j - 1] - (paid[j] if j < kept else call))
                if weight <= 0.0:
                    continue
                if j == 1:
                    modular[ranked[0]] += weight
                    continue
                for k in range(j):
                    term_experts[count, k] = ranked[k]
                term_size[count] = j
                term_weight[count] = weight
                count += 1
    return count


@compiled
def _drops(
    state: Int8,
    modular: Float64,
    term_experts: Int32,
    term_size: Int32,
    term_weight: Float64,
    terms: int,
    values: Float64,
    level: Int32,
) -> None:
    """As `tables.drop_table`, whose sets are nested: e is in the set of k where k >= level[e]."""
    experts = state.shape[0]
    offset, incident = incident_terms(experts, term_experts, term_size, terms)
    loss = modular.copy()
    alive = np.ones(terms, np.uint8)
    value = 0.0
    for t in range(terms):
        for k in range(term_size[t]):
            if state[term_experts[t, k]] < 0:
                alive[t] = 0
        if alive[t] != 0:
            value += term_weight[t]
            for k in range(term_size[t]):
                loss[term_experts[t, k]] += term_weight[t]
    free = np.empty(experts, np.int32)  # what may still be dropped
    left = size = 0
    for e in range(experts):
        values[e] = -np.inf
        level[e] = 0
        if state[e] < 0:
            level[e] = experts + 1
            continue
        size += 1
        value += modular[e]
        if state[e] == 0:
            free[left] = e
            left += 1
    for k in range(size + 1, experts + 1):
        values[k] = -np.inf
    while True:
        values[size] = value
        if left == 0:
            return
        place = 0
        for i in range(1, left):
            if loss[free[i]] < loss[free[place]]:
                place = i
        least = free[place]
        left -= 1
        free[place] = free[left]
        level[least] = size
        value -= loss[least]
        size -= 1
        for position in range(offset[least], offset[least + 1]):
            t = incident[position]
            if alive[t] != 0:
                alive[t] = 0
                for k in range(term_size[t]):
                    loss[term_experts[t, k]] -= term_weight[t]


@compiled
def respond(
    coupling: int,
    n: int,
    first_block: int,
    last_block: int,
    block_offset: Int64,
    edges: Int64,
    experts: Int32,
    rate: Float64,
    latency: Float64,
    costs: Float32,
    others: Float32,
    hosts: Int16,
    route_costs: Float32,
    route_others: Float32,
    route_hosts: Int16,
    worst: Float32,
    state: Int8,
    opening: Float64,
    row: UInt8,
    exact: Int64,
    values: Float64,
    level: Int32,
    sets: UInt8,
    own: Float64,
) -> int:
    """For the blocks [first_block, last_block): what n saves with the best k experts of the block found by
    dropping the least useful, values float64[E + B] (those of block b begin at block_offset[b] + b); which
    they are, level int32[E]: e is one of k where k >= level[e]; and what its row uint8[E] saves now, own
    float64[B]. Returns the experts of all terms it looked at.

    Blocks with different ends in exact int64[B + 1] have exact tables: their sets are sets[exact[b] : exact[b
    + 1]] uint8, one of all experts after another, in place of levels.

    edges int64[B, N + 1]: routes of each node in each block; experts int32[R, K], rate float64[R]; state
    int8[E]: 1 must be held, -1 must not; opening float64[E]; worst float32[B, N]. Writes those four alone.
    """
    nodes = latency.shape[0]
    width = max(1, experts.shape[1])
    most = 0
    if coupling != SUM:
        for b in range(first_block, last_block):
            most = max(most, edges[b, nodes] - edges[b, 0])
        if coupling != COLOCATED:
            most *= width
    term_experts = np.empty((most + 1, width), np.int32)
    term_size = np.empty(most + 1, np.int32)
    term_weight = np.empty(most + 1)
    largest = 0
    for b in range(first_block, last_block):
        if exact[b + 1] > exact[b]:
            largest = max(largest, block_offset[b + 1] - block_offset[b])
    scratch = np.empty(1 << largest)
    seen = 0
    for b in range(first_block, last_block):
        first = block_offset[b]
        last = block_offset[b + 1]
        modular = -opening[first:last]
        terms = _terms(
            coupling,
            n,
            first,
            edges[b],
            experts,
            rate,
            latency,
            costs,
            others,
            hosts,
            route_costs,
            route_others,
            route_hosts,
            worst[b],
            row[first:last],
            modular,
            term_experts,
            term_size,
            term_weight,
        )
        seen += terms * width
        held = row[first:last]
        value = 0.0
        for e in range(last - first):
            if held[e] != 0:
                value += modular[e]
        for t in range(terms):
            inside = True
            for k in range(term_size[t]):
                if held[term_experts[t, k]] == 0:
                    inside = False
                    break
            if inside:
                value += term_weight[t]
        own[b] = value
        size = last - first
        if exact[b + 1] > exact[b]:
            exact_table(
                state[first:last],
                modular,
                term_experts,
                term_size,
                term_weight,
                terms,
                scratch,
                values[first + b : last + b + 1],
                sets[exact[b] : exact[b + 1]].reshape((size + 1, size)),
            )
            continue
        _drops(
            state[first:last],
            modular,
            term_experts,
            term_size,
            term_weight,
            terms,
            values[first + b : last + b + 1],
            level[first:last],
        )
    return seen


@compiled
def fill_up(values: Float64, block_offset: Int64, size: Int64, room: int, counts: Int32) -> None:
    """Raises counts int32[B] while that gains anything and the room lasts, by what gains most per byte.
    O(B E_b) per rise."""
    blocks = counts.shape[0]
    while room > 0:
        best = 0.0
        block = more = -1
        for b in range(blocks):
            base = block_offset[b] + b
            here = values[base + counts[b]]
            for k in range(counts[b] + 1, block_offset[b + 1] - block_offset[b] + 1):
                need = (k - counts[b]) * size[b]
                if need > room:
                    break
                gained = (values[base + k] - here) / need
                if gained > best:
                    best, block, more = gained, b, k - counts[b]
        if block < 0:
            return
        counts[block] += more
        room -= more * size[block]


@compiled
def change_row(
    n: int,
    row: UInt8,
    held_by: UInt8,
    column_block: Int32,
    latency: Float64,
    fallback: Float64,
    active: UInt8,
    costs: Float32,
    others: Float32,
    hosts: Int16,
    seconds: Int16,
    worst: Float32,
) -> None:
    """Makes row uint8[E] what n holds: held_by uint8[E, N], the two nearest holders (as of
    `nearest.two_nearest`) and worst float32[B, N], which stays an upper bound, over the calls that are made,
    active uint8[E, N]. O(N) per replica that comes, and O(N + nodes served by it * holders) per one that
    goes."""
    experts, nodes = held_by.shape
    holders = np.empty(nodes, np.int32)
    for e in range(experts):
        if row[e] == held_by[e, n]:
            continue
        held_by[e, n] = row[e]
        if row[e] != 0:
            for m in range(nodes):
                served = latency[m, n]
                if served < costs[e, m]:
                    others[e, m] = costs[e, m]
                    seconds[e, m] = hosts[e, m]
                    costs[e, m] = served
                    hosts[e, m] = n
                elif served < others[e, m]:
                    others[e, m] = served
                    seconds[e, m] = n
            continue
        number = 0
        for m in range(nodes):
            if held_by[e, m] != 0:
                holders[number] = m
                number += 1
        b = column_block[e]
        for m in range(nodes):
            if hosts[e, m] != n and seconds[e, m] != n:
                continue
            best = second = fallback[m]
            host = other = -1
            for position in range(number):
                served = latency[m, holders[position]]
                if served < best:
                    second, other = best, host
                    best, host = served, holders[position]
                elif served < second:
                    second, other = served, holders[position]
            costs[e, m], others[e, m] = best, second
            hosts[e, m], seconds[e, m] = host, other
            if active[e, m] != 0 and costs[e, m] > worst[b, m]:
                worst[b, m] = costs[e, m]


@compiled
def worst_calls(block_offset: Int64, active: UInt8, costs: Float32, worst: Float32) -> None:
    """worst[b, n] = most that a call of the block costs n, of those it makes; 0 where it makes none. O(N
    E)."""
    nodes = costs.shape[1]
    for b in range(worst.shape[0]):
        for n in range(nodes):
            worst[b, n] = 0.0
        for e in range(block_offset[b], block_offset[b + 1]):
            for n in range(nodes):
                if active[e, n] != 0:
                    worst[b, n] = max(worst[b, n], costs[e, n])


@compiled
def route_hosts(
    first: int,
    last: int,
    column: Int64,
    node: Int32,
    experts: Int32,
    held_by: UInt8,
    nearest: Int64,
    latency: Float64,
    origin: Float64,
    costs: Float32,
    others: Float32,
    hosts: Int16,
    seconds: Int16,
) -> None:
    """For the routes [first, last): the two nearest nodes that hold all of the route, and what they cost; -1
    and the origin's latency where there is none nearer. column int64[R]: first column of each route's block.
    O(N K) a route."""
    nodes = latency.shape[0]
    width = experts.shape[1]
    for r in range(first, last):
        n = node[r]
        found = 0
        costs[r] = others[r] = origin[n]
        hosts[r] = seconds[r] = -1
        for i in range(nodes):
            m = nearest[n, i]
            if latency[n, m] >= origin[n] or found == 2:
                break
            whole = True
            for k in range(width):
                if experts[r, k] >= 0 and held_by[column[r] + experts[r, k], m] == 0:
                    whole = False
                    break
            if whole and found == 0:
                costs[r], hosts[r], found = latency[n, m], m, 1
            elif whole:
                others[r], seconds[r], found = latency[n, m], m, 2


@compiled
def change_hosts(
    n: int,
    first: int,
    last: int,
    column: Int64,
    node: Int32,
    experts: Int32,
    held_by: UInt8,
    nearest: Int64,
    latency: Float64,
    origin: Float64,
    costs: Float32,
    others: Float32,
    hosts: Int16,
    seconds: Int16,
) -> None:
    """As `route_hosts`, after n's row has changed, for the routes that it matters to. O(R K)."""
    width = experts.shape[1]
    for r in range(first, last):
        m = node[r]
        was = hosts[r] == n or seconds[r] == n
        if not was and latency[m, n] >= others[r]:
            continue
        whole = True
        for k in range(width):
            if experts[r, k] >= 0 and held_by[column[r] + experts[r, k], n] == 0:
                whole = False
                break
        if whole != was:
            route_hosts(
                r,
                r + 1,
                column,
                node,
                experts,
                held_by,
                nearest,
                latency,
                origin,
                costs,
                others,
                hosts,
                seconds,
            )
