"""The three things that happen in a schedule: a copy starts, a copy ends, an expert is dropped."""

from __future__ import annotations

import numpy as np

from migrations.kernels.arrays import DROP, FINISH, START, Shorts, State
from migrations.kernels.bits import has, members, put, remove
from migrations.kernels.latency import arrive, depart
from solvers.compiled import compiled


@compiled
def start(state: State, source: int, node: int, column: int) -> None:
    """Start a copy that has room now. O(devices)."""
    size = state.columns[column]["size"]
    if has(state.missing, column, node):
        _take_out(state, node, column)
        given = state.pairs[node, column]["sender"] - 1
        if 0 <= given < state.pairs.shape[0]:
            state.pairs[given, column]["planned"] -= 1
        if has(state.target, column, node):
            state.columns[column]["wanted"] -= 1
            if state.columns[column]["wanted"] == 0:
                cancel_relays(state, column)
    device = roomiest(state, node)
    state.free[device] -= size
    if state.first_device[node + 1] - state.first_device[node] > 1:
        state.pairs[node, column]["place"] = device
    state.columns[column]["arriving"] += 1
    state.nodes[node]["receiving"] += 1
    state.nodes[source]["sending"] += 1
    if state.nodes[source]["sending"] >= state.nodes[source]["slots"]:
        remove(state.idle, 0, source)
    if source < state.pairs.shape[0]:
        state.pairs[source, column]["reading"] += 1
    run = state.clock[0]["running"]
    end = state.clock[0]["seconds"] + size * state.pace[source, node]
    state.runs[run]["source"] = source
    state.runs[run]["node"] = node
    state.runs[run]["column"] = column
    state.runs[run]["entry"] = _note(state, START, source, node, column)
    state.runs[run]["end"] = end
    state.nodes[source]["free_at"] = min(state.nodes[source]["free_at"], end)
    state.clock[0]["running"] += 1


@compiled
def cancel_relays(state: State, column: int) -> bool:
    """No copy of the column starts any more to a node that is only to pass it on; whether one was to."""
    there = np.empty(state.pairs.shape[0] + 1, np.int64)
    found = False
    for i in range(members(state.missing, column, there)):
        node = there[i]
        if not has(state.target, column, node):
            _take_out(state, node, column)
            state.pairs[node, column]["parked"] = 0
            found = True
    return found


@compiled
def _take_out(state: State, node: int, column: int) -> None:
    """The node no longer waits for the column."""
    remove(state.missing, column, node)
    state.nodes[node]["waiting"] -= 1
    _close_gap(state, state.pending, node, column, state.nodes[node]["waiting"])
    state.nodes[node]["remaining"] -= state.columns[column]["size"] * state.nodes[node]["fastest"]


@compiled
def drop(state: State, node: int, column: int) -> None:
    """Drop a column at once; it is missing again where the target has it. O(calls of the column)."""
    _note(state, DROP, -1, node, column)
    size = state.columns[column]["size"]
    remove(state.holders, column, node)
    state.columns[column]["spare"] -= 1
    state.free[place_of(state, node, column)] += size
    state.pairs[node, column]["parked"] = 0
    if has(state.superfluous, column, node):
        remove(state.superfluous, column, node)
        state.nodes[node]["spares"] -= 1
        _close_gap(state, state.surplus, node, column, state.nodes[node]["spares"])
    if has(state.target, column, node):
        put(state.missing, column, node)
        state.columns[column]["wanted"] += 1
        at = state.nodes[node]["waiting"]
        state.pending[node, at] = column
        state.pairs[node, column]["position"] = at
        state.nodes[node]["waiting"] = at + 1
        state.nodes[node]["remaining"] += size * state.nodes[node]["fastest"]
    _may_have_room(state, node)
    state.columns[column]["dirty"] = 1
    depart(state, node, column)


