"""The kernels' view of a cluster before the first move."""

from __future__ import annotations

import numpy as np

from migrations.allocation import Allocation
from migrations.cluster import Cluster
from migrations.diff import Difference
from migrations.kernels import arrays
from migrations.room import Room
from migrations.traffic import Traffic
from solvers.problem import Float64


def initial_state(
    cluster: Cluster, change: Difference, traffic: Traffic, allocation: Allocation
) -> arrays.State:
    """Everything a schedule knows at the start, in arrays of its own. O(N E + R)."""
    nodes, experts, limits = cluster.nodes, cluster.experts, cluster.limits
    serving, missing, superfluous = change.source.holds, change.missing, change.superfluous
    rates = np.array(cluster.rate)
    with np.errstate(divide="ignore"):
        pace: Float64 = 1.0 / rates

    columns = np.zeros(experts, arrays.COLUMN)
    columns["size"] = cluster.size
    columns["kind"] = np.unique(cluster.size, return_inverse=True)[1]
    columns["spare"] = serving.sum(axis=0, dtype=np.int64) - change.keep
    columns["wanted"] = missing.sum(axis=0)
    columns["dirty"] = 1

    records = np.zeros(nodes + 1, arrays.NODE)
    records["slots"] = limits.max_sends
    records["slots"][nodes] = limits.origin_max_sends
    records["waiting"][:nodes] = missing.sum(axis=1)
    records["spares"][:nodes] = superfluous.sum(axis=1)
    fastest, out = pace.min(axis=0), pace.min(axis=1)
    records["fastest"][:nodes] = np.where(np.isfinite(fastest), fastest, 0.0)
    records["remaining"][:nodes] = records["fastest"][:nodes] * (missing @ columns["size"])
    records["out_pace"] = np.where(np.isfinite(out), out, 0.0)
    records["origin"][:nodes] = traffic.origin

    pairs = np.zeros((nodes, experts), arrays.PAIR)
    pairs["serving"], pairs["target"] = serving, change.target.holds
    pairs["missing"], pairs["superfluous"] = missing, superfluous
    pairs["sender"] = allocation.sender
    node, column = np.nonzero((allocation.sender >= 0) & (allocation.sender < nodes))
    pairs["planned"][allocation.sender[node, column], column] = 1
    pairs["weight"], pairs["nearest"] = traffic.weight, traffic.nearest
    lists = []
    for flags in (missing, superfluous):
        members = np.zeros((nodes, experts), np.int64)
        for n in range(nodes):
            listed = np.flatnonzero(flags[n])
            members[n, : len(listed)] = listed
            pairs["position"][n, listed] = np.arange(len(listed))
        lists.append(members)

    senders = np.ones((experts, nodes + 1), bool)
    senders[:, :nodes] = serving.T
    holders = _words(senders)
    devices = [len(room.devices) for room in cluster.rooms]
    first_device = np.concatenate([[0], np.cumsum(devices)]).astype(np.int64)
    clock = np.zeros(1, arrays.CLOCK)
    clock["latency"] = traffic.before
    state = arrays.State(
        nodes=records,
        columns=columns,
        pairs=pairs,
        routes=traffic.routes.copy(),
        runs=np.zeros(nodes * limits.max_receives + 1, arrays.RUN),
        log=np.zeros(0, arrays.LOG),
        clock=clock,
        pace=pace,
        reach=_words((rates > 0).T),
        holders=holders,
        idle=np.zeros(holders.shape[1], np.uint64),
        scarce=np.zeros(holders.shape[1], np.uint64),
        pending=lists[0],
        surplus=lists[1],
        failed=np.zeros((nodes, int(columns["kind"].max(initial=0)) + 1), np.uint8),
        first_device=first_device,
        free=np.zeros(int(first_device[-1]), np.int64),
        distance=traffic.distance,
        cost=traffic.cost.copy(),
        route_columns=traffic.columns,
        first_route=traffic.first,
        route_index=traffic.index,
        coupled=traffic.coupled,
        receives=limits.max_receives,
        most=limits.max_copies or 0,
    )
    for n, room in enumerate(cluster.rooms):
        copy_layout(state, room, n)
    return state


def copy_layout(state: arrays.State, room: Room, node: int) -> None:
    """Let the kernels see on which device of a node what lies."""
    first = int(state.first_device[node])
    index = {device: first + i for i, device in enumerate(room.devices)}
    for device, i in index.items():
        state.free[i] = room.free[device]
    for column, device in room.place.items():
        state.pairs["place"][node, column] = index[device]


def _words(members: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> arrays.Words:
    """uint64[rows, senders // 64 + 1]: each row of `members`, which has a column per sender, as bits."""
    rows, senders = members.shape
    bits = np.zeros((rows, 64 * (senders // 64 + 1)), np.uint8)
    bits[:, :senders] = members
    return np.packbits(bits, axis=1, bitorder="little").view("<u8").astype(np.uint64)
