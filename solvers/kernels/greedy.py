"""Kernels of `greedy`: the lazy one, exact where gains only shrink, and one that keeps every gain up to date.

Both add the replica of the largest gain per byte among those that fit, the lower index n * E + e first among
equals, and keep a device for each replica, so that the placement always packs.
"""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.kernels.evaluation import COLOCATED, route_latency
from solvers.problem import Float64, Int8, Int32, Int64, UInt8


@compiled
def _roomiest(device_start: Int64, device_free: Int64, n: int) -> int:
    chosen = -1
    for d in range(device_start[n], device_start[n + 1]):
        if chosen < 0 or device_free[d] > device_free[chosen]:
            chosen = d
    return chosen


@compiled
def _fits(device_start: Int64, device_free: Int64, n: int, size: int) -> bool:
    d = _roomiest(device_start, device_free, n)
    return d >= 0 and device_free[d] >= size


@compiled
def call_gain(
    weight: Float64, latency: Float64, costs: Float64, opening: Float64, column: int, n: int
) -> float:
    """Seconds per second that a replica of the expert at n saves single calls, less its opening. O(N)."""
    gain = 0.0
    for m in range(weight.shape[0]):
        if costs[m, column] > latency[m, n]:
            gain += weight[m, column] * (costs[m, column] - latency[m, n])
    return float(gain - opening[n, column])


@compiled
def call_gains(
    weight: Float64,
    latency: Float64,
    costs: Float64,
    opening: Float64,
    allowed: Int8,
    holds: UInt8,
    out: Float64,
) -> None:
    """out float64[N, E]: `call_gain` of every replica that may be added, 0 of the others. O(N^2 E)."""
    for n in range(out.shape[0]):
        for e in range(out.shape[1]):
            out[n, e] = 0.0
            if allowed[n, e] == 0 and holds[n, e] == 0:
                out[n, e] = call_gain(weight, latency, costs, opening, e, n)


@compiled
def _before(key: Float64, item: Int64, a: int, b: int) -> bool:
    return bool(key[a] > key[b] or (key[a] == key[b] and item[a] < item[b]))


@compiled
def _sift_down(key: Float64, item: Int64, stamp: Int32, position: int, size: int) -> None:
    while True:
        top = position
        for child in (2 * position + 1, 2 * position + 2):
            if child < size and _before(key, item, child, top):
                top = child
        if top == position:
            return
        key[position], key[top] = key[top], key[position]
        item[position], item[top] = item[top], item[position]
        stamp[position], stamp[top] = stamp[top], stamp[position]
        position = top