@compiled
def _finish(state: State, source: int, node: int, column: int, entry: int) -> None:
    """A copy that ran has ended: it serves from now on. O(calls of the column + holders)."""
    _note(state, FINISH, entry, node, column)
    state.columns[column]["arriving"] -= 1
    state.nodes[node]["receiving"] -= 1
    state.nodes[source]["sending"] -= 1
    put(state.idle, 0, source)
    if source < state.pairs.shape[0]:
        state.pairs[source, column]["reading"] -= 1
    put(state.holders, column, node)
    state.columns[column]["spare"] += 1
    if not has(state.target, column, node):
        put(state.superfluous, column, node)
        at = state.nodes[node]["spares"]
        state.surplus[node, at] = column
        state.pairs[node, column]["position"] = at
        state.nodes[node]["spares"] = at + 1
    nodes = state.pairs.shape[0]
    there = np.empty(nodes + 1, np.int64)
    for i in range(members(state.holders, column, there)):
        if there[i] < nodes:
            _may_have_room(state, there[i])
    state.columns[column]["dirty"] = 1
    arrive(state, node, column)


@compiled
def step(state: State) -> None:
    """Move the clock to the next end of a copy and finish all that end then, in the order they started. O(N +
    copies that run), and what ends."""
    running = state.clock[0]["running"]
    now = np.inf
    for run in range(running):
        now = min(now, state.runs[run]["end"])
    state.clock[0]["area"] += state.clock[0]["latency"] * (now - state.clock[0]["seconds"])
    state.clock[0]["seconds"] = now
    ended = np.empty((running, 4), np.int64)
    count, kept = 0, 0
    for m in range(len(state.nodes)):
        state.nodes[m]["free_at"] = np.inf
    for run in range(running):
        source, end = state.runs[run]["source"], state.runs[run]["end"]
        if end <= now:
            ended[count, 0] = state.runs[run]["entry"]
            ended[count, 1] = source
            ended[count, 2] = state.runs[run]["node"]
            ended[count, 3] = state.runs[run]["column"]
            count += 1
        else:
            state.runs[kept] = state.runs[run]
            state.nodes[source]["free_at"] = min(state.nodes[source]["free_at"], end)
            kept += 1
    state.clock[0]["running"] = kept
    for i in np.argsort(ended[:count, 0]):
        _finish(state, ended[i, 1], ended[i, 2], ended[i, 3], ended[i, 0])
    state.clock[0]["recount_in"] -= count


@compiled
def place_of(state: State, node: int, column: int) -> int:
    """The device on which a node has an expert. It is noted only where there are several."""
    first: int = state.first_device[node]
    return first if state.first_device[node + 1] - first == 1 else state.pairs[node, column]["place"]


@compiled
def roomiest(state: State, node: int) -> int:
    """The device of the node with the most free bytes, the first among equals."""
    best: int = state.first_device[node]
    for device in range(best + 1, state.first_device[node + 1]):
        if state.free[device] > state.free[best]:
            best = device
    return best


@compiled
def _note(state: State, kind: int, source: int, node: int, column: int) -> int:
    entry: int = state.clock[0]["entries"]
    state.log[entry]["kind"] = kind
    state.log[entry]["source"] = source
    state.log[entry]["node"] = node
    state.log[entry]["column"] = column
    state.log[entry]["place"] = place_of(state, node, column)
    state.log[entry]["seconds"] = state.clock[0]["seconds"]
    state.clock[0]["entries"] = entry + 1
    return entry


@compiled
def _close_gap(state: State, listed: Shorts, node: int, column: int, last: int) -> None:
    """Take the column out of the node's list, whose last member takes its place."""
    at = state.pairs[node, column]["position"]
    moved = listed[node, last]
    listed[node, at] = moved
    state.pairs[node, moved]["position"] = at


@compiled
def _may_have_room(state: State, node: int) -> None:
    for kind in range(state.failed.shape[1]):
        state.failed[node, kind] = 0
