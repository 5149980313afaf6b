"""The three things that happen in a schedule: a copy starts, a copy ends, an expert is dropped."""

from __future__ import annotations

import numpy as np

from migrations.kernels.arrays import DROP, FINISH, START, Numbers, State
from migrations.kernels.latency import arrive, depart
from solvers.compiled import compiled


@compiled
def start(state: State, source: int, node: int, column: int) -> None:
    """Start a copy that has room now. O(devices)."""
    size = state.columns[column]["size"]
    if state.pairs[node, column]["missing"] != 0:
        state.pairs[node, column]["missing"] = 0
        state.columns[column]["wanted"] -= 1
        state.nodes[node]["waiting"] -= 1
        _close_gap(state, state.pending, node, column, state.nodes[node]["waiting"])
        state.nodes[node]["remaining"] -= size * state.nodes[node]["fastest"]
    device = roomiest(state, node)
    state.free[device] -= size
    state.pairs[node, column]["place"] = device
    state.columns[column]["arriving"] += 1
    state.nodes[node]["receiving"] += 1
    state.nodes[source]["sending"] += 1
    if source < state.pairs.shape[0]:
        state.pairs[source, column]["reading"] += 1
    run = state.clock[0]["running"]
    state.runs[run]["source"] = source
    state.runs[run]["node"] = node
    state.runs[run]["column"] = column
    state.runs[run]["entry"] = _note(state, START, source, node, column)
    state.runs[run]["end"] = state.clock[0]["seconds"] + size * state.pace[source, node]
    state.clock[0]["running"] += 1


@compiled
def drop(state: State, node: int, column: int) -> None:
    """Drop a column at once; it is missing again where the target has it. O(N + routes)."""
    _note(state, DROP, -1, node, column)
    size = state.columns[column]["size"]
    state.pairs[node, column]["serving"] = 0
    state.holders[column, node // 64] &= ~(np.uint64(1) << np.uint64(node % 64))
    state.columns[column]["spare"] -= 1
    state.free[state.pairs[node, column]["place"]] += size
    state.pairs[node, column]["parked"] = 0
    if state.pairs[node, column]["superfluous"] != 0:
        state.pairs[node, column]["superfluous"] = 0
        state.nodes[node]["spares"] -= 1
        _close_gap(state, state.surplus, node, column, state.nodes[node]["spares"])
    if state.pairs[node, column]["target"] != 0:
        state.pairs[node, column]["missing"] = 1
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
def _finish(state: State, run: int) -> None:
    """End a copy that runs: it serves from now on. O(N + routes)."""
    source, node = state.runs[run]["source"], state.runs[run]["node"]
    column, entry = state.runs[run]["column"], state.runs[run]["entry"]
    last = state.clock[0]["running"] - 1
    state.clock[0]["running"] = last
    state.runs[run] = state.runs[last]
    _note(state, FINISH, entry, node, column)
    state.columns[column]["arriving"] -= 1
    state.nodes[node]["receiving"] -= 1
    state.nodes[source]["sending"] -= 1
    if source < state.pairs.shape[0]:
        state.pairs[source, column]["reading"] -= 1
    state.pairs[node, column]["serving"] = 1
    state.holders[column, node // 64] |= np.uint64(1) << np.uint64(node % 64)
    state.columns[column]["spare"] += 1
    if state.pairs[node, column]["target"] == 0:
        state.pairs[node, column]["superfluous"] = 1
        at = state.nodes[node]["spares"]
        state.surplus[node, at] = column
        state.pairs[node, column]["position"] = at
        state.nodes[node]["spares"] = at + 1
    for n in range(state.pairs.shape[0]):
        if state.pairs[n, column]["serving"] != 0:
            _may_have_room(state, n)
    state.columns[column]["dirty"] = 1
    arrive(state, node, column)


@compiled
def step(state: State) -> None:
    """Move the clock to the next end of a copy and finish all that end then, in the order they started."""
    now = np.inf
    for run in range(state.clock[0]["running"]):
        now = min(now, state.runs[run]["end"])
    state.clock[0]["area"] += state.clock[0]["latency"] * (now - state.clock[0]["seconds"])
    state.clock[0]["seconds"] = now
    while True:
        first = -1
        for run in range(state.clock[0]["running"]):
            if state.runs[run]["end"] <= now and (
                first < 0 or state.runs[run]["entry"] < state.runs[first]["entry"]
            ):
                first = run
        if first < 0:
            return
        _finish(state, first)
        state.clock[0]["recount_in"] -= 1


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
    state.log[entry]["seconds"] = state.clock[0]["seconds"]
    state.clock[0]["entries"] = entry + 1
    return entry


@compiled
def _close_gap(state: State, members: Numbers, node: int, column: int, last: int) -> None:
    """Take the column out of the node's list, whose last member takes its place."""
    at = state.pairs[node, column]["position"]
    moved = members[node, last]
    members[node, at] = moved
    state.pairs[node, moved]["position"] = at


@compiled
def _may_have_room(state: State, node: int) -> None:
    for kind in range(state.failed.shape[1]):
        state.failed[node, kind] = 0