@compiled
def heapify(gains: Float64, size: Int64, key: Float64, item: Int64, stamp: Int32) -> int:
    """Writes a heap of the positive gains float64[N, E] per byte; returns how many. O(N E)."""
    count = 0
    experts = gains.shape[1]
    for n in range(gains.shape[0]):
        for e in range(experts):
            if gains[n, e] > 0.0:
                key[count] = gains[n, e] / size[e]
                item[count] = n * experts + e
                stamp[count] = 0
                count += 1
    for position in range(count // 2 - 1, -1, -1):
        _sift_down(key, item, stamp, position, count)
    return count


@compiled
def lazy_greedy(
    weight: Float64,
    latency: Float64,
    costs: Float64,
    opening: Float64,
    size: Int64,
    device_start: Int64,
    device_free: Int64,
    holds: UInt8,
    key: Float64,
    item: Int64,
    stamp: Int32,
    version: Int32,
    count: int,
    most: int,
) -> int:
    """Adds at most `most` replicas from the heap of `count` entries; returns how many entries are left.

    weight float64[N, E]: calls per second; costs float64[N, E]: what they cost now. An entry made before the
    last replica of its expert (stamp < version) is an upper bound of its gain, which only shrinks: it is
    computed anew when it comes to the top, and only then. Modifies costs, device_free int64[D], holds
    uint8[N, E], the heap and version int32[E]. O(log(N E) + N) per entry that comes to the top.
    """
    nodes, experts = holds.shape
    added = 0
    while count > 0 and added < most:
        n, e = divmod(item[0], experts)
        current = stamp[0] == version[e]
        fits = _fits(device_start, device_free, n, size[e])
        gain = 0.0
        if fits and not current:
            gain = call_gain(weight, latency, costs, opening, e, n)
        if fits and not current and gain > 0.0:
            key[0] = gain / size[e]
            stamp[0] = version[e]
        else:
            if fits and current:
                holds[n, e] = 1
                device_free[_roomiest(device_start, device_free, n)] -= size[e]
                for m in range(nodes):
                    costs[m, e] = min(costs[m, e], latency[m, n])
                version[e] += 1
                added += 1
            count -= 1
            key[0], item[0], stamp[0] = key[count], item[count], stamp[count]
        _sift_down(key, item, stamp, 0, count)
    return count


@compiled
def _contribute(
    sign: float,
    coupling: int,
    n: int,
    columns: Int32,
    rate: float,
    host: float,
    latency: Float64,
    origin: Float64,
    costs: Float64,
    holds: UInt8,
    gain: Float64,
    alone: Float64,
) -> None:
    """Adds sign * (what one route gives to the gain of every replica of its experts)."""
    nodes = holds.shape[0]
    total = 0.0
    top = 0.0
    second = 0.0
    size = 0
    for k in range(columns.shape[0]):
        if columns[k] < 0:
            break
        size += 1
        cost = costs[n, columns[k]]
        total += cost
        if cost > top:
            top, second = cost, top
        elif cost > second:
            second = cost
    for k in range(size):
        c = columns[k]
        cost = costs[n, c]
        others = second if cost == top else top
        for m in range(nodes):
            if holds[m, c] != 0:
                continue
            call = latency[n, m]
            nearer = min(cost, call)
            own = np.inf  # of the route, once this replica is there
            if coupling == COLOCATED:
                own = call
                for j in range(size):
                    if j != k and holds[m, columns[j]] == 0:
                        own = np.inf
                        break
            fall = route_latency(coupling, total, top, host, origin[n]) - route_latency(
                coupling, total - cost + nearer, max(others, nearer), min(host, own), origin[n]
            )
            gain[m, c] += sign * rate * fall
            if cost > call:
                alone[m, c] += sign * rate * (cost - call)


@compiled
def route_gains(
    coupling: int,
    node: Int32,
    columns: Int32,
    rate: Float64,
    latency: Float64,
    origin: Float64,
    costs: Float64,
    holds: UInt8,
    host: Float64,
    gain: Float64,
    alone: Float64,
) -> None:
    """Adds to gain float64[N, E] what each replica that is absent saves of J, and to alone float64[N, E] what
    it saves single calls.

    node int32[R], columns int32[R, K] (-1 pads at the end), rate float64[R]; costs float64[N, E]: of single
    calls, finite; host float64[R]: latency of the nearest holder of the whole route. O(R K N), times K for
    `colocated`.
    """
    for r in range(node.shape[0]):
        _contribute(
            1.0, coupling, node[r], columns[r], rate[r], host[r], latency, origin, costs, holds, gain, alone
        )


@compiled
def incidence(columns: Int32, start: Int64, routes: Int32) -> None:
    """routes[start[c] : start[c + 1]] are the routes that hold column c. start int64[E + 1] and routes
    int32[number of expert calls] are written. O(R K + E)."""
    experts = start.shape[0] - 1
    for c in range(experts + 1):
        start[c] = 0
    for r in range(columns.shape[0]):
        for k in range(columns.shape[1]):
            if columns[r, k] >= 0:
                start[columns[r, k] + 1] += 1
    for c in range(experts):
        start[c + 1] += start[c]
    cursor = start[:-1].copy()
    for r in range(columns.shape[0]):
        for k in range(columns.shape[1]):
            c = columns[r, k]
            if c >= 0:
                routes[cursor[c]] = r
                cursor[c] += 1


@compiled
def _best_of_block(
    first: int,
    last: int,
    score: Float64,
    opening: Float64,
    allowed: Int8,
    size: Int64,
    device_start: Int64,
    device_free: Int64,
    holds: UInt8,
    least: float,
) -> tuple[float, int]:
    """The best score less opening cost per byte among the block's replicas that fit, and its n * E + e."""
    nodes, experts = holds.shape
    best = 0.0
    item = -1
    for n in range(nodes):
        room = 0
        d = _roomiest(device_start, device_free, n)
        if d >= 0:
            room = device_free[d]
        for e in range(first, last):
            if holds[n, e] != 0 or allowed[n, e] != 0 or size[e] > room:
                continue
            if score[n, e] - opening[n, e] <= least:
                continue
            value = (score[n, e] - opening[n, e]) / size[e]
            if value > best:
                best = value
                item = n * experts + e
    return best, item


@compiled
def eager_greedy(
    coupling: int,
    node: Int32,
    columns: Int32,
    rate: Float64,
    incident_start: Int64,
    incident: Int32,
    block_offset: Int64,
    column_block: Int32,
    latency: Float64,
    origin: Float64,
    costs: Float64,
    opening: Float64,
    allowed: Int8,
    size: Int64,
    device_start: Int64,
    device_free: Int64,
    holds: UInt8,
    host: Float64,
    gain: Float64,
    alone: Float64,
    best: Float64,
    item: Int64,
    least: float,
    most: int,
) -> int:
    """Adds at most `most` replicas, each time that of the largest gain per byte, whether gains shrink or
    grow; where none saves anything, that which saves single calls most. Returns how many were added.

    best float64[2, B] and item int64[2, B]: per block the best by gain and by single calls, item -2 where not
    known; gain, alone and host as `route_gains` left them. Gains of at most `least` count as none. Modifies
    costs, device_free, holds, host, gain, alone, best and item. Per replica: O(N K routes of the expert + N
    E_b + B), routes twice and times K for `colocated`.
    """
    nodes, experts = holds.shape
    blocks = block_offset.shape[0] - 1
    for added in range(most):
        chosen = np.int64(-1)
        for kind in range(2):
            while chosen < 0:
                top = -1
                for b in range(blocks):
                    if item[kind, b] == -2:
                        best[kind, b], item[kind, b] = _best_of_block(
                            block_offset[b],
                            block_offset[b + 1],
                            gain if kind == 0 else alone,
                            opening,
                            allowed,
                            size,
                            device_start,
                            device_free,
                            holds,
                            least,
                        )
                    if item[kind, b] >= 0 and (
                        top < 0
                        or best[kind, b] > best[kind, top]
                        or (best[kind, b] == best[kind, top] and item[kind, b] < item[kind, top])
                    ):
                        top = b
                if top < 0:
                    break
                n, e = divmod(item[kind, top], experts)
                if _fits(device_start, device_free, n, size[e]):
                    chosen = item[kind, top]
                else:
                    item[kind, top] = -2
            if chosen >= 0:
                break
        if chosen < 0:
            return added
        n, e = divmod(chosen, experts)
        for position in range(incident_start[e], incident_start[e + 1]):
            r = incident[position]
            _contribute(
                -1.0,
                coupling,
                node[r],
                columns[r],
                rate[r],
                host[r],
                latency,
                origin,
                costs,
                holds,
                gain,
                alone,
            )
        holds[n, e] = 1
        device_free[_roomiest(device_start, device_free, n)] -= size[e]
        for m in range(nodes):
            costs[m, e] = min(costs[m, e], latency[m, n])
        for position in range(incident_start[e], incident_start[e + 1]):
            r = incident[position]
            complete = True
            for k in range(columns.shape[1]):
                if columns[r, k] >= 0 and holds[n, columns[r, k]] == 0:
                    complete = False
                    break
            if complete:
                host[r] = min(host[r], latency[node[r], n])
            _contribute(
                1.0,
                coupling,
                node[r],
                columns[r],
                rate[r],
                host[r],
                latency,
                origin,
                costs,
                holds,
                gain,
                alone,
            )
        item[0, column_block[e]] = -2
        item[1, column_block[e]] = -2
    return most
