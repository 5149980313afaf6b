"""The ledger before the first move."""

from __future__ import annotations

import numpy as np

from migrations.allocation import Allocation
from migrations.diff import Difference
from migrations.kernels import arrays
from migrations.model import Limits
from migrations.timing import copy_rates
from migrations.traffic import Traffic, words_of
from solvers.feasible.packing import pack
from solvers.problem import Bools, Float64, Int32, Int64, PlacementProblem


def initial_state(
    problem: PlacementProblem, change: Difference, limits: Limits, traffic: Traffic, allocation: Allocation
) -> arrays.State:
    """Everything a schedule knows at the start, in arrays of its own. O(N E) to set bits, and what moves."""
    nodes, experts = problem.nodes, problem.experts
    missing, superfluous = change.missing, change.superfluous
    rates = copy_rates(problem, limits)
    with np.errstate(divide="ignore"):
        pace: Float64 = 1.0 / rates

    columns = np.zeros(experts, arrays.COLUMN)
    columns["size"] = problem.column_bytes
    columns["kind"] = np.unique(problem.column_bytes, return_inverse=True)[1]
    columns["spare"] = change.source.holds.sum(axis=0, dtype=np.int64) - change.keep
    relays = missing & (change.target.holds == 0)
    columns["wanted"] = missing.sum(axis=0) - relays.sum(axis=0)
    columns["dirty"] = 1

    records = np.zeros(nodes + 1, arrays.NODE)
    records["slots"] = limits.max_sends
    records["slots"][nodes] = limits.origin_max_sends
    records["free_at"] = np.inf
    records["waiting"][:nodes] = missing.sum(axis=1)
    records["spares"][:nodes] = superfluous.sum(axis=1)
    fastest, out = pace.min(axis=0), pace.min(axis=1)
    records["fastest"][:nodes] = np.where(np.isfinite(fastest), fastest, 0.0)
    node, column = np.nonzero(missing)
    lacking = np.bincount(node, problem.column_bytes[column], nodes)
    records["remaining"][:nodes] = records["fastest"][:nodes] * lacking
    records["out_pace"] = np.where(np.isfinite(out), out, 0.0)
    records["origin"][:nodes] = traffic.origin

    # Zeros that nobody writes take no memory, so only pairs that move do.
    pairs = np.zeros((nodes, experts), arrays.PAIR)
    sender = allocation.sender[node, column]
    pairs["sender"][node, column] = 1 + sender
    peers = (sender >= 0) & (sender < nodes)
    np.add.at(pairs["planned"], (sender[peers], column[peers]), 1)
    pairs["parked"][relays] = 1

    device_node, device_capacity = problem.devices
    first_device = np.zeros(nodes + 1, np.int64)
    devices = np.maximum(np.bincount(device_node, minlength=nodes), 1)  # none: one that holds nothing
    first_device[1:] = np.cumsum(devices)
    holders = words_of(change.source.holds.T)
    holders[:, nodes // 64] |= np.uint64(1) << np.uint64(nodes % 64)
    idle = np.full((1, holders.shape[1]), ~np.uint64(0), np.uint64)
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
        reach=words_of((rates > 0).T),
        holders=holders,
        target=words_of(change.target.holds.T),
        missing=words_of(missing.T),
        superfluous=words_of(superfluous.T),
        idle=idle,
        scarce=np.zeros_like(idle),
        pending=_listed(pairs, missing),
        surplus=_listed(pairs, superfluous),
        failed=np.zeros((nodes, int(columns["kind"].max(initial=0)) + 1), np.uint8),
        first_device=first_device,
        free=np.zeros(int(first_device[-1]), np.int64),
        distance=traffic.distance,
        calls=traffic.calls.copy(),
        first_call=traffic.first_call,
        route_calls=traffic.route_calls,
        first_route=traffic.first_route,
        route_index=traffic.route_index,
        coupled=int(traffic.coupled),
        receives=limits.max_receives,
        most=limits.max_copies or 0,
    )
    alone = devices == 1
    capacity = np.zeros(nodes, np.int64)
    np.add.at(capacity, device_node, device_capacity)
    state.free[first_device[:-1][alone]] = (capacity - change.source.used_bytes(problem))[alone]
    for n in np.flatnonzero(~alone).tolist():
        held = np.flatnonzero(change.source.holds[n]).astype(np.int64)
        if not lay_out(problem, state, n, held):
            _overfill(problem, state, n, held)
    return state


def lay_out(problem: PlacementProblem, state: arrays.State, node: int, columns: Int64) -> bool:
    """Place these experts, all that a node with several devices holds or receives, anew; False, with nothing
    changed, where they cannot be packed."""
    layout = pack(problem, node, columns)
    if layout is None:
        return False
    device_node, _ = problem.devices
    own = np.flatnonzero(device_node == node)
    first = int(state.first_device[node])
    _place(problem, state, node, columns, (first + np.searchsorted(own, layout)).astype(np.int32))
    return True


def _overfill(problem: PlacementProblem, state: arrays.State, node: int, columns: Int64) -> None:
    """The placement in force may exceed a capacity that shrank: drops pay the debt before any copy."""
    device_node, device_capacity = problem.devices
    free = device_capacity[device_node == node].copy()
    place = np.zeros(len(columns), np.int32)
    for i in np.argsort(-problem.column_bytes[columns], kind="stable").tolist():
        place[i] = int(np.argmax(free))
        free[place[i]] -= problem.column_bytes[columns[i]]
    _place(problem, state, node, columns, (int(state.first_device[node]) + place).astype(np.int32))


def _place(problem: PlacementProblem, state: arrays.State, node: int, columns: Int64, devices: Int32) -> None:
    device_node, device_capacity = problem.devices
    first, last = state.first_device[node : node + 2].tolist()
    state.free[first:last] = device_capacity[device_node == node]
    np.subtract.at(state.free, devices, problem.column_bytes[columns])
    state.pairs["place"][node, columns] = devices


def _listed(pairs: arrays.Records, flags: Bools) -> arrays.Shorts:
    """int32[N, E]: the columns of each node where `flags` is set, and their positions noted in `pairs`."""
    listed = np.zeros(flags.shape, np.int32)
    node, column = np.nonzero(flags)
    count = np.bincount(node, minlength=len(flags))
    position = np.arange(len(node)) - np.repeat(np.cumsum(count) - count, count)
    listed[node, position] = column
    pairs["position"][node, column] = position
    return listed
